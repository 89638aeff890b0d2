"""Commands around a run of workflow/Snakefile; the jobs themselves use none of them."""

import sys
from typing import Annotated

import typer

from pistole.cli.common import app
from pistole.errors import UserError


@app.command()
def commit(
    stages: Annotated[
        list[str] | None, typer.Argument(help="stages; default: all that the last run finished")
    ] = None,
) -> None:
    """Write what a cluster run finished into dvc.lock, if its receipts are what is on disk."""
    from pistole.lineage import commit as work

    keys = work.finished(".")
    for name in stages or []:
        if name not in keys:
            raise UserError(f"{name} was not run by the last cluster run: see `dvc status {name}`")
    chosen = {name: key for name, key in keys.items() if not stages or name in stages}
    refused = work.commit(".", chosen)
    for name, reason in refused.items():
        sys.stderr.write(f"refused {name}: {reason}: `dvc repro {name}` runs it again\n")
    typer.echo(f"dvc.lock: {len(chosen) - len(refused)} stages committed, {len(refused)} refused")
    if refused:
        raise typer.Exit(1)
