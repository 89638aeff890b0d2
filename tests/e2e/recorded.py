"""Make a finished run by hand what a cluster run leaves: a repository, receipts and a lock."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pistole.files import write_json
from pistole.lineage import dag, frozen, receipts, stale
from pistole.lineage.hashing import hash_paths
from pistole.lineage.tracking import stage_run
from tests.e2e.lineage_project import commit_code, git
from tests.e2e.micro import ROOT

FOLDERS = ("pistole", "profiles", "workflow", "envs", "docs")
FILES = ("dvc.yaml", ".gitignore", ".dvcignore")


def clone(finished: Path, folder: Path) -> Path:
    """Put a run's outputs into a committed clone of the project; the files are links."""
    linked = lambda place, _: {"pistole"} if Path(place) == finished else set()  # noqa: E731
    shutil.copytree(finished, folder, copy_function=os.link, ignore=linked)
    for name in FOLDERS:
        unclean = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=unclean)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    commit_code(folder)
    return folder


def record(folder: Path, last: str) -> None:
    """Leave a receipt of every stage, a lock of all but ``last``, and the token of that one."""
    table = stale.freeze(folder)
    frozen.start(folder, table)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ROOT", folder), ("STAGE", "")):
            patch.setenv(f"DVC_{name}", str(value))
        patch.setenv("PISTOLE_DAG", str(folder / frozen.TABLE))
        patch.setenv("PISTOLE_TRACKING", "receipts")
        for stage in table:
            patch.setenv("DVC_STAGE", stage["name"])
            with stage_run(stage["name"]):
                pass  # what it writes is there
    locked = [stage for stage in dag.load(folder) if stage["name"] != last]
    entries = {stage["name"]: _entry(folder, stage) for stage in locked}
    YAML().dump({"schema": "2.0", "stages": entries}, folder / "dvc.lock")
    key = receipts.latest(folder, last)["run_key"]
    write_json(folder / frozen.find(table, last)["token"], {"ran": True, "run_key": key})
    git(folder, "add", ".")
    git(folder, "commit", "-m", "results")


def _entry(folder: Path, stage: dag.Stage) -> dict[str, Any]:
    """A stage of dvc.lock, as ``dvc commit`` writes it but for sizes."""
    entry: dict[str, Any] = {"cmd": stage["cmd"][0] if len(stage["cmd"]) == 1 else stage["cmd"]}
    outs = [out["path"] for out in stage["outs"]]
    for side, paths in (("deps", stage["deps"]), ("outs", outs)):
        digests = hash_paths(folder, paths)
        entry[side] = [{"path": p, "hash": "md5", "md5": md5} for p, md5 in digests.items()]
    return entry | {"params": stage["params"]}
