"""Write the MLflow runs that the store does not have yet, from the receipts."""

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.lineage import receipts
from pistole.lineage.record import from_measured
from pistole.lineage.runs import every_run
from pistole.lineage.store import import_client, open_store, write_run
from pistole.progress import counting


@dataclass
class Tracked:
    """What became of the receipts."""

    present: int = 0
    written: int = 0
    refused: list[str] = field(default_factory=list)


def track(root: str | Path, uri: str) -> Tracked:
    """Write a run for each receipt that has none; done twice, the second time does nothing.

    Args:
        root: the project's folder.
        uri: address of the store.

    Returns:
        How many runs there were, how many were written, and which receipts were refused, as they
        or their measured numbers were edited.

    Raises:
        UserError: a file among the receipts is none.
    """
    root = Path(root).resolve()
    folder = root / receipts.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    done = Tracked()
    with (folder.parent / "track.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = list(receipts.every(root))
        shown = _shown(uri)
        with counting("receipts", len(found)) as count:
            for receipt in found:
                _track_one(root, uri, receipt, shown, done)
                count()
    return done


def _shown(uri: str) -> dict[str, str]:
    """Return the finished runs of the store: identity of the receipt -> run."""
    open_store(uri)
    return {
        run.data.tags["pistole.receipt"]: run.info.run_id
        for run in every_run(import_client()(uri))
        if "pistole.receipt" in run.data.tags
        and (run.info.lifecycle_stage, run.info.status) == ("active", "FINISHED")
    }


def _track_one(
    root: Path, uri: str, receipt: Mapping[str, Any], shown: Mapping[str, str], done: Tracked
) -> None:
    run_id = shown.get(receipt["id"])
    if run_id is None:
        try:
            run_id = _write(root, uri, receipt)
        except UserError as error:
            done.refused.append(str(error))
            return
        done.written += 1
    else:
        done.present += 1
    receipts.set_run_id(root, receipt, run_id)


def _write(root: Path, uri: str, receipt: Mapping[str, Any]) -> str:
    if receipts.identity(receipt) != receipt["id"]:
        place = receipts.path_of(root, receipt["stage"], receipt["run_key"])
        raise UserError(f"{place} was edited: restore it, or run the stage again")
    run = from_measured(receipt["stage"], root, receipts.measured(root, receipt))
    record = {name: value for name, value in receipt.items() if name != "run_id"}
    return write_run(uri, run, record, {}, "FINISHED")
