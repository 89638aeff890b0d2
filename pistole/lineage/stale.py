"""What DVC would run, for the jobs of a cluster run; only the process that starts it asks DVC."""

import secrets
from pathlib import Path

from pistole.errors import UserError
from pistole.lineage import dag, frozen, lockfile
from pistole.lineage.paths import overlapping

ID_BYTES = 6  # of a run's id, which only has to differ from those of the runs before


def freeze(root: str | Path = ".") -> list[frozen.Frozen]:
    """Ask DVC which stages are stale; dvc.lock decides it, never a file's time.

    Nothing is written. The id of the run is random, since it must be new; no result depends on it.

    Args:
        root: the project's folder.

    Returns:
        Every stage that is not frozen in dvc.yaml; ``stale`` are those that DVC calls changed, and
        all below them: whether one of those has to run is known when its inputs are there.

    Raises:
        UserError: DVC cannot read the project, or a stale stage keeps its outputs (persist).
    """
    with dag.open_repo(root) as repo:
        stages = dag.stages_of(repo)
        # DVC names a stage by its file, too, unless that is in the working folder.
        changed = {name.rpartition(":")[2] for name in repo.status()}
        place = Path(repo.root_dir) / lockfile.NAME
    locked = lockfile.parse(place.read_text(encoding="utf-8")) if place.is_file() else {}
    live = [stage for stage in stages if not stage["frozen"]]
    before = dag.producers(live)
    stale = _closure(changed & before.keys(), before)
    folder = frozen.TOKENS / secrets.token_hex(ID_BYTES)
    return [_freeze(s, stale, before, locked, folder, live) for s in live]


def _freeze(
    stage: dag.Stage,
    stale: set[str],
    before: dict[str, set[str]],
    locked: dict[str, lockfile.Entry],
    folder: Path,
    live: list[dag.Stage],
) -> frozen.Frozen:
    name = stage["name"]
    if name in stale and any(out["persist"] for out in stage["outs"]):
        raise UserError(f"{name} keeps its outputs (persist: true): run it with `dvc repro {name}`")
    made = [out["path"] for other in live if other["name"] in stale for out in other["outs"]]
    return frozen.Frozen(
        **stage,
        stale=name in stale,
        locked=locked.get(name),
        after=[str(folder / f"{other}.json") for other in sorted(before[name] & stale)],
        sources=[dep for dep in stage["deps"] if not overlapping(dep, made)],
        token=str(folder / f"{name}.json"),
    )


def _closure(names: set[str], before: dict[str, set[str]]) -> set[str]:
    """Add everything that reads, directly or not, from what these stages write."""
    while True:
        below = {name for name, sources in before.items() if sources & names} - names
        if not below:
            return names
        names = names | below
