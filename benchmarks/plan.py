"""Compare what ``pistole plan --calibrate`` says of single stages with what they take.

    python -m benchmarks.plan FOLDER --stage evaluate@base --stage stability@robust

runs the stages in FOLDER, a project (of ``benchmarks.seeds``) whose earlier stages are done, one
after the other in this process. Both sides are CPU time of this process, so that other work on the
machine hardly matters; the params.yaml of FOLDER should have one thread.
"""

import contextlib
import os
import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from pistole.cli import app
from pistole.lineage.dag import load_under
from pistole.params import load_params
from pistole.plan.planning import make_plan


def run(folder: Path, stage: Annotated[list[str], typer.Option(help="its name in DVC")]) -> None:
    """Print plan, measurement and their ratio for each stage."""
    for name in [n for n in os.environ if n.startswith(("DVC_", "MLFLOW_"))]:
        del os.environ[name]  # a command that finds them records a run
    with contextlib.chdir(folder):
        file = Path("params.yaml")
        plan = make_plan(file, load_params(file), Path(), clock=time.process_time)
        rows = {row.name: row for row in plan.rows}
        commands = {s["name"]: s["cmd"] for s in load_under("dvc.yaml", file)}
        typer.echo("stage\ttypical s\tat most s\tmeasured s\tmeasured / typical")
        for name in stage:
            start = time.process_time()
            for command in commands[name]:
                app(shlex.split(command)[1:], standalone_mode=False)
            took = time.process_time() - start
            costs = [rows[name].cost(plan.tower, plan.rate, bound=b) for b in (False, True)]
            typical, bound = (3600 * (cost["hours"] or 0) for cost in costs)
            ratio = f"{took / typical:.2f}" if typical else ""
            typer.echo(f"{name}\t{typical:.1f}\t{bound:.1f}\t{took:.1f}\t{ratio}")


if __name__ == "__main__":
    typer.run(run)
