"""Commands on params.yaml, its profiles and the report; none of them computes."""

from pathlib import Path
from typing import Annotated

import typer

from pistole.cli import completing
from pistole.cli.common import (
    ARTIFACTS,
    PARAMS,
    AsJson,
    ParamsFile,
    app,
    stage_command,
)

profile_app = typer.Typer(no_args_is_help=True, help="Choose the values of params.yaml.")
app.add_typer(profile_app, name="profile")


@app.command()
def params(
    file: Annotated[Path, typer.Argument(help="parameters to show or check")] = PARAMS,
    check: Annotated[bool, typer.Option("--check", help="only validate")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="value, unit, bounds and meaning")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="token for the DAG")] = None,
    needs: Annotated[
        Path | None, typer.Option(help="with --out: also write which methods need what prepared")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Validate params.yaml, all mistakes at once; --explain tells what each key means."""
    from pistole.stages import params as stage

    if out is not None:
        stage_command(file, "params", lambda module, p, run: module.run(p, out, needs))
    else:
        stage.show(file, explain=explain and not check, as_json=as_json)


@app.command()
def schema(
    file: Annotated[Path, typer.Option(help="the exported schema")] = Path(
        "workflow/schemas/params.schema.json"
    ),
    page: Annotated[Path, typer.Option(help="the page of all keys")] = Path("docs/parameters.md"),
    check: Annotated[
        bool, typer.Option("--check", help="fail if a file is not up to date")
    ] = False,
) -> None:
    """Export the JSON schema of params.yaml, and the page of all its keys."""
    from pistole.stages import params as stage

    stage.export_schema(file, page, check=check)


@profile_app.command("list")
def profile_list(
    folder: Annotated[Path, typer.Option(help="folder of profiles")] = Path("profiles"),
    as_json: AsJson = False,
) -> None:
    """Show the profiles."""
    from pistole.stages import params as stage

    stage.show_profiles(folder, as_json=as_json)


@profile_app.command("use")
def profile_use(
    name: Annotated[
        str,
        typer.Argument(help="a name of 'pistole profile list'", autocompletion=completing.profiles),
    ],
    folder: Annotated[Path, typer.Option(help="folder of profiles")] = Path("profiles"),
    target: Annotated[Path, typer.Option(help="file to write")] = PARAMS,
) -> None:
    """Write params.yaml from a profile, comments kept, and prune what the new DAG does not know."""
    from pistole.stages import params as stage
    from pistole.stages.prune import prune as prune_stale

    stage.use(name, folder, target)
    if target.resolve() == PARAMS.resolve():
        prune_stale(target, ARTIFACTS)


@app.command()
def prune(params: ParamsFile = PARAMS, artifacts: Path = ARTIFACTS) -> None:
    """Remove outputs of datasets, models and methods that params.yaml no longer names."""
    from pistole.stages.prune import prune as prune_stale

    prune_stale(params, artifacts)


@app.command()
def show(
    report: Annotated[Path, typer.Option(help="folder of the report")] = Path("report"),
    as_json: Annotated[
        bool, typer.Option("--json", help="print the models' rows as JSON instead")
    ] = False,
) -> None:
    """Print the table of the report."""
    from pistole.stages import show as stage

    stage.run(report, as_json=as_json)


@app.command()
def times(
    report: Annotated[Path, typer.Option(help="folder of the report")] = Path("report"),
    project: Annotated[Path, typer.Option(help="folder of the DVC project")] = Path(),
    params: ParamsFile = PARAMS,
) -> None:
    """Write report/full.html: the page with time, cost and environment of every stage."""
    from pistole.params import load_params
    from pistole.plan.planning import make_plan
    from pistole.stages import times as stage

    plan = make_plan(params, load_params(params), project)
    costs = {
        row.name: row.cost(plan.tower, None, bound=False)["forward_equivalents"]
        for row in plan.rows
    }
    typer.echo(stage.run(project, report, costs))
