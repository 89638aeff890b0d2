"""One MLflow run and one receipt per stage.

Under DVC (which sets DVC_STAGE) every stage is recorded; a command run by hand is recorded only if
MLFLOW_TRACKING_URI is set. Everything is kept in memory and written when the stage has ended, by a
process that imports mlflow in the meantime; a record that cannot be written costs one warning line,
never the stage's work (PISTOLE_TRACKING=strict makes it an error).
"""

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pistole
from pistole import processes
from pistole.errors import UserError
from pistole.files import read_json, sha256_file, write_json
from pistole.lineage import dag
from pistole.lineage.hashing import hash_paths, run_key
from pistole.lineage.record import StageRun, now
from pistole.lineage.writer import Writer
from pistole.progress import say

RECEIPTS = Path(".pistole/receipts")
LOCK = Path("envs/runtime.txt")


@dataclass
class Inputs:
    """What is known of a stage before it works."""

    root: Path
    tags: dict[str, str]
    writer: Writer
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
            inputs.tags["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            with _tolerant(strict=False):
                _log(run, inputs, {}, status)
        raise
    finally:
        if inputs:
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
    if processes.rank() > 0:
        return None  # one of several processes of the same stage: the first one records it
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    uri = tracking_uri(root)
    inputs = None
    with _tolerant():
        known = Inputs(root, _circumstances(root, name), Writer(uri))
        if under_dvc:
            _receipt(root, name).unlink(missing_ok=True)
            known.stage = _describe(root, name)
            known.deps = hash_paths(root, known.stage["deps"])
            known.key = run_key(known.stage["cmd"], known.deps, known.stage["params"])
        inputs = known
    return inputs


def _finish(run: StageRun, inputs: Inputs) -> None:
    """Write the run, then the receipt; the receipt does not wait for a store that is down."""
    inputs.finished = True
    outs: dict[str, str] = {}
    run_id = None
    with _tolerant():
        if inputs.stage:
            outs = hash_paths(inputs.root, [out["path"] for out in inputs.stage["outs"]])
        with _tolerant():
            run_id = _log(run, inputs, outs, "FINISHED")
        if inputs.stage:
            receipt = _record(run.stage, inputs, outs) | {"run_id": run_id}
            write_json(_receipt(inputs.root, run.stage), receipt)


def _log(run: StageRun, inputs: Inputs, outs: dict[str, str], status: str) -> str:
    record = _record(run.stage, inputs, outs)
    return inputs.writer.write(run, record, inputs.tags, status)


def _record(name: str, inputs: Inputs, outs: dict[str, str]) -> dict[str, Any]:
    record = {
        "stage": name,
        "host": platform.node(),
        "started": inputs.started,
        "seconds": round((now() - inputs.started) / 1000, 3),
    }
    if inputs.stage is None:
        return record
    cmd, params = inputs.stage["cmd"], inputs.stage["params"]
    lineage = {"run_key": inputs.key, "cmd": cmd, "deps": inputs.deps, "params": params}
    return record | lineage | {"outs": outs}


def _describe(root: Path, name: str) -> dag.Stage:
    """Ask DVC for the stage, unless the run froze the DAG in a file (PISTOLE_DAG)."""
    table = os.environ.get("PISTOLE_DAG")
    if not table:
        return dag.load_stage(root, name)
    found = [stage for stage in read_json(table) if stage["name"] == name]
    if not found:
        raise UserError(f"PISTOLE_DAG={table} has no stage {name}: freeze the DAG again")
    return found[0]


def _circumstances(root: Path, name: str) -> dict[str, str]:
    """Return the tags that say where and with what code a stage runs; empty ones are left out."""
    lock = root / LOCK
    # DVC rewrites dvc.lock after every stage: that is no change of the code.
    changes = _git(root, "status", "--porcelain", "-uno", "--", ".", ":(exclude)dvc.lock")
    commit = _git(root, "rev-parse", "HEAD")
    tags = {
        "dvc.stage": name,
        "dvc.engine": os.environ.get(
            "PISTOLE_ENGINE", "dvc" if "DVC_STAGE" in os.environ else "hand"
        ),
        "git.commit": commit,
        "git.dirty": str(bool(changes)).lower() if commit else "",
        "host": platform.node(),
        "slurm.job": os.environ.get("SLURM_JOB_ID", ""),
        "pistole.version": pistole.__version__,
        "env.lock_sha256": sha256_file(lock) if lock.is_file() else "",
    }
    return {tag: value for tag, value in tags.items() if value}


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


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


def _receipt(root: Path, name: str) -> Path:
    return root / RECEIPTS / f"{name}.json"
