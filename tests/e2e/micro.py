"""The demo at a size that a test can run: same code, a handful of images and steps."""

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
TRACKED = ("DVC_", "MLFLOW_", "PISTOLE_")  # what would make a command record itself in MLflow

MODELS = {
    "base": "base",
    "natural": "checkpoints/natural",
    "robust": "checkpoints/robust",
    "wise_ft": "merged/wise_ft",
    "vanilla": "merged/vanilla",
    "gism": "merged/gism",
    "pistole": "merged/pistole",
    "uniform_shrink": "merged/uniform_shrink",
    "permuted_mask_1": "merged/permuted_mask_1",
}
MICRO = {
    "profile": "micro",
    "threads": 1,
    "datasets": ["clutter", "shape"],
    "slices": {"finetune": 64, "score": 16, "measure": 16, "select": 16, "test": 16},
    "finetune.natural.steps": 3,
    "finetune.natural.batch_size": 16,
    "finetune.robust.steps": 3,
    "finetune.robust.batch_size": 16,
    "attack.train.steps": 1,
    "attack.calibration.steps": 2,
    "attack.select.steps": 2,
    "attack.evaluate.apgd_ce.steps": 3,
    "attack.evaluate.apgd_t.steps": 2,
    "attack.evaluate.apgd_t.targets": 2,
    "attack.evaluate.ladder": 4,
    "attack.evaluate.batch_size": 16,
    "stability.K": 2,
    "stability.pci.pairs": 2,
    "stability.batch_size": 8,
    "prepare.images": 8,
    "select.grid": [0, 0.5, 1],
    "frontier.grid": [0, 1],
    "frontier.images": 8,
    "methods": [name for name, place in MODELS.items() if place.startswith("merged/")],
    "models": {name: f"artifacts/{place}" for name, place in MODELS.items()},
    "frontier.methods": ["wise_ft", "vanilla", "pistole"],
    "theory.interference.kappas": [0, 1, 2],
    "theory.interference.gammas": [0.5, 1],
    "theory.interference.qs": [0.9, 1],
    "theory.interference.lambdas": [0, 1],
    "theory.interference.resamples": 3,
    "theory.merge_path.methods": ["vanilla", "pistole", "permuted_mask_1"],
    "theory.merge_path.samples": 4,
    "theory.merge_path.lambdas": [0, 1],
    "theory.merge_path.probes": 2,
    "theory.merge_path.iterations": 2,
    "theory.merge_path.pairs": 1,
    "theory.agreement.radii": [0, "1/255", "4/255"],
    "theory.linear_frontier.resamples": 20,
    "theory.conflict_map.samples": 16,
    "theory.pci_trace.samples": 8,
    "theory.pci_trace.etas": [0.003, 0.01],
    "theory.pci_trace.pairs": 2,
    "theory.pci_trace.probes": 2,
    "report.bootstrap": 200,
}
SOURCES = ("natural", "robust")
PREPARED = [["data", "index", "clutter"], ["data", "index", "shape"], ["base"]]
FINETUNED = [[stage, source] for stage in ("finetune", "vectors") for source in SOURCES]
SCORED = [*(["stability", source] for source in SOURCES), ["masks"]]


def write_micro(target: Path, **changes: Any) -> Path:
    """Write the micro parameters, with dotted keys in ``changes`` written as ``a__b``."""
    yaml = YAML()
    values = yaml.load(ROOT / "profiles" / "demo.yaml")
    for key, value in {**MICRO, **{k.replace("__", "."): v for k, v in changes.items()}}.items():
        place = values
        *parents, leaf = key.split(".")
        for parent in parents:
            place = place[parent]
        place[leaf] = value
    yaml.dump(values, target)
    return target


def environment() -> dict[str, str]:
    """Return the environment without what would make a command record itself in MLflow."""
    return {name: value for name, value in os.environ.items() if not name.startswith(TRACKED)}


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in ``folder``, untracked."""
    before = dict(os.environ)
    for name in before.keys() - environment().keys():
        del os.environ[name]
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.update(before)


def run_micro(folder: Path, commands: list[list[str]], **changes: Any) -> Path:
    """Write the micro parameters into ``folder`` and run commands there, in this process."""
    from pistole.cli import app

    write_micro(folder / "params.yaml", **changes)
    with inside(folder):
        for command in commands:
            app(command, standalone_mode=False)
    return folder


def status(*arguments: str) -> int:
    """Return the exit status of ``pistole ARGUMENTS``, run in this process."""
    from pistole.__main__ import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pistole", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
    return stopped.value.code


def everything() -> dict[str, tuple]:
    """Return all files and folders here, and what tells a file from another of its name."""
    found = {path: path.stat() for path in Path().rglob("*")}
    return {
        str(path): (stat.st_ino, stat.st_size, stat.st_mtime_ns) if path.is_file() else ()
        for path, stat in found.items()
    }


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail as a user's mistake does, and return its one line."""
    capsys.readouterr()
    before = everything()
    assert status(*arguments) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("pistole: ")
    assert written.err.count("\n") == 1, written.err
    assert everything() == before
    return written.err.removeprefix("pistole: ").strip()


def make_project(folder: Path, **changes: Any) -> Path:
    """Make a DVC project without git of the real dvc.yaml and a copy of the package."""
    from dvc.repo import Repo

    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pistole", folder / "pistole", ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    write_micro(folder / "params.yaml", **changes)
    with Repo.init(str(folder), no_scm=True) as repo, repo.config.edit() as config:
        config["core"] |= {"analytics": False, "check_update": False}
    return folder


def repro(*targets: str) -> int:
    """Do what ``dvc repro`` does, but run each stage's command in this process.

    That spares the imports of every stage, which cost more than its work here, and the record in
    MLflow, which is kept only of commands that DVC starts.
    """
    import dvc.stage.run
    from dvc.cli import main
    from dvc.stage.exceptions import StageCmdFailedError

    def run(executable: str, cmd: str, **_: Any) -> None:
        code = status(*shlex.split(cmd)[1:])
        if code:
            raise StageCmdFailedError(cmd, code)

    dvc.stage.run._run = run
    return main(["repro", *targets])
