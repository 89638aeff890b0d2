"""Write finished stages into dvc.lock, each only if its receipt is what is on disk now.

``dvc commit --force`` blesses whatever lies there. Here a stage that was edited during the run, or
whose outputs were, is refused, and dvc.lock keeps its old entry.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pistole.errors import UserError
from pistole.files import read_json, write_text
from pistole.lineage import dag, frozen, lockfile, receipts
from pistole.lineage.hashing import md5_path

if TYPE_CHECKING:
    from dvc.repo import Repo

FIELDS = ("cmd", "params", "deps", "outs")


def finished(root: str | Path) -> dict[str, str]:
    """Tell which stages the last cluster run has run.

    Args:
        root: the project's folder.

    Returns:
        Name -> key of the inputs that its job saw.

    Raises:
        UserError: there was no run.
    """
    keys = {}
    for stage in frozen.load(root):
        token = Path(root) / stage["token"]
        if token.is_file():
            keys[stage["name"]] = read_json(token, "start the run again").get("run_key")
    return {name: key for name, key in keys.items() if key}


def commit(root: str | Path, keys: dict[str, str]) -> dict[str, str]:
    """Commit stages in the order in which ``dvc repro`` would run them.

    Args:
        root: the project's folder.
        keys: name -> key of the inputs, of :func:`finished`.

    Returns:
        Name -> why the stage was refused; empty if all of them were committed.

    Raises:
        UserError: DVC cannot read the project.
    """
    from dvc.repo import lock_repo

    root = Path(root).resolve()
    refused: dict[str, str] = {}
    # DVC looks a stage up in the working folder. Under one lock it reads dvc.yaml once, not for
    # every stage.
    with contextlib.chdir(root), dag.open_repo(root) as repo, lock_repo(repo):
        stages = {stage["name"]: stage for stage in dag.stages_of(repo)}
        before = dag.producers(list(stages.values()))
        order = _order(repo)
        for name in [n for n in order if n in keys] + sorted(keys.keys() - set(order)):
            unsound = before.get(name, set()) & refused.keys()
            if unsound:
                reason = f"it read what {min(unsound)} wrote, which was refused"
            else:
                reason = _refusal(root, stages.get(name), name, keys[name])
            reason = reason or _commit(repo, root, name, keys[name])
            if reason:
                refused[name] = reason
    return refused


def _order(repo: "Repo") -> list[str]:
    from dvc.repo.reproduce import plan_repro
    from dvc.stage import PipelineStage

    return [
        stage.name for stage in plan_repro(repo.index.graph) if isinstance(stage, PipelineStage)
    ]


def _refusal(root: Path, stage: dag.Stage | None, name: str, key: str) -> str:
    """Say why a stage must not be committed; empty if its receipt is what is there."""
    if stage is None:
        return "dvc.yaml no longer has it"
    receipt = receipts.find(root, name, key)
    if receipt is None:
        return "it left no receipt of what it read and wrote"
    if receipts.identity(receipt) != receipt["id"]:
        return "its receipt was edited"
    for what in ("cmd", "params"):
        if receipt[what] != stage[what]:
            return f"its {what} changed since it ran"
    paths = {"deps": stage["deps"], "outs": [out["path"] for out in stage["outs"]]}
    for what, word in (("deps", "input"), ("outs", "output")):
        if set(paths[what]) != receipt[what].keys():
            return f"its list of {word}s changed since it ran"
        for path in _edited(root, receipt[what]):
            return f"its {word} {path} changed since it ran"
    return ""


def _edited(root: Path, digests: dict[str, str]) -> Iterator[str]:
    for path, digest in digests.items():
        if not (root / path).exists() or md5_path(root, path) != digest:
            yield path


def _commit(repo: "Repo", root: Path, name: str, key: str) -> str:
    """Commit one stage; if DVC saw something else than the check before, put dvc.lock back."""
    from dvc.exceptions import DvcException

    lock = root / lockfile.NAME
    old = lock.read_text(encoding="utf-8") if lock.is_file() else None
    try:
        repo.commit(name, force=True)
    except DvcException as error:
        raise UserError(f"{name}: dvc commit: {error}: see `dvc status`") from error
    seen: Mapping[str, Any] = lockfile.read(root)[name]
    receipt = receipts.find(root, name, key) or {}
    changed = [what for what in FIELDS if seen[what] != receipt.get(what)]
    if not changed:
        return ""
    if old is None:
        lock.unlink()
    else:
        write_text(lock, old)
    return f"its {changed[0]} changed while it was committed"
