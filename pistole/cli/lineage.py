"""Commands that tell where results come from, and whether everything agrees."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pistole.cli import completing
from pistole.cli.common import HERE, PARAMS, AsJson, ParamsFile, Project, app


@app.command()
def audit(
    project: Project = HERE,
    as_json: AsJson = False,
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
def track(project: Project = HERE, as_json: AsJson = False) -> None:
    """Write the MLflow runs that the store lacks, from the receipts of finished stages."""
    from pistole.lineage.track import track as write_missing
    from pistole.lineage.tracking import tracking_uri

    uri = tracking_uri(project)
    done = write_missing(project, uri)
    for told in done.refused:
        typer.echo(f"refused: {told}", err=True)
    counts = {"uri": uri, "written": done.written, "present": done.present}
    told = f"{uri}: {done.written} runs written, {done.present} were there"
    typer.echo(json.dumps(counts | {"refused": list(done.refused)}) if as_json else told)
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
    as_json: AsJson = False,
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


@app.command()
def crate(
    out: Annotated[Path, typer.Argument(help="folder to write; it must not exist")],
    as_json: AsJson = False,
    name: Annotated[str, typer.Option(help="title of the crate")] = "PISTOLE pipeline run",
    license_name: Annotated[
        str, typer.Option("--license", help="licence of the content: a URL, or words")
    ] = "not stated",
    project: Project = HERE,
) -> None:
    """Write a Workflow Run RO-Crate: files with digests, and an action per stage."""
    from pistole.lineage.crate import write_crate

    done = write_crate(project, out, name, license_name)
    told = f"{out}: {done['stages']} stages, {done['files']} files, {done['bytes']} bytes"
    typer.echo(json.dumps({"folder": str(out), **done}) if as_json else told)


statement_app = typer.Typer(
    no_args_is_help=True, help="State where an output comes from (in-toto)."
)
app.add_typer(statement_app, name="statement")


@statement_app.command("make")
def statement_make(
    path: Annotated[str, typer.Argument(help="an output, such as artifacts/merged/pistole")],
    key: Annotated[Path | None, typer.Option(help="private Ed25519 key (PEM) to sign with")] = None,
    out: Annotated[Path | None, typer.Option(help="file to write; default: print")] = None,
    project: Project = HERE,
) -> None:
    """Write an in-toto statement with SLSA provenance; signed it is a DSSE envelope."""
    from pistole.lineage.statement import make_statement, sign

    statement = make_statement(project, path)
    _give(json.dumps(sign(statement, key) if key else statement, indent=2, sort_keys=True), out)


@statement_app.command("verify")
def statement_verify(
    file: Annotated[Path, typer.Argument(help="what 'pistole statement make' wrote")],
    key: Annotated[Path | None, typer.Option(help="public Ed25519 key (PEM)")] = None,
    project: Project = HERE,
) -> None:
    """Check the signature of a statement and the digests of its subjects."""
    from pistole.lineage.statement import verify

    statement = verify(project, file, key)
    typer.echo(f"{file}: {len(statement['subject'])} files are as stated")


@app.command()
def card(
    model: Annotated[
        str,
        typer.Argument(
            help="row of the table whose model is merged",
            autocompletion=completing.named("methods"),
        ),
    ],
    base_model: Annotated[
        str | None, typer.Option(help="the base's name on the Hugging Face hub")
    ] = None,
    license_name: Annotated[
        str | None, typer.Option("--license", help="licence as the hub names it")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="file to write; default: print")] = None,
    project: Project = HERE,
    params: ParamsFile = PARAMS,
) -> None:
    """Write the model card of a merged model, with Hugging Face metadata."""
    from pistole.lineage.card import write_card
    from pistole.params import load_params

    _give(write_card(project, load_params(params), model, base_model, license_name), out)
