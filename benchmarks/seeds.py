"""Run a whole profile under one seed, without DVC: for tables over several seeds.

    python -m benchmarks.seeds PROFILE SEED FOLDER --threads 1

makes FOLDER as a clone of this repository, writes its params.yaml from the profile with that seed,
and runs the commands of dvc.yaml one after the other in one process, which saves the start of each.
A stage whose outputs are all there is left out, so a killed run goes on with the stage that it was
in. Profiles with data outside the repository look for it beside FOLDER.
``python -m benchmarks.seeds_report`` makes the table.
"""

import contextlib
import graphlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from pistole.lineage.dag import Stage, load

ROOT = Path(__file__).parents[1]


def run(
    profile: str,
    seed: int,
    folder: Path,
    threads: Annotated[int, typer.Option(help="torch threads; part of the result")] = 1,
    until: Annotated[str, typer.Option(help="stop before the first stage of this name")] = "",
) -> None:
    """Run the profile's stages for one seed."""
    make_project(read_profile(profile, seed, threads), folder)
    run_stages(folder, until=until)


def read_profile(name: str, seed: int, threads: int) -> dict[str, Any]:
    """Read a profile for one run.

    Args:
        name: of the profile.
        seed: of the run.
        threads: of torch.

    Returns:
        Its values, with their comments.
    """
    values = YAML().load(ROOT / "profiles" / f"{name}.yaml")
    values["seed"], values["threads"] = seed, threads
    return values


def make_project(values: dict[str, Any], folder: Path) -> None:
    """Make a clone of this repository, unless it is there, and write its params.yaml.

    Args:
        values: of params.yaml.
        folder: of the project.
    """
    if not folder.is_dir():
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    with (folder / "params.yaml").open("w", encoding="utf-8") as handle:
        YAML().dump(values, handle)


def leave_no_record() -> None:
    """Forget what would make a command of this process or its children record a run."""
    for name in [n for n in os.environ if n.startswith(("DVC_", "MLFLOW_"))]:
        del os.environ[name]


def run_stages(folder: Path, *, until: str = "", kinds: Collection[str] | None = None) -> None:
    """Run in this process the stages whose outputs are not all there, and note their seconds.

    Args:
        folder: of the project.
        until: stop before the first stage of this name.
        kinds: names of the stages to run, without their items; None = all.
    """
    sys.path.insert(0, str(folder.resolve()))
    from pistole.cli import app

    leave_no_record()
    with contextlib.chdir(folder):
        for stage in in_order(load()):
            kind = stage["name"].split("@")[0]
            if until and kind == until:
                break
            done = all(Path(out["path"]).exists() for out in stage["outs"])
            if stage["frozen"] or done or (kinds is not None and kind not in kinds):
                continue
            start = time.monotonic()
            for command in stage["cmd"]:
                app(shlex.split(command)[1:], standalone_mode=False)
            line = f"{stage['name']}\t{time.monotonic() - start:.1f}\n"
            with Path("seconds.tsv").open("a", encoding="utf-8") as times:
                times.write(line)


def in_order(stages: list[Stage]) -> list[Stage]:
    """Sort stages so that each comes after those whose outputs it reads.

    Args:
        stages: of the project.

    Returns:
        The same stages.
    """
    makers = {out["path"]: stage["name"] for stage in stages for out in stage["outs"]}
    graph = {
        stage["name"]: {
            maker
            for dep in stage["deps"]
            for path, maker in makers.items()
            if path == dep or path.startswith(f"{dep}/") or dep.startswith(f"{path}/")
        }
        for stage in stages
    }
    named = {stage["name"]: stage for stage in stages}
    return [named[name] for name in graphlib.TopologicalSorter(graph).static_order()]


if __name__ == "__main__":
    typer.run(run)
