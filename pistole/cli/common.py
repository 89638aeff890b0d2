"""What the commands share: the application, their options, and how a stage is run."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import pistole
from pistole import processes
from pistole.cli import completing
from pistole.cli.layout import Ordered
from pistole.cli.running import DEBUG
from pistole.errors import UserError
from pistole.progress import QUIET, counting

app = typer.Typer(
    cls=Ordered,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Example: [bold]pistole doctor[/bold] says whether a run can start; "
    "[bold]dvc repro[/bold] runs all stages",
)

Project = Annotated[Path, typer.Option(help="folder of the DVC project")]
HERE = Path()
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
ARTIFACTS = Path("artifacts")
ParamsFile = Annotated[Path, typer.Option("--params", help="parameters of the run")]
Base = Annotated[Path, typer.Option(help="folder of 'pistole base'")]
DataRoot = Annotated[
    Path, typer.Option(help="folder with one folder of 'pistole data index' per dataset")
]
Natural = Annotated[Path, typer.Option(help="natural task vector")]
Robust = Annotated[Path, typer.Option(help="robust task vector")]
Masks = Annotated[Path, typer.Option(help="folder of 'pistole masks'")]
Prepared = Annotated[Path, typer.Option(help="folder with a folder of 'pistole prepare' each")]
FinetuneData = Annotated[
    Path | None,
    typer.Option(
        "--data", help="the fine-tuning dataset; default: artifacts/data/ and data.finetune"
    ),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="read .pt weights too, as allow_pickle: true does")
]
Source = Annotated[
    str, typer.Argument(help="natural or robust", autocompletion=completing.named("finetune"))
]
TOGETHER = ("finetune",)  # stages that several processes work on together
PARAMS = Path("params.yaml")
BASE = ARTIFACTS / "base"
DATA = ARTIFACTS / "data"
VECTORS = {s: ARTIFACTS / "vectors" / f"{s}.safetensors" for s in ("natural", "robust")}
MASKS = ARTIFACTS / "masks"
PREPARED = ARTIFACTS / "prepared"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pistole {pistole.__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    quiet: Annotated[
        bool, typer.Option("--quiet", help="say nothing on the way but warnings")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="print the traceback of an unexpected error")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Merge natural and robust CLIP task vectors with stability masks, reproducibly."""
    del version
    for name, wanted in ((QUIET, quiet), (DEBUG, debug)):
        if wanted:
            os.environ[name] = "1"  # for the processes that the command starts, too


def stage_command(
    params_file: Path, name: str, work: Callable[[Any, Any, Any], dict | None]
) -> None:
    """Validate the parameters, run one stage, and record it in MLflow.

    Args:
        params_file: the parameters.
        name: the stage, for commands outside DVC: MODULE@ITEM.
        work: from the stage's module, the parameters and the stage's record to its numbers.

    Raises:
        UserError: torchrun started a stage that does not divide its work.
    """
    module = name.partition("@")[0]
    if processes.count() > 1 and module not in TOGETHER:
        raise UserError(
            f"{processes.count()} processes were started, but stage {module} runs in one: start "
            "it without torchrun"
        )
    from pistole.lineage.tracking import stage_run
    from pistole.params import load_params

    params = load_params(params_file)
    with stage_run(name) as run, counting(f"stage {name}", None):
        # Imported here, while the process that records the stage imports mlflow.
        stage = importlib.import_module(f"pistole.stages.{module}")
        for key, value in (work(stage, params, run) or {}).items():
            run.metric(key, value)
