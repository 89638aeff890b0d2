"""One MLflow run and one receipt per stage.

Under DVC (which sets DVC_STAGE) every stage is recorded; a command run by hand is recorded only if
MLFLOW_TRACKING_URI is set. Everything is kept in memory and written when the stage has ended, by a
process that imports mlflow in the meantime; a record that cannot be written costs one warning line,
never the stage's work (PISTOLE_TRACKING=strict makes it an error). PISTOLE_TRACKING=receipts leaves
the receipt alone, for ``pistole track`` to write the run later.
"""

import contextlib
import getpass
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.files import read_json
from pistole.lineage import code, dag, environment, receipts
from pistole.lineage.hashing import hash_paths, run_key
from pistole.lineage.record import StageRun, now
from pistole.lineage.writer import Writer
from pistole.progress import say


@dataclass
class Inputs:
    """What is known of a stage before it works."""

    root: Path
    home: Path
    code: dict[str, Any]
    writer: Writer | None
    stage: dag.Stage | None = None
    deps: dict[str, str] = field(default_factory=dict)
    key: str = ""
    finished: bool = False
    started: int = field(default_factory=lambda: now())


@contextlib.contextmanager
def stage_run(hint: str) -> Iterator[StageRun]:
    """Record what a stage read, wrote and measured.

    Args:
        hint: name of the stage when it runs outside DVC; DVC's own name wins.

    Yields:
        Where the stage leaves metrics, figures and tables.
    """
    run = StageRun(os.environ.get("DVC_STAGE", hint).rpartition(":")[2])
    inputs = _begin(run.stage)
    try:
        yield run
        if inputs:
            _finish(run, inputs)
    except BaseException as error:
        if inputs and not inputs.finished:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            told = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            with _tolerant(strict=False):
                _log(run, inputs, _record(run.stage, inputs, {}), status, {"error": told})
        raise
    finally:
        if inputs and inputs.writer:
            inputs.writer.close()


def tracking_uri(root: str | Path) -> str:
    """Return the address of the MLflow store: MLFLOW_TRACKING_URI, else a database in the project.

    Args:
        root: the project's folder.

    Returns:
        The address.

    Raises:
        UserError: the address is a folder: MLflow no longer keeps runs in files.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(root).resolve()}/mlflow.db"
    if "://" not in uri or uri.startswith("file:"):
        remedy = "write sqlite:///PATH.db, or the address of a server"
        raise UserError(f"MLFLOW_TRACKING_URI={uri} is a folder of files: {remedy}")
    return uri


def _begin(name: str) -> Inputs | None:
    """Describe the running stage before it works; None if it is not tracked."""
    under_dvc = "DVC_STAGE" in os.environ
    if not under_dvc and not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    root = _project()
    # In an experiment's copy of the project, which DVC removes, DVC_ROOT is the project itself.
    home = Path(os.environ.get("DVC_ROOT", root)).resolve()
    uri = tracking_uri(home)
    later = under_dvc and os.environ.get("PISTOLE_TRACKING") == "receipts"
    inputs = None
    with _tolerant():
        writer = None if later else Writer(uri)
        known = Inputs(root, home, code.state(root), writer)
        if under_dvc:
            known.stage = _describe(root, name)
            known.deps = hash_paths(root, known.stage["deps"])
            known.key = run_key(known.stage["cmd"], known.deps, known.stage["params"])
            receipts.remove(home, name, known.key)
        inputs = known
    return inputs


def _project() -> Path:
    """Return the folder of the project or of an experiment's copy of it, where the stage runs."""
    here = Path.cwd()
    return next((place for place in (here, *here.parents) if (place / ".dvc").is_dir()), here)


def _finish(run: StageRun, inputs: Inputs) -> None:
    """Write the receipt, which does not wait for a store that is down, then the run."""
    inputs.finished = True
    with _tolerant():
        if inputs.stage is None:
            _log(run, inputs, _record(run.stage, inputs, {}), "FINISHED")
            return
        outs = hash_paths(inputs.root, [out["path"] for out in inputs.stage["outs"]])
        record = _record(run.stage, inputs, outs)
        receipt = receipts.write(inputs.home, record, run.measured(inputs.root))
        run_id = _log(run, inputs, receipt, "FINISHED")
        receipts.set_run_id(inputs.home, receipt, run_id)


def _log(
    run: StageRun,
    inputs: Inputs,
    record: dict[str, Any],
    status: str,
    tags: dict[str, str] | None = None,
) -> str | None:
    if inputs.writer is None:
        return None
    content = {name: value for name, value in record.items() if name != "run_id"}
    return inputs.writer.write(run, content, tags or {}, status)


def _record(name: str, inputs: Inputs, outs: dict[str, str]) -> dict[str, Any]:
    record = {
        "stage": name,
        "user": _user(),
        "host": platform.node(),
        "started": inputs.started,
        "seconds": round((now() - inputs.started) / 1000, 3),
        "engine": os.environ.get("PISTOLE_ENGINE", "dvc" if "DVC_STAGE" in os.environ else "hand"),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "code": inputs.code,
        "environment": environment.describe(inputs.root),
    }
    if inputs.stage is None:
        return record
    cmd, params = inputs.stage["cmd"], inputs.stage["params"]
    lineage = {"run_key": inputs.key, "cmd": cmd, "deps": inputs.deps, "params": params}
    return record | lineage | {"outs": outs}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        return None


def _describe(root: Path, name: str) -> dag.Stage:
    """Ask DVC for the stage, unless the run froze the DAG in a file (PISTOLE_DAG)."""
    table = os.environ.get("PISTOLE_DAG")
    if not table:
        return dag.load_stage(root, name)
    found = [stage for stage in read_json(table) if stage["name"] == name]
    if not found:
        raise UserError(f"PISTOLE_DAG={table} has no stage {name}: freeze the DAG again")
    return found[0]


@contextlib.contextmanager
def _tolerant(strict: bool | None = None) -> Iterator[None]:
    """Turn a failure to record into one warning line, unless it is asked to be an error."""
    strict = os.environ.get("PISTOLE_TRACKING") == "strict" if strict is None else strict
    try:
        yield
    except Exception as error:
        if strict:
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        say(f"warning: this stage is not fully tracked: {text}")
