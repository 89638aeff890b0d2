"""The command line: every node of dvc.yaml is one of these commands, with explicit paths."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Merge natural and robust CLIP task vectors with stability masks, reproducibly.",
)
profile_app = typer.Typer(no_args_is_help=True, help="Choose the values of params.yaml.")
app.add_typer(profile_app, name="profile")

ARTIFACTS = Path("artifacts")
ParamsFile = Annotated[Path, typer.Option("--params", help="parameters of the run")]
Base = Annotated[Path, typer.Option(help="folder of 'pistole base'")]
DataRoot = Annotated[
    Path, typer.Option(help="folder with one folder of 'pistole data' per dataset")
]
Natural = Annotated[Path, typer.Option(help="natural task vector")]
Robust = Annotated[Path, typer.Option(help="robust task vector")]
Masks = Annotated[Path, typer.Option(help="folder of 'pistole masks'")]
FinetuneData = Annotated[
    Path | None,
    typer.Option(
        "--data", help="the fine-tuning dataset; default: artifacts/data/ and data.finetune"
    ),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="read .pt weights too, as allow_pickle: true does")
]
PARAMS = Path("params.yaml")
BASE = ARTIFACTS / "base"
DATA = ARTIFACTS / "data"
VECTORS = {s: ARTIFACTS / "vectors" / f"{s}.safetensors" for s in ("natural", "robust")}
MASKS = ARTIFACTS / "masks"


def _stage(params_file: Path, name: str, work: Callable[[Any, Any, Any], dict | None]) -> None:
    """Validate the parameters, run one stage, and record it in MLflow.

    Args:
        params_file: the parameters.
        name: the stage, for commands outside DVC: MODULE@ITEM.
        work: from the stage's module, the parameters and the stage's record to its numbers.
    """
    from pistole.lineage.tracking import stage_run
    from pistole.params import load_params

    params = load_params(params_file)
    with stage_run(name) as run:
        # Imported here, while the process that records the stage imports mlflow.
        stage = importlib.import_module(f"pistole.stages.{name.partition('@')[0]}")
        for key, value in (work(stage, params, run) or {}).items():
            run.metric(key, value)


@app.command()
def params(
    file: Annotated[Path, typer.Argument(help="parameters to show or check")] = PARAMS,
    check: Annotated[bool, typer.Option("--check", help="only validate")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="value, unit, bounds and meaning")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="token for the DAG")] = None,
) -> None:
    """Validate params.yaml, all mistakes at once; --explain tells what each key means."""
    from pistole.stages import params as stage

    if out is not None:
        _stage(file, "params", lambda stage, p, run: stage.run(p, out))
    else:
        stage.show(file, explain=explain and not check)


@app.command()
def schema(
    file: Annotated[Path, typer.Option(help="the exported schema")] = Path(
        "workflow/schemas/params.schema.json"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="fail if the file is not up to date")
    ] = False,
) -> None:
    """Export the JSON schema of params.yaml."""
    from pistole.stages import params as stage

    stage.export_schema(file, check=check)


@profile_app.command("list")
def profile_list(
    folder: Annotated[Path, typer.Option(help="folder of profiles")] = Path("profiles"),
) -> None:
    """Show the profiles."""
    from pistole.stages import params as stage

    stage.show_profiles(folder)


@profile_app.command("use")
def profile_use(
    name: Annotated[str, typer.Argument(help="a name of 'pistole profile list'")],
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
def pretrain(
    pictures: Annotated[int, typer.Option(help="captioned pictures to draw")] = 100_000,
    epochs: Annotated[int, typer.Option(help="passes over the pictures")] = 12,
    seed: Annotated[int, typer.Option(help="seed of pictures, weights and order")] = 0,
    threads: Annotated[int, typer.Option(help="torch threads")] = 2,
    config: Annotated[Path, typer.Option(help="architecture and vocabulary")] = Path(
        "pistole/models/assets/embedded.json"
    ),
    out: Annotated[Path, typer.Option(help="weights to write")] = Path(
        "pistole/models/assets/embedded.safetensors"
    ),
) -> None:
    """Pre-train the small CLIP that ships with the package (about half an hour on two cores)."""
    from pistole.lineage.tracking import stage_run
    from pistole.stages import pretrain as stage

    with stage_run("pretrain") as run:
        stage.run(config, out, pictures, epochs, seed, threads, run.metric)


@app.command()
def data(
    dataset: Annotated[str, typer.Argument(help="name of the dataset")],
    out: Annotated[Path | None, typer.Option(help="default: artifacts/data/DATASET")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """List sample ids, class names, templates and digests of one dataset."""
    _stage(
        params,
        f"data@{dataset}",
        lambda stage, p, run: stage.run(p, dataset, out or DATA / dataset),
    )


@app.command()
def base(
    data: DataRoot = DATA,
    out: Path = BASE,
    allow_pickle: AllowPickle = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Store the base model's visual tower and its text features of every dataset."""
    _stage(
        params,
        "base",
        lambda stage, p, run: stage.run(p, data, out, allow_pickle=allow_pickle or p.allow_pickle),
    )


