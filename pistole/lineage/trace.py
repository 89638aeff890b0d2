"""Back from a file or a number to its sources: which stages made it, from what, and with what."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.files import read_json
from pistole.lineage import lockfile, receipts
from pistole.lineage.hashing import md5_path
from pistole.lineage.paths import overlapping

# Section of the report's metrics.json -> the stages that measured what is in it.
MEASURED_BY = {"models": "evaluate", "frontier": "frontier", "theory": "theory", "select": "select"}


@dataclass
class Trace:
    """A graph of stages; ``first`` are those that wrote what was asked for."""

    target: str
    first: list[str]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    number: float | None = None
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Put everything into JSON-able values.

        Returns:
            ``target``, ``number``, ``first``, ``stages`` and ``notes``.
        """
        return vars(self)


def trace(root: str | Path, target: str) -> Trace:
    """Follow a file, a folder or a number back to its sources.

    Args:
        root: the project's folder.
        target: a path; a key of a JSON output such as ``models.pistole.robust_mean``, alone or
            after its file and a colon; or a stage, a colon and one of its metrics in MLflow.

    Returns:
        The stages above it, each with command, parameters, inputs, outputs and circumstances.

    Raises:
        UserError: nothing in dvc.lock has that name, or there is no dvc.lock.
    """
    root = Path(root).resolve()
    lock = lockfile.read(root)
    owners = {path: name for name, entry in lock.items() for path in entry["outs"]}
    found = _find(root, target, lock, owners)
    only = _narrow(found, lock)
    waiting = list(found.first)
    while waiting:
        name = waiting.pop(0)
        if name in found.stages:
            continue
        stage = _describe(root, name, lock[name], owners)
        if only and name in found.first:
            stage["inputs"] = [row for row in stage["inputs"] if set(row["from"]) & only]
            for row in stage["inputs"]:
                row["from"] = [above for above in row["from"] if above in only]
            found.notes.append(f"of {name}'s inputs only those that hold the number are followed")
        found.stages[name] = stage
        waiting += [above for row in stage["inputs"] for above in row["from"]]
    return found


def _find(
    root: Path, target: str, lock: Mapping[str, lockfile.Entry], owners: Mapping[str, str]
) -> Trace:
    """Find the stages that wrote the target: as a path, as a key of a file, as a stage's metric."""
    path = _relative(root, target)
    writers = sorted({owners[out] for out in overlapping(path, owners)})
    if writers:
        return Trace(path, writers, notes=_content(root, path, lock, owners))
    readers = [name for name, entry in lock.items() if path in entry["deps"]]
    if readers:
        return Trace(path, [], notes=[f"{path} is a source: no stage writes it"])
    head, _, tail = target.rpartition(":")
    if head in lock:
        return _of_stage(root, head, tail, lock[head])
    for file in [_relative(root, head)] if head else sorted(owners, key=_depth):
        number = _number(root / file, tail) if file in owners else None
        if number is not None:
            notes = _content(root, file, lock, owners)
            return Trace(f"{file}:{tail}", [owners[file]], number=number, notes=notes)
    remedy = "give a path of dvc.lock, or a key such as models.pistole.robust_mean"
    raise UserError(f"{target} is no output, input or number of the project: {remedy}")


def _of_stage(root: Path, stage: str, metric: str, entry: lockfile.Entry) -> Trace:
    receipt = receipts.find(root, stage, lockfile.key_of(entry))
    rows = receipts.measured(root, receipt)["metrics"] if receipt else []
    values = [float(value) for name, value, *_ in rows if name == metric]
    if not values:
        known = ", ".join(sorted({row[0] for row in rows})) or "none"
        raise UserError(f"{stage} measured no {metric}: it measured {known}")
    notes = [f"the last of {len(values)} values"] if len(values) > 1 else []
    return Trace(f"{stage}:{metric}", [stage], number=values[-1], notes=notes)


def _narrow(found: Trace, lock: Mapping[str, lockfile.Entry]) -> set[str]:
    """Name the stages that measured a number which a later stage only collects."""
    _, colon, key = found.target.rpartition(":")
    section, _, rest = key.partition(".")
    kind = MEASURED_BY.get(section)
    if not colon or found.number is None or kind is None or found.target.partition(":")[0] in lock:
        return set()
    items = {name: name.partition("@") for name in lock}
    return {
        name
        for name, (stage, at, item) in items.items()
        if stage == kind and (not at or f"{rest}.".startswith(f"{item}."))
    }


def _describe(
    root: Path, name: str, entry: lockfile.Entry, owners: Mapping[str, str]
) -> dict[str, Any]:
    receipt = receipts.find(root, name, lockfile.key_of(entry))
    inputs = []
    for path, md5 in sorted(entry["deps"].items()):
        above = sorted({owners[out] for out in overlapping(path, owners)} - {name})
        inputs.append({"path": path, "md5": md5, "from": above})
    known = ("run_id", "user", "host", "started", "seconds", "engine", "slurm_job")
    known = (*known, "code", "environment")
    about = {part: receipt[part] if receipt else None for part in known}
    return {**entry, "inputs": inputs, **about}


def _content(
    root: Path, path: str, lock: Mapping[str, lockfile.Entry], owners: Mapping[str, str]
) -> list[str]:
    """Say so where the file is not what dvc.lock records; it then has another origin."""
    notes = []
    for out in overlapping(path, owners):
        place = root / out
        recorded = lock[owners[out]]["outs"][out]
        if not place.exists():
            notes.append(f"{out} is not on disk; dvc.lock knows it")
        elif md5_path(root, out) != recorded:
            notes.append(f"{out} is NOT what dvc.lock records: run pistole audit")
    return notes


def _number(file: Path, key: str) -> float | None:
    """Look up a dotted key, whose parts may hold dots themselves, in a JSON file."""
    if file.suffix != ".json" or not file.is_file():
        return None
    return next(_values(read_json(file), key), None)


def _values(value: Any, key: str) -> Iterator[float]:
    if not key:
        if isinstance(value, int | float):
            yield float(value)
        return
    rows = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        rows = ((str(number), item) for number, item in enumerate(value))
    for name, item in rows:
        if key == name or key.startswith(f"{name}."):
            yield from _values(item, key[len(name) + 1 :])


def _relative(root: Path, target: str) -> str:
    place = Path(target)
    if place.is_absolute() and place.is_relative_to(root):
        place = place.relative_to(root)
    return target.rstrip("/") if place.is_absolute() else place.as_posix()


def _depth(path: str) -> tuple[int, str]:
    """Prefer the project's own files: report/metrics.json before a model's folder."""
    return path.count("/"), path
