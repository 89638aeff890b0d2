"""Commands on datasets: list those known, check one, index one for a run."""

from pathlib import Path
from typing import Annotated

import typer

from pistole.cli import completing
from pistole.cli.common import DATA, PARAMS, ParamsFile, app, stage_command

data_app = typer.Typer(no_args_is_help=True, help="List, check and index datasets.")
app.add_typer(data_app, name="data")

Name = Annotated[
    str, typer.Argument(help="name of the dataset", autocompletion=completing.named("datasets"))
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


@data_app.command("list")
def list_(
    suite: Annotated[
        str | None, typer.Option(help="only those of one table: paper, tecoa or pmg")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the registered datasets: images, classes, resolution, templates."""
    from pistole.stages import datasets as stage

    stage.show_registry(suite, as_json=as_json)


@data_app.command()
def check(
    dataset: Name,
    layout: Annotated[
        str | None, typer.Option(help="with --root: check this instead of params.yaml's")
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="the dataset's own folder or URL, or name on the hub")
    ] = None,
    decode: Annotated[int, typer.Option(help="images per split to decode", min=1)] = 500,
    sheet: Annotated[
        Path | None, typer.Option(help="contact sheet; default: data-check/DATASET.png")
    ] = None,
    subset: Annotated[
        bool, typer.Option("--subset", help="accept fewer test images than the registry's")
    ] = False,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Compare a dataset with the registry, decode a sample, and draw a contact sheet."""
    from pistole.stages import check as stage

    stage.run(
        stage.find(params, dataset, layout, root),
        sheet or Path("data-check") / f"{dataset}.png",
        decode=decode,
        subset=subset,
        as_json=as_json,
    )


@data_app.command()
def index(
    dataset: Name,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/data/DATASET")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """List sample ids, class names, templates and digests of one dataset."""
    stage_command(
        params,
        f"data@{dataset}",
        lambda stage, p, run: stage.run(p, dataset, out or DATA / dataset),
    )