@app.command()
def finetune(
    source: Annotated[str, typer.Argument(help="natural or robust")],
    base: Base = BASE,
    data: FinetuneData = None,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/checkpoints/SOURCE")] = None,
    allow_pickle: AllowPickle = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Fine-tune one source, or take the checkpoint that params.yaml names."""
    target = out or ARTIFACTS / "checkpoints" / source
    _stage(
        params,
        f"finetune@{source}",
        lambda stage, p, run: stage.run(
            p,
            source,
            base,
            data or DATA / p.data.finetune,
            target,
            allow_pickle=allow_pickle or p.allow_pickle,
            on_metric=run.metric,
        ),
    )


@app.command()
def vectors(
    source: Annotated[str, typer.Argument(help="natural or robust")],
    base: Base = BASE,
    checkpoint: Annotated[
        Path | None, typer.Option(help="default: artifacts/checkpoints/SOURCE")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="default: artifacts/vectors/SOURCE.safetensors")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Subtract the base from a checkpoint."""
    fine = checkpoint or ARTIFACTS / "checkpoints" / source
    target = out or ARTIFACTS / "vectors" / f"{source}.safetensors"
    _stage(
        params, f"vectors@{source}", lambda stage, p, run: stage.run(p, source, base, fine, target)
    )


@app.command()
def stability(
    source: Annotated[str, typer.Argument(help="natural or robust")],
    base: Base = BASE,
    checkpoint: Annotated[
        Path | None, typer.Option(help="default: artifacts/checkpoints/SOURCE")
    ] = None,
    data: FinetuneData = None,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/stability/SOURCE")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Estimate per-parameter prediction stability: all four variants from one trajectory."""
    fine = checkpoint or ARTIFACTS / "checkpoints" / source
    target = out or ARTIFACTS / "stability" / source
    _stage(
        params,
        f"stability@{source}",
        lambda stage, p, run: stage.run(
            p, source, base, fine, data or DATA / p.data.finetune, target
        ),
    )


@app.command()
def masks(
    natural: Annotated[Path, typer.Option(help="scores of the natural source")] = ARTIFACTS
    / "stability"
    / "natural",
    robust: Annotated[Path, typer.Option(help="scores of the robust source")] = ARTIFACTS
    / "stability"
    / "robust",
    natural_vector: Natural = VECTORS["natural"],
    robust_vector: Robust = VECTORS["robust"],
    out: Path = MASKS,
    params: ParamsFile = PARAMS,
) -> None:
    """Turn the scores into complementary masks."""
    _stage(
        params,
        "masks",
        lambda stage, p, run: stage.run(p, natural, robust, natural_vector, robust_vector, out),
    )


@app.command()
def select(
    base: Base = BASE,
    natural: Natural = VECTORS["natural"],
    robust: Robust = VECTORS["robust"],
    masks: Masks = MASKS,
    data: FinetuneData = None,
    out: Path = ARTIFACTS / "select",
    params: ParamsFile = PARAMS,
) -> None:
    """Choose lambda per method on held-out training images."""
    _stage(
        params,
        "select",
        lambda stage, p, run: stage.run(
            p, base, natural, robust, masks, data or DATA / p.data.finetune, out
        ),
    )


@app.command()
def merge(
    method: Annotated[str, typer.Argument(help="pistole, vanilla, wise_ft")],
    base: Base = BASE,
    natural: Natural = VECTORS["natural"],
    robust: Robust = VECTORS["robust"],
    masks: Annotated[Path | None, typer.Option(help="folder of 'pistole masks'")] = MASKS,
    select: Annotated[Path | None, typer.Option(help="folder of 'pistole select'")] = ARTIFACTS
    / "select",
    lam: Annotated[float | None, typer.Option("--lambda", help="overrides merge.lambda")] = None,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/merged/METHOD")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Merge a natural and a robust task vector into one visual tower."""
    target = out or ARTIFACTS / "merged" / method
    _stage(
        params,
        f"merge@{method}",
        lambda stage, p, run: stage.run(
            p, method, base, natural, robust, masks, select, target, lam
        ),
    )


@app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="row of the table")],
    model: Annotated[Path, typer.Option(help="folder with visual.safetensors, or a checkpoint")],
    base: Base = BASE,
    data: DataRoot = DATA,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/evaluation/NAME")] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="also write the three means to this file")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Measure clean and robust accuracy on every dataset."""
    target = out or ARTIFACTS / "evaluation" / name
    _stage(
        params,
        f"evaluate@{name}",
        lambda stage, p, run: stage.run(p, name, model, base, data, target, metrics, run),
    )


@app.command()
def frontier(
    method: Annotated[str, typer.Argument(help="pistole, vanilla, wise_ft")],
    base: Base = BASE,
    natural: Natural = VECTORS["natural"],
    robust: Robust = VECTORS["robust"],
    masks: Masks = MASKS,
    data: DataRoot = DATA,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/frontier/METHOD")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Sweep lambda for one method, composing the models in memory."""
    target = out or ARTIFACTS / "frontier" / method
    _stage(
        params,
        f"frontier@{method}",
        lambda stage, p, run: stage.run(p, method, base, natural, robust, masks, data, target),
    )


@app.command()
def theory(
    check: Annotated[str, typer.Argument(help="interference or pci_trace")],
    artifacts: Annotated[Path, typer.Option(help="folder of all artifacts")] = ARTIFACTS,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/theory/CHECK")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Check one claim of the theory on images that the scores never saw."""
    target = out or artifacts / "theory" / check
    _stage(params, f"theory@{check}", lambda stage, p, run: stage.run(p, check, artifacts, target))


@app.command()
def report(
    artifacts: Annotated[Path, typer.Option(help="folder of all artifacts")] = ARTIFACTS,
    out: Path = Path("report"),
    params: ParamsFile = PARAMS,
) -> None:
    """Write the one-page report and report/metrics.json."""
    _stage(params, "report", lambda stage, p, run: stage.run(p, artifacts, out, run))


@app.command()
def show(
    report: Annotated[Path, typer.Option(help="folder of the report")] = Path("report"),
) -> None:
    """Print the table of the report."""
    from pistole.stages import show as stage

    stage.run(report)
