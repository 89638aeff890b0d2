"""Commands that tell where results come from, and whether everything agrees."""

import json
from enum import StrEnum
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


class Form(StrEnum):
    """How a trace is written."""

    tree = "tree"
    json = "json"
    mermaid = "mermaid"
    html = "html"


@app.command()
def trace(
    target: Annotated[
        str, typer.Argument(help="file, folder, key such as models.pistole.sum, or STAGE:METRIC")
    ],
    form: Annotated[Form, typer.Option("--format", help="how to write it")] = Form.tree,
    out: Annotated[Path | None, typer.Option(help="file to write; default: print")] = None,
    project: Project = HERE,
) -> None:
    """Follow a file or a number of the report back to its sources."""
    from pistole.lineage import drawing
    from pistole.lineage.trace import trace as follow

    found = follow(project, target)
    writers = {Form.tree: drawing.tree, Form.mermaid: drawing.mermaid, Form.html: drawing.page}
    _give(json.dumps(found.plain(), indent=2) if form is Form.json else writers[form](found), out)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="REV1", help="a git revision")],
    new: Annotated[
        str | None, typer.Argument(metavar="REV2", help="another; default: the files as they are")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    project: Project = HERE,
) -> None:
    """Tell what differs in data, params, code and results, and which stages that made stale."""
    from pistole.lineage.diff import compare, text

    found = compare(project, old, new)
    typer.echo(json.dumps(found, indent=2) if as_json else text(found))


def _give(text: str, out: Path | None) -> None:
    from pistole.files import write_text

    if out is None:
        typer.echo(text.rstrip("\n"))
    else:
        write_text(out, text if text.endswith("\n") else f"{text}\n")
