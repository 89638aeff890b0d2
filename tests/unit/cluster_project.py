"""A DAG of four stages, and a cluster run of it without Snakemake."""

from pathlib import Path

from pistole.lineage import frozen, job, receipts, stale
from pistole.lineage.commit import commit, finished
from pistole.lineage.hashing import hash_paths, run_key

DVC_YAML = """
stages:
  a:
    cmd: cat in.txt > a.txt
    deps: [in.txt]
    params: [x.y]
    outs: [a.txt]
    meta: {resources: {mem_mb: 300, cpus_per_task: 2, gpu: 1}}
  b:
    cmd: ["mkdir b", "cp a.txt b/b.txt"]
    deps: [a.txt]
    outs: [b: {type: dir}]
  c:
    cmd: echo $DVC_STAGE $PISTOLE_ENGINE > c.txt
    deps: [other.txt]
    outs: [c.txt]
  kept:
    frozen: true
    cmd: "false"
    outs: [kept.txt]
"""


def make_project(folder: Path) -> Path:
    from dvc.repo import Repo

    Repo.init(str(folder), no_scm=True).close()
    files = {"dvc.yaml": DVC_YAML, "in.txt": "in", "other.txt": "other"}
    for name, text in files.items():
        (folder / name).write_text(text)
    write_params(folder, 1)
    return folder


def write_params(project: Path, value: int) -> None:
    (project / "params.yaml").write_text(f"x: {{y: {value}}}\nz: 1\n")


def start(project: Path) -> dict[str, frozen.Frozen]:
    table = stale.freeze(project)
    frozen.start(project, table)
    return {stage["name"]: stage for stage in table}


def run(project: Path, *names: str) -> list[str]:
    """Run jobs, leave receipts as the stages of the real DAG do, and return their reasons."""
    reasons = []
    for name in names:
        stage = frozen.find(frozen.load(project), name)
        deps = hash_paths(project, stage["deps"])
        reasons.append(job.run(project, name))
        record = {
            "stage": name,
            "cmd": stage["cmd"],
            "params": stage["params"],
            "deps": deps,
            "outs": hash_paths(project, [out["path"] for out in stage["outs"]]),
            "run_key": run_key(stage["cmd"], deps, stage["params"]),
            "started": 1,
            "code": {},
            "environment": {},
        }
        receipts.write(project, record, {})
    return reasons


def all_committed(project: Path) -> Path:
    start(project)
    run(project, "a", "b", "c")
    assert commit(project, finished(project)) == {}
    return project
