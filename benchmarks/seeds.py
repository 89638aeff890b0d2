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
from pathlib import Path
from typing import Annotated

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
    if not folder.is_dir():
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    _write_params(profile, seed, threads, folder / "params.yaml")
    sys.path.insert(0, str(folder.resolve()))
    from pistole.cli import app

    for name in [n for n in os.environ if n.startswith(("DVC_", "MLFLOW_"))]:
        del os.environ[name]  # a command that finds them records a run
    with contextlib.chdir(folder):
        for stage in in_order(load()):
            if until and stage["name"].split("@")[0] == until:
                break
            if stage["frozen"] or all(Path(out["path"]).exists() for out in stage["outs"]):
                continue
            start = time.monotonic()
            for command in stage["cmd"]:
                app(shlex.split(command)[1:], standalone_mode=False)
            line = f"{stage['name']}\t{time.monotonic() - start:.1f}\n"
            with Path("seconds.tsv").open("a", encoding="utf-8") as times:
                times.write(line)


def _write_params(profile: str, seed: int, threads: int, target: Path) -> None:
    yaml = YAML()
    values = yaml.load(ROOT / "profiles" / f"{profile}.yaml")
    values["seed"], values["threads"] = seed, threads
    with target.open("w", encoding="utf-8") as handle:
        yaml.dump(values, handle)


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
