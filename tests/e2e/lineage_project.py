"""A small project under git and DVC, whose stages leave receipts and MLflow runs."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from pistole.lineage.environment import versions
from pistole.lineage.tracking import stage_run, tracking_uri
from tests.e2e.micro import ROOT, environment, inside

DVC_YAML = """
stages:
  data:
    cmd: stage data out/data
    deps: [stage.py, raw]
    params: [seed]
    outs:
      - out/data: {type: dir}
  train:
    matrix: {source: [natural, robust]}
    cmd: stage train out/checkpoints/${item.source} ${item.source}
    deps: [stage.py, out/data/images.txt]
    params: [seed, device, "lr.${item.source}"]
    outs:
      - out/checkpoints/${item.source}: {type: dir}
  merge:
    cmd: stage merge out/merged
    deps: [stage.py, out/checkpoints]
    params: [lam]
    outs:
      - out/merged: {type: dir}
  score:
    cmd: stage score out/score.csv report/score.json
    deps: [stage.py, out/merged, out/data]
    outs: [out/score.csv]
    metrics:
      - report/score.json: {cache: false}
"""
PARAMS = "seed: 1\ndevice: auto\nlr: {natural: 0.1, robust: 1.0e-4}\nlam: 0.5\n"
IDENTITY = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "n")
IDENTITY |= dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "e@example.org")
STAGES = ("data", "train@natural", "train@robust", "merge", "score")


def work(kind: str, out: Path, extra: str, run: Any) -> None:
    """Do what a stage does: its output depends on all that it reads."""
    if kind == "data":
        out.mkdir(parents=True)
        (out / "images.txt").write_text(Path("raw/pictures.txt").read_text().upper())
    elif kind == "train":
        out.mkdir(parents=True)
        images = Path("out/data/images.txt").read_text()
        (out / "weights.txt").write_text(f"{extra} {images}")
        for step in range(3):
            run.metric("loss", 1 / (step + 1), step)
        run.artifact(out / "weights.txt", "weights")
    elif kind == "merge":
        out.mkdir(parents=True)
        texts = [path.read_text() for path in sorted(Path("out/checkpoints").glob("*/*"))]
        (out / "visual.txt").write_text(Path("params.yaml").read_text()[-9:] + "".join(texts))
    else:
        score = len(Path("out/merged/visual.txt").read_text())
        out.write_text(f"score\n{score}\n")
        Path(extra).parent.mkdir(exist_ok=True)
        Path(extra).write_text(json.dumps({"models": {"merged": {"sum": score}}}))
        run.metric("sum", score)
        run.table("rows", [{"score": score}])


def main() -> None:
    """Be the command of a stage: ``stage KIND OUT [EXTRA]``."""
    _, kind, out, *extra = sys.argv
    with stage_run(kind) as run:
        work(kind, Path(out), "".join(extra), run)


def install(folder: Path) -> dict[str, str]:
    """Write the command of the stages; return the environment that DVC then needs."""
    command = folder / "stage"
    code = "from tests.e2e.lineage_project import main\nmain()\n"
    command.write_text(f"#!{sys.executable} -P\n{code}")
    command.chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    names = {"PATH": path, "PYTHONPATH": str(ROOT), "PISTOLE_TRACKING": "receipts"}
    return environment() | names | IDENTITY


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


def create(root: Path) -> Path:
    """Write the project, without results."""

    pins = "".join(f"{name}=={version}\n" for name, version in versions().items())
    files = {
        "stage.py": "code of every stage\n",
        "dvc.yaml": DVC_YAML,
        "params.yaml": PARAMS,
        "raw/pictures.txt": "pictures\n",
        "envs/runtime.txt": pins,
        ".gitignore": "/out\n/.pistole\n/mlflow.db*\n/mlartifacts\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    commit_code(root)
    return root


def commit_code(root: Path) -> None:
    """Make a folder a repository of git and DVC whose first commit is all that is in it."""
    from dvc.repo import Repo

    git(root, "init", "-b", "main")
    with Repo.init(str(root)) as repo, repo.config.edit() as config:
        config["core"] |= {"analytics": False, "check_update": False}
    git(root, "add", ".")
    git(root, "commit", "-m", "code")


def repro(root: Path, **variables: str) -> list[str]:
    """Do what ``dvc repro`` does with each stage in this process; return the stages that ran."""
    import dvc.stage.run
    from dvc.repo import Repo

    ran = []

    def run(executable: str, cmd: str, env: dict[str, str], **_: Any) -> None:
        _, kind, out, *extra = cmd.split()
        names = {name: env[name] for name in ("DVC_STAGE", "DVC_ROOT")}
        ran.append(names["DVC_STAGE"])
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"PISTOLE_TRACKING": "receipts", **names, **variables}.items():
                patch.setenv(name, value)
            with stage_run(kind) as record:
                work(kind, Path(out), "".join(extra), record)

    with pytest.MonkeyPatch.context() as patch, inside(root), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pygtrie, which DVC calls
        patch.setattr(dvc.stage.run, "_run", run)
        with Repo() as repo:
            repo.reproduce()
    return ran


def finish(root: Path) -> Path:
    """Run everything, write the MLflow runs, and commit."""
    from pistole.lineage.track import track

    assert sorted(repro(root)) == sorted(STAGES)
    with inside(root):
        assert track(root, tracking_uri(root)).written == len(STAGES)
    git(root, "add", ".")
    git(root, "commit", "-m", "results")
    return root


def copy(root: Path, target: Path) -> Path:
    """Copy a project with its store."""
    return Path(shutil.copytree(root, target, symlinks=True))
