"""Compare what ``pistole plan --calibrate`` says with what stages take.

    python -m benchmarks.plan recorded FOLDER
    python -m benchmarks.plan run FOLDER --stage evaluate@base --stage stability@robust

FOLDER is a project of ``benchmarks.seeds``, whose params.yaml should have one thread. ``recorded``
sums the wall times in its seconds.tsv by kind of stage. ``run`` runs single stages there again, in
this process, and takes CPU time, so that other work on the machine hardly matters. The plan is
calibrated in CPU time in both cases.
"""

import contextlib
import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.seeds import leave_no_record
from pistole.cli import app as pistole
from pistole.lineage.dag import load_under
from pistole.params import load_params
from pistole.plan.planning import Plan, Row, make_plan

PARAMS = Path("params.yaml")
app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def recorded(folder: Path) -> None:
    """Compare the plan with seconds.tsv, by kind of stage."""
    with contextlib.chdir(folder):
        plan = make_plan(PARAMS, load_params(PARAMS), Path(), clock=time.process_time)
        lines = Path("seconds.tsv").read_text(encoding="utf-8").splitlines()
    took: dict[str, float] = {}
    for line in lines:
        name, seconds = line.split("\t")
        kind = _kind(name)
        took[kind] = took.get(kind, 0) + float(seconds)
    done = {line.split("\t")[0] for line in lines}
    for kind, seconds in took.items():
        _tell(
            plan, kind, [r for r in plan.rows if r.name in done and _kind(r.name) == kind], seconds
        )


def _kind(name: str) -> str:
    return name if name.startswith("theory") else name.partition("@")[0]


@app.command()
def run(folder: Path, stage: Annotated[list[str], typer.Option(help="its name in DVC")]) -> None:
    """Run single stages and compare them with the plan."""
    leave_no_record()
    with contextlib.chdir(folder):
        plan = make_plan(PARAMS, load_params(PARAMS), Path(), clock=time.process_time)
        commands = {s["name"]: s["cmd"] for s in load_under("dvc.yaml", PARAMS)}
        for name in stage:
            start = time.process_time()
            for command in commands[name]:
                pistole(shlex.split(command)[1:], standalone_mode=False)
            took = time.process_time() - start
            _tell(plan, name, [row for row in plan.rows if row.name == name], took)


def _tell(plan: Plan, name: str, rows: Iterable[Row], took: float) -> None:
    typical, bound = (
        3600 * sum(row.cost(plan.tower, plan.rate, bound=b)["hours"] or 0 for row in rows)
        for b in (False, True)
    )
    ratio = f", measured / typical {took / typical:.2f}" if typical > 1 else ""
    typer.echo(
        f"{name}: typical {typical:.1f} s, at most {bound:.1f} s, measured {took:.1f} s{ratio}"
    )


if __name__ == "__main__":
    app()
