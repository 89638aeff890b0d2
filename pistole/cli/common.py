"""What the commands share: the application, their options, and how a stage is run."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pistole import processes
from pistole.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Merge natural and robust CLIP task vectors with stability masks, reproducibly.",
)

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
TOGETHER = ("finetune",)  # stages that several processes work on together
PARAMS = Path("params.yaml")
BASE = ARTIFACTS / "base"
DATA = ARTIFACTS / "data"
VECTORS = {s: ARTIFACTS / "vectors" / f"{s}.safetensors" for s in ("natural", "robust")}
MASKS = ARTIFACTS / "masks"
PREPARED = ARTIFACTS / "prepared"


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
    with stage_run(name) as run:
        # Imported here, while the process that records the stage imports mlflow.
        stage = importlib.import_module(f"pistole.stages.{module}")
        for key, value in (work(stage, params, run) or {}).items():
            run.metric(key, value)
