"""dvc.lock against dvc.yaml and params.yaml, and against the files on disk."""

from pistole.lineage import code
from pistole.lineage.audit.evidence import Evidence
from pistole.lineage.audit.findings import Report, short
from pistole.lineage.dag import Out, Stage
from pistole.lineage.hashing import files_of
from pistole.lineage.lockfile import Entry
from pistole.lineage.paths import inside, overlapping


def check_lock(evidence: Evidence, report: Report) -> None:
    """Compare each entry of dvc.lock with the stage as dvc.yaml and params.yaml have it now.

    Args:
        evidence: what there is.
        report: takes the findings.
    """
    for name, stage in evidence.stages.items():
        entry = evidence.lock.get(name)
        if entry is None:
            report.check("lock", name, "has no entry in dvc.lock", f"dvc repro {name}")
            continue
        differences = _differences(stage, entry)
        if differences and stage["frozen"]:
            report.notes.append(f"{name} is frozen; since it ran, {differences} changed")
            differences = ""
        problem = f"{differences} differ between dvc.lock and the project" if differences else None
        report.check("lock", name, problem, f"dvc repro {name}, or git checkout dvc.lock")


def check_outputs(evidence: Evidence, report: Report) -> None:
    """Compare each output on disk with dvc.lock.

    Args:
        evidence: what there is.
        report: takes the findings.
    """
    recorded = {md5: path for _, entry in evidence.locked() for path, md5 in entry["outs"].items()}
    for stage, entry in evidence.locked():
        for out in stage["outs"]:
            expected = entry["outs"].get(out["path"])
            if expected is None:
                continue  # told by check_lock
            found = evidence.disk.hash(out["path"])
            problem = None
            if found is None:
                problem = f"{out['path']} does not exist"
            elif found != expected:
                problem = f"{out['path']} is not what dvc.lock records"
                other = recorded.get(found)
                problem += f": it holds the content of {other}" if other else ""
            report.check("output", stage["name"], problem, _restore(out))


def check_inputs(evidence: Evidence, report: Report) -> None:
    """Compare each input with its producer's output, or a source on disk with dvc.lock.

    What an output that was already found wrong does to the stages below is not told again.

    Args:
        evidence: what there is.
        report: takes the findings.
    """
    owners = evidence.owners()
    made = {path: md5 for _, entry in evidence.locked() for path, md5 in entry["outs"].items()}
    for stage, entry in evidence.locked(frozen=False):
        for path, md5 in entry["deps"].items():
            sources = overlapping(path, owners)
            check = "producer" if sources else "input"
            problem = None
            if path in made:
                if made[path] != md5:
                    problem = f"{path} in dvc.lock is not what {owners[path]} wrote"
            elif evidence.disk.hash(path) != md5 and not _told(evidence, sources, made):
                problem = _mismatch(evidence, path, sources)
            remedy = f"undo the change, or dvc repro {stage['name']}"
            report.check(check, stage["name"], problem, remedy)


def check_strays(evidence: Evidence, report: Report) -> None:
    """Look for files that no stage wrote, in folders that hold several stages' outputs.

    Args:
        evidence: what there is.
        report: takes the findings.
    """
    owners = evidence.owners()
    tracked = set(code.git(evidence.root, "ls-files", "-z").split("\0"))
    folders = {
        path: stage["name"]
        for stage, entry in evidence.locked(frozen=False)
        for path in entry["deps"]
        if any(out != path and inside(out, path) for out in owners)
    }
    for folder, stage in folders.items():
        files = [
            file.relative_to(evidence.root).as_posix()
            for file in files_of(evidence.root, folder)
            if file.is_relative_to(evidence.root)
        ]
        known = _known(folder, owners, tracked)
        strays = [file for file in files if not known(file)]
        problem = f"{folder} holds {short(strays)}, which no stage wrote" if strays else None
        report.check("stray", stage, problem, f"remove them, or pistole prune; dvc repro {stage}")


def _differences(stage: Stage, entry: Entry) -> str:
    parts = [part for part in ("cmd",) if stage[part] != entry[part]]
    parts += ["inputs"] if set(stage["deps"]) != set(entry["deps"]) else []
    parts += ["outputs"] if {out["path"] for out in stage["outs"]} != set(entry["outs"]) else []
    for file in stage["params"].keys() | entry["params"].keys():
        now, then = stage["params"].get(file, {}), entry["params"].get(file, {})
        keys = [k for k in sorted(now.keys() | then.keys()) if now.get(k) != then.get(k)]
        parts += [f"{file}:{key}" for key in keys]
    return ", ".join(parts)


def _restore(out: Out) -> str:
    if out["cache"]:
        return f"dvc checkout --force {out['path']}"
    return f"git checkout -- {out['path']}"


def _told(evidence: Evidence, sources: list[str], made: dict[str, str]) -> bool:
    return any(evidence.disk.hash(source) != made.get(source) for source in sources)


def _mismatch(evidence: Evidence, path: str, sources: list[str]) -> str:
    if evidence.disk.hash(path) is None:
        return f"{path} does not exist"
    if any(inside(path, source) for source in sources):
        return f"{path} in dvc.lock is not what {evidence.owners()[sources[0]]} wrote"
    return f"{path} is not what dvc.lock records"


def _known(folder: str, owners: dict[str, str], tracked: set[str]):
    """Outputs and what git keeps; without git a folder with sources of its own tells nothing."""
    if tracked == {""}:
        return lambda file: True
    outs = [out for out in owners if inside(out, folder)]
    return lambda file: file in tracked or any(inside(file, out) for out in outs)
