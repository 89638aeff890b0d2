"""What differs between two lineages, and which stages that made stale."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.lineage import dag, lockfile
from pistole.lineage.code import git
from pistole.lineage.hashing import md5_path
from pistole.lineage.paths import inside, overlapping
from pistole.lineage.store import params_of

WORKSPACE = "workspace"


@dataclass
class State:
    """A lineage: dvc.lock of a revision, or the files as they are."""

    lock: dict[str, lockfile.Entry]
    tracked: frozenset[str]
    pending: set[str] = field(default_factory=set)  # changed since they ran

    def owners(self) -> dict[str, str]:
        """Say which stage writes which path.

        Returns:
            Path -> stage.
        """
        return {path: name for name, entry in self.lock.items() for path in entry["outs"]}


def compare(root: str | Path, old: str, new: str | None = None) -> dict[str, Any]:
    """Compare two lineages.

    Args:
        root: the project's folder.
        old: a git revision.
        new: another; None for the files as they are, where a stage may be changed but not yet run.

    Returns:
        ``old``, ``new``; ``data`` and ``code``: path -> the two digests; ``params``: key -> the two
        values; ``commands``: stage -> the two; ``stages``: name -> ``status`` (added, removed,
        changed, stale), ``why``, ``ran`` (whether the new side has its result already) and ``outs``
        (paths that differ); ``metrics`` as DVC compares them.

    Raises:
        UserError: git does not know a revision, or dvc.lock cannot be read.
    """
    root = Path(root).resolve()
    before = _revision(root, old)
    after = _revision(root, new) if new else _workspace(root)
    found: dict[str, Any] = {"old": old, "new": new or WORKSPACE}
    found |= _contents(before, after)
    for name in sorted(before.lock.keys() | after.lock.keys()):
        if name not in before.lock or name not in after.lock:
            status = "added" if name in after.lock else "removed"
            ran = name not in after.pending
            found["stages"][name] = {"status": status, "why": [], "ran": ran, "outs": []}
            continue
        own = _own_changes(name, before, after)
        through = _changed_inputs(name, before, after)
        if own or through:
            then, now = before.lock[name]["outs"], after.lock[name]["outs"]
            found["stages"][name] = {
                "status": "changed" if own else "stale",
                "why": own + through,
                "ran": name not in after.pending,
                "outs": _differing(then, now),
            }
    _spread(after, found["stages"])
    return found | {"metrics": _metrics(root, old, new)}


def text(found: Mapping[str, Any]) -> str:
    """Write a comparison as text.

    Args:
        found: of :func:`compare`.

    Returns:
        Lines.
    """
    lines = [f"{found['old']} -> {found['new']}"]
    for kind in ("data", "code", "params", "commands"):
        lines += [f"\n{kind}:"] if found[kind] else []
        lines += [f"  {key}: {_arrow(*pair)}" for key, pair in found[kind].items()]
    lines += ["\nstages:"] if found["stages"] else ["\nno stage differs"]
    for name, stage in found["stages"].items():
        result = ", ".join(stage["outs"]) or "same outputs"
        result = result if stage["ran"] else "not run yet"
        why = f" ({', '.join(stage['why'])})" if stage["why"] else ""
        lines.append(f"  {stage['status']:<8} {name}{why}: {result}")
    lines += ["\nresults:"] if found["metrics"] else []
    for file, values in found["metrics"].items():
        for key, value in values.items():
            lines.append(f"  {file}:{key}: {_arrow(value.get('old'), value.get('new'))}")
    return "\n".join(lines)


def _revision(root: Path, name: str) -> State:
    commit = git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").strip()
    if not commit:
        raise UserError(f"{name} is no git revision here: choose one of `git log --oneline`")
    prefix = git(root, "rev-parse", "--show-prefix").strip()
    lock = lockfile.parse(git(root, "show", f"{commit}:{prefix}dvc.lock"), f"{name}:dvc.lock")
    return State(
        lock, frozenset(git(root, "ls-tree", "-r", "-z", "--name-only", commit).split("\0"))
    )


def _workspace(root: Path) -> State:
    """Take commands, parameters and sources as they are now, all else from dvc.lock."""
    lock = lockfile.read(root)
    state = State({}, frozenset(git(root, "ls-files", "-z").split("\0")))
    stages = {stage["name"]: stage for stage in dag.load(root)}
    owners = {out["path"]: name for name, stage in stages.items() for out in stage["outs"]}
    for name, stage in stages.items():
        entry = lock.get(name)
        deps = {}
        for path in stage["deps"]:
            known = entry["deps"].get(path, "") if entry else ""
            deps[path] = known if overlapping(path, owners) else _hash(root, path)
        outs = entry["outs"] if entry else {out["path"]: "" for out in stage["outs"]}
        state.lock[name] = lockfile.Entry(
            cmd=stage["cmd"], deps=deps, params=stage["params"], outs=outs
        )
        same = entry and all(entry[part] == state.lock[name][part] for part in ("cmd", "params"))
        if not stage["frozen"] and not (entry and same and entry["deps"] == deps):
            state.pending.add(name)
    return state


def _hash(root: Path, path: str) -> str:
    try:
        return md5_path(root, path)
    except UserError:
        return "missing"


def _own_changes(name: str, before: State, after: State) -> list[str]:
    """List what differs in a stage itself: command, parameters and sources."""
    then, now = before.lock[name], after.lock[name]
    why = ["command"] if then["cmd"] != now["cmd"] else []
    for file in sorted(then["params"].keys() | now["params"].keys()):
        one, other = then["params"].get(file, {}), now["params"].get(file, {})
        keys = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
        why += keys if file == "params.yaml" else [f"{file}:{key}" for key in keys]
    made = {**before.owners(), **after.owners()}
    return why + [
        path for path in _differing(then["deps"], now["deps"]) if not overlapping(path, made)
    ]


def _contents(before: State, after: State) -> dict[str, Any]:
    """Compare data, code, parameters and commands of all stages together."""
    found: dict[str, Any] = {"data": {}, "code": {}, "stages": {}}
    tracked = before.tracked | after.tracked
    for path, pair in _pairs(_sources(before), _sources(after)).items():
        found["code" if _is_code(path, tracked) else "data"][path] = pair
    found["params"] = _pairs(_params(before), _params(after))
    commands = [{n: " && ".join(e["cmd"]) for n, e in s.lock.items()} for s in (before, after)]
    both = commands[0].keys() & commands[1].keys()
    found["commands"] = {n: pair for n, pair in _pairs(*commands).items() if n in both}
    return found


def _changed_inputs(name: str, before: State, after: State) -> list[str]:
    """List the inputs written by other stages that differ."""
    then, now = before.lock[name]["deps"], after.lock[name]["deps"]
    made = {**before.owners(), **after.owners()}
    return [path for path in _differing(then, now) if overlapping(path, made)]


def _spread(after: State, stages: dict[str, Any]) -> None:
    """Mark what lies below stages that are changed but not yet run."""
    owners = after.owners()
    waiting = sorted(name for name in after.pending if name in stages)
    while waiting:
        above = waiting.pop(0)
        for name, entry in after.lock.items():
            read = {owners[out] for path in entry["deps"] for out in overlapping(path, owners)}
            if above not in read or name == above:
                continue
            known = stages.setdefault(name, {"status": "stale", "why": [], "ran": True, "outs": []})
            if f"below {above}" not in known["why"]:
                known["why"].append(f"below {above}")
            if known["ran"]:
                known["ran"] = False
                waiting.append(name)


def _is_code(path: str, tracked: Iterable[str]) -> bool:
    return path.endswith(".py") or any(inside(f, path) and f.endswith(".py") for f in tracked)


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [k for k in sorted(one.keys() | other.keys()) if one.get(k) != other.get(k)]


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [one.get(key), other.get(key)] for key in _differing(one, other)}


def _params(state: State) -> dict[str, str]:
    """Return every leaf of the parameters that any stage reads."""
    found: dict[str, str] = {}
    for entry in state.lock.values():
        found |= params_of({"params": entry["params"]})
    return found


def _sources(state: State) -> dict[str, str]:
    """Return the digest of everything that stages read and none writes."""
    owners = state.owners()
    deps = {p: md5 for entry in state.lock.values() for p, md5 in entry["deps"].items()}
    return {path: md5 for path, md5 in deps.items() if not overlapping(path, owners)}


def _metrics(root: Path, old: str, new: str | None) -> dict[str, Any]:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        found = repo.metrics.diff(a_rev=old, b_rev=new or WORKSPACE)
    return found.get("diff", {})


def _arrow(one: Any, other: Any) -> str:
    short = [v[:12] if isinstance(v, str) and len(v) in (32, 36) else v for v in (one, other)]
    return " -> ".join("none" if value is None else str(value) for value in short)
