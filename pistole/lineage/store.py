"""Write one finished stage to MLflow. The only module that imports its client."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pistole.lineage.record import StageRun

EXPERIMENT = "pistole"
LINEAGE_FILE = "lineage.json"
LONGEST = 5000  # MLflow cuts params at 6000 and tags at 8000 characters, with only a warning
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100


def write_run(
    uri: str,
    run: "StageRun",
    record: Mapping[str, Any],
    tags: Mapping[str, str],
    status: str,
) -> str:
    """Write a stage as one MLflow run.

    Args:
        uri: address of the store.
        run: the stage's metrics, figures and tables.
        record: the receipt without its run id, or what is known of a run that leaves none. It
            becomes the artifact ``lineage.json`` too.
        tags: what else to say of the run.
        status: FINISHED, FAILED or KILLED.

    Returns:
        The run's id.
    """
    client_of = import_client()
    with _locked(uri):
        client = client_of(uri)
        experiment = _experiment(client, uri)
        fitting = {**tags_of(record), **{name: fit(value) for name, value in tags.items()}}
        created = client.create_run(experiment, record["started"], fitting, run.stage)
        run_id = created.info.run_id
        _log_values(client, run_id, run, record)
        for file, folder in run.files:
            client.log_artifact(run_id, str(file), folder or None)
        for name, table in run.tables.items():
            client.log_dict(run_id, table, name)
        client.log_dict(run_id, dict(record), LINEAGE_FILE)
        client.set_terminated(run_id, status, record["started"] + round(1000 * record["seconds"]))
    return run_id


def tags_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Say in tags what a record says, as far as one searches for it.

    Args:
        record: as :func:`write_run` takes it.

    Returns:
        Tag -> value, as MLflow keeps it; empty ones are left out.
    """
    code, environment = record["code"], record["environment"]
    tags = {
        "dvc.stage": record["stage"],
        "dvc.engine": record["engine"],
        "git.commit": code["commit"],
        "git.dirty": str(bool(code["changed"])).lower() if code["commit"] else None,
        "mlflow.user": record.get("user"),
        "host": record["host"],
        "slurm.job": record["slurm_job"],
        "device": environment["device"],
        "pistole.version": environment["versions"]["pistole"],
        "env.lock_sha256": environment["lock_sha256"],
        "pistole.receipt": record.get("id"),
    }
    if "run_key" in record:
        tags |= {"dvc.run_key": record["run_key"], "dvc.cmd": " && ".join(record["cmd"])}
        for table in ("deps", "outs"):
            tags[f"dvc.{table}"] = json.dumps(record[table], sort_keys=True)
    return {tag: fit(value) for tag, value in tags.items() if value}


def params_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Name the parameters that a stage has read.

    Args:
        record: as :func:`write_run` takes it.

    Returns:
        Dotted key -> value, as MLflow keeps it.
    """
    values: dict[str, str] = {}
    for file, params in record.get("params", {}).items():
        values |= flatten(params, "" if file == "params.yaml" else f"{file}:")
    return {name: fit(value) for name, value in values.items()}


def fit(text: str) -> str:
    """Keep a value that MLflow would cut as its digest; the whole is in ``lineage.json``.

    Args:
        text: the value.

    Returns:
        The value, or ``sha256:`` and its digest if it is too long.
    """
    if len(text) <= LONGEST:
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Name every leaf of nested parameters.

    Args:
        params: nested values.
        prefix: dotted key of the nest.

    Returns:
        Dotted key -> value (text as it is, all else as JSON).
    """
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def import_client() -> "type[MlflowClient]":
    """Import mlflow, which takes seconds, with telemetry and chatter off.

    Returns:
        Its client.
    """
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    return MlflowClient


def open_store(uri: str) -> None:
    """Create the database if there is none, and load what a write needs.

    Args:
        uri: address of the store.
    """
    client_of = import_client()
    with _locked(uri):
        client_of(uri)


@contextlib.contextmanager
def _locked(uri: str) -> Iterator[None]:
    """Let one process at a time create or write the database; a server needs no such help."""
    database = database_of(uri)
    if database is None:
        yield
        return
    with Path(f"{database}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def database_of(uri: str) -> Path | None:
    """Return the file of a store.

    Args:
        uri: address of the store.

    Returns:
        The database; None if the store is a server.
    """
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def _experiment(client: "MlflowClient", uri: str) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    database = database_of(uri)
    place = (database.parent / "mlartifacts").as_uri() if database else None
    return client.create_experiment(EXPERIMENT, artifact_location=place)


def _log_values(
    client: "MlflowClient", run_id: str, run: "StageRun", record: Mapping[str, Any]
) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    metrics = [Metric(name, value, time, step) for name, value, step, time in run.metrics]
    for batch in _batches(metrics, METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=batch)
    params = [Param(name, value) for name, value in params_of(record).items()]
    for batch in _batches(params, PARAMS_PER_BATCH):
        client.log_batch(run_id, params=batch)
    context = [InputTag("mlflow.data.context", "dep")]
    inputs = [
        DatasetInput(Dataset(path, digest, "local", json.dumps({"uri": path})), context)
        for path, digest in record.get("deps", {}).items()
    ]
    if inputs:
        client.log_inputs(run_id, datasets=inputs)


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
