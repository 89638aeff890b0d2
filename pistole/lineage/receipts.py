"""One receipt per finished run of a stage: what went in, what came out, with what and where.

A receipt is a small JSON file, ``.pistole/receipts/STAGE/KEY.json``, named by the key of the run's
inputs, so that the entry of dvc.lock leads to it; beside it ``KEY.metrics.json`` keeps what the
stage measured. Both together are enough to write the stage's MLflow run again. Nothing of them is
an output of DVC: they hold times, hosts and ids.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.files import read_json, sha256_file, write_json

FOLDER = Path(".pistole/receipts")
MEASURED = ".metrics.json"
LINEAGE = ("cmd", "deps", "params", "outs")
FIELDS = (*LINEAGE, "stage", "run_key", "id", "run_id", "metrics_sha256", "code", "environment")


def write(root: Path, record: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Write the receipt of a finished run, and what the stage measured beside it.

    Args:
        root: the project's folder.
        record: stage, run_key, cmd, deps, params, outs, host, started (ms since 1970), seconds,
            engine, slurm_job, code and environment.
        measured: metrics, tables and files of :meth:`pistole.lineage.record.StageRun.measured`.

    Returns:
        The receipt, without a run id until :func:`set_run_id` gives it one.
    """
    place = path_of(root, record["stage"], record["run_key"])
    values = place.with_suffix(MEASURED)
    write_json(values, measured)
    receipt = {**record, "metrics_sha256": sha256_file(values)}
    receipt |= {"id": identity(receipt), "run_id": None}
    write_json(place, receipt)
    return receipt


def set_run_id(root: Path, receipt: Mapping[str, Any], run_id: str | None) -> dict[str, Any]:
    """Note which MLflow run shows a receipt; its identity stays as it is.

    Args:
        root: the project's folder.
        receipt: the receipt.
        run_id: the run; None if there is none.

    Returns:
        The receipt with the run's id.
    """
    noted = {**receipt, "run_id": run_id}
    if noted != receipt:
        write_json(path_of(root, receipt["stage"], receipt["run_key"]), noted)
    return noted


def identity(receipt: Mapping[str, Any]) -> str:
    """Digest everything in a receipt but its run id, which a new store changes.

    Args:
        receipt: the receipt, with or without ``id`` and ``run_id``.

    Returns:
        64 hexadecimal digits (sha256).
    """
    content = {name: value for name, value in receipt.items() if name not in ("id", "run_id")}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def path_of(root: Path, stage: str, key: str) -> Path:
    """Name the file of a receipt.

    Args:
        root: the project's folder.
        stage: DVC's name of the stage.
        key: key of the run's inputs, of :func:`pistole.lineage.hashing.run_key`.

    Returns:
        Its path, whether it exists or not.
    """
    return Path(root) / FOLDER / stage / f"{key}.json"


def remove(root: Path, stage: str, key: str) -> None:
    """Forget a run whose stage starts again with the same inputs.

    Args:
        root: the project's folder.
        stage: DVC's name of the stage.
        key: key of the run's inputs.
    """
    path_of(root, stage, key).unlink(missing_ok=True)


def find(root: Path, stage: str, key: str) -> dict[str, Any] | None:
    """Read the receipt of the run that had these inputs.

    Args:
        root: the project's folder.
        stage: DVC's name of the stage.
        key: key of the run's inputs.

    Returns:
        The receipt; None if no run with these inputs has finished here.

    Raises:
        UserError: the file is no receipt.
    """
    place = path_of(root, stage, key)
    return read(place) if place.is_file() else None


def latest(root: Path, stage: str) -> dict[str, Any] | None:
    """Read the receipt of the stage's last finished run.

    Args:
        root: the project's folder.
        stage: DVC's name of the stage.

    Returns:
        The receipt; None if there is none.

    Raises:
        UserError: one of the stage's files is no receipt.
    """
    found = [read(place) for place in _files(Path(root) / FOLDER / stage)]
    return max(found, key=lambda receipt: receipt["started"], default=None)


def every(root: Path) -> Iterator[dict[str, Any]]:
    """Read all receipts of the project, by stage and key.

    Args:
        root: the project's folder.

    Yields:
        Each receipt.

    Raises:
        UserError: one of the files is no receipt.
    """
    folder = Path(root) / FOLDER
    for stage in sorted(folder.iterdir()) if folder.is_dir() else []:
        for place in _files(stage):
            yield read(place)


def read(place: Path) -> dict[str, Any]:
    """Read one receipt, whatever its digest says.

    Args:
        place: its file.

    Returns:
        The receipt.

    Raises:
        UserError: the file is no receipt.
    """
    receipt = read_json(place)
    absent = [name for name in FIELDS if not isinstance(receipt, dict) or name not in receipt]
    if absent:
        raise UserError(f"{place} has no {absent[0]}: remove it and run the stage again")
    return receipt


def measured(root: Path, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Read what the stage measured, if it is still what the receipt says.

    Args:
        root: the project's folder.
        receipt: the receipt.

    Returns:
        Metrics, tables and files.

    Raises:
        UserError: the file is missing, or its digest is another.
    """
    place = path_of(root, receipt["stage"], receipt["run_key"]).with_suffix(MEASURED)
    if not place.is_file():
        raise UserError(f"{place} does not exist: restore it, or run the stage again")
    if sha256_file(place) != receipt["metrics_sha256"]:
        raise UserError(f"{place} is not what its receipt says: restore it, or run the stage again")
    return read_json(place)


def _files(folder: Path) -> list[Path]:
    return [place for place in sorted(folder.glob("*.json")) if not place.name.endswith(MEASURED)]
