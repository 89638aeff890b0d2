"""What an audit looks at: the DAG, dvc.lock, the files themselves, and the receipts."""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.lineage import dag, lockfile, receipts
from pistole.lineage.audit.findings import Report
from pistole.lineage.hashing import md5_file, md5_path


class Disk:
    """Content of files and folders as it is now; each file is read once."""

    def __init__(self, root: Path) -> None:
        """Look at nothing yet.

        Args:
            root: the project's folder.
        """
        self._root = root
        self.md5_of = functools.cache(md5_file)
        self.hash = functools.cache(self._hash)

    def _hash(self, path: str) -> str | None:
        try:
            return md5_path(self._root, path, self.md5_of)
        except UserError:
            return None


@dataclass
class Evidence:
    """Everything but the MLflow runs, which are read meanwhile."""

    root: Path
    stages: dict[str, dag.Stage]
    lock: dict[str, lockfile.Entry]
    disk: Disk
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def locked(self, frozen: bool = True) -> list[tuple[dag.Stage, lockfile.Entry]]:
        """List the stages that dvc.lock knows.

        Args:
            frozen: the frozen ones too.

        Returns:
            Stage and entry, by name.
        """
        return [
            (stage, self.lock[name])
            for name, stage in self.stages.items()
            if name in self.lock and (frozen or not stage["frozen"])
        ]

    def owners(self) -> dict[str, str]:
        """Say which stage writes which path.

        Returns:
            Path -> stage.
        """
        return {out["path"]: name for name, s in self.stages.items() for out in s["outs"]}


def gather(root: Path, report: Report) -> Evidence | None:
    """Read the DAG, dvc.lock and the receipts that its entries lead to.

    Args:
        root: the project's folder.
        report: takes what is wrong with them.

    Returns:
        The evidence; None if dvc.lock cannot be read, so that there is nothing to compare with.

    Raises:
        UserError: the folder is no DVC project or its dvc.yaml is not valid.
    """
    try:
        lock = lockfile.read(root)
    except UserError as error:
        text, _, remedy = str(error).rpartition(": ")
        report.check("lock", lockfile.NAME, text, remedy)
        return None
    stages = {stage["name"]: stage for stage in dag.load(root)}
    evidence = Evidence(root, stages, lock, Disk(root))
    report.stages = len(stages)
    for name in sorted(lock.keys() - stages.keys()):
        report.notes.append(f"dvc.lock has {name}, which dvc.yaml no longer has; it is not used")
    for stage, entry in evidence.locked():
        _add_receipt(evidence, stage, entry, report)
    return evidence


def _add_receipt(
    evidence: Evidence, stage: dag.Stage, entry: lockfile.Entry, report: Report
) -> None:
    name = stage["name"]
    key = lockfile.key_of(entry)
    rerun = f"dvc repro --force --single-item {name}"
    try:
        receipt = receipts.find(evidence.root, name, key)
        last = None if receipt else receipts.latest(evidence.root, name)
    except UserError as error:
        report.check("receipt", name, str(error).partition(": ")[0], rerun)
        return
    if receipt is None and stage["frozen"]:
        report.notes.append(f"{name} is frozen: its outputs are taken as they are, without a run")
        return
    problem = None
    if receipt is None:
        problem = f"no run had the inputs that dvc.lock records{_difference(entry, last)}"
    elif receipts.identity(receipt) != receipt["id"]:
        problem = "the receipt was edited: it is not what its id says"
    elif any(receipt[part] != entry[part] for part in ("cmd", "deps", "params")):
        problem = "the receipt was edited: its inputs are not those of its run key"
    if report.check("receipt", name, problem, rerun) and receipt:
        evidence.receipts[name] = receipt


def _difference(entry: lockfile.Entry, receipt: dict[str, Any] | None) -> str:
    """Say in which inputs the last run differs."""
    if receipt is None:
        return ": the stage has no receipt at all"
    differing = [path for path, md5 in entry["deps"].items() if receipt["deps"].get(path) != md5]
    differing += [part for part in ("cmd", "params") if receipt[part] != entry[part]]
    return f": its last run differs in {', '.join(differing[:3])}" if differing else ""
