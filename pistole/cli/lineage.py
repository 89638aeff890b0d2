"""Commands that tell where results come from, and whether everything agrees."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pistole.cli.common import app

Project = Annotated[Path, typer.Option(help="folder of the DVC project")]
HERE = Path()


@app.command()
def audit(
    project: Project = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    allow: Annotated[
        list[str] | None, typer.Option(help="a check whose findings are no failure; repeatable")
    ] = None,
) -> None:
    """Check that files, dvc.lock, MLflow runs, code and environment agree; exit status 0 or 1."""
    from pistole.lineage.audit import audit as run_audit
    from pistole.lineage.audit.table import text
    from pistole.lineage.tracking import tracking_uri

    report = run_audit(project, tracking_uri(project), allow or ())
    typer.echo(json.dumps(report.plain(), indent=2) if as_json else text(report))
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def track(project: Project = HERE) -> None:
    """Write the MLflow runs that the store lacks, from the receipts of finished stages."""
    from pistole.lineage.track import track as write_missing
    from pistole.lineage.tracking import tracking_uri

    uri = tracking_uri(project)
    done = write_missing(project, uri)
    for told in done.refused:
        typer.echo(f"refused: {told}", err=True)
    typer.echo(f"{uri}: {done.written} runs written, {done.present} were there")
    raise typer.Exit(1 if done.refused else 0)
