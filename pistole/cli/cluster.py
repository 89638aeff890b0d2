"""Commands around a run of workflow/Snakefile; the jobs themselves use none of them."""

import json
import os
import sys
from typing import Annotated

import typer

from pistole.cli.common import AsJson, app
from pistole.errors import UserError


@app.command()
def commit(
    stages: Annotated[
        list[str] | None, typer.Argument(help="stages; default: all that the last run finished")
    ] = None,
    track: Annotated[
        bool, typer.Option("--track", help="then write the MLflow runs that the store lacks")
    ] = False,
    as_json: AsJson = False,
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
    counts = {"committed": sorted(chosen.keys() - refused.keys()), "refused": dict(refused)}
    told = f"dvc.lock: {len(chosen) - len(refused)} stages committed, {len(refused)} refused"
    typer.echo(json.dumps(counts, indent=2) if as_json else told)
    if track and os.environ.get("PISTOLE_TRACKING") != "receipts":
        _track(as_json)
    if refused:
        raise typer.Exit(1)


def _track(silent: bool) -> None:
    """Write the missing MLflow runs; a store that is down costs one line, never the commit."""
    from pistole.lineage.track import track
    from pistole.lineage.tracking import tracking_uri
    from pistole.progress import say

    try:
        done = track(".", tracking_uri("."))
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        say(f"warning: no MLflow runs were written: {told}: `pistole track` tries again")
        return
    for reason in done.refused:
        say(f"warning: no MLflow run was written: {reason}")
    if not silent:
        typer.echo(f"mlflow: {done.written} runs written, {done.present} were there")
