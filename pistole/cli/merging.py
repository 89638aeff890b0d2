"""Commands that score, mask, merge, evaluate and report."""

from pathlib import Path
from typing import Annotated

import typer

from pistole.cli import completing
from pistole.cli.common import (
    ARTIFACTS,
    BASE,
    DATA,
    MASKS,
    PARAMS,
    PREPARED,
    VECTORS,
    Base,
    DataRoot,
    FinetuneData,
    Masks,
    Natural,
    ParamsFile,
    Prepared,
    Robust,
    Source,
    app,
    stage_command,
)
from pistole.cli.standalone import (
    AsJson,
    Format,
    Hashed,
    Models,
    OutDtype,
    OwnBase,
    OwnMethod,
    OwnPickle,
    OwnVectors,
    Scope,
    Settings,
    Weights,
    merge_own,
    require_alone,
)
from pistole.errors import UserError


@app.command()
def stability(
    source: Source,
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
    stage_command(
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
    stage_command(
        params,
        "masks",
        lambda stage, p, run: stage.run(p, natural, robust, natural_vector, robust_vector, out),
    )


@app.command()
def prepare(
    need: Annotated[
        str,
        typer.Argument(
            help="a name that prepare.run may list, such as fisher",
            autocompletion=completing.preparations,
        ),
    ],
    base: Base = BASE,
    natural: Natural = VECTORS["natural"],
    robust: Robust = VECTORS["robust"],
    data: FinetuneData = None,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/prepared/NEED")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Measure or learn what a merging method needs, on held-out training images."""
    target = out or ARTIFACTS / "prepared" / need
    stage_command(
        params,
        f"prepare@{need}",
        lambda stage, p, run: stage.run(
            p, need, base, natural, robust, data or DATA / p.data.finetune, target
        ),
    )


@app.command()
def select(
    base: Base = BASE,
    natural: Natural = VECTORS["natural"],
    robust: Robust = VECTORS["robust"],
    masks: Masks = MASKS,
    data: FinetuneData = None,
    out: Path = ARTIFACTS / "select",
    prepared: Prepared = PREPARED,
    params: ParamsFile = PARAMS,
) -> None:
    """Choose lambda and options per method on held-out training images."""
    stage_command(
        params,
        "select",
        lambda stage, p, run: stage.run(
            p, base, natural, robust, masks, data or DATA / p.data.finetune, out, prepared
        ),
    )


@app.command()
def merge(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD",
            help="a name of methods in params.yaml; or --method",
            autocompletion=completing.named("methods"),
        ),
    ] = None,
    base: OwnBase = None,
    natural: Natural = VECTORS["natural"],
    robust: Robust = VECTORS["robust"],
    masks: Annotated[Path | None, typer.Option(help="folder of 'pistole masks'")] = MASKS,
    select: Annotated[Path | None, typer.Option(help="folder of 'pistole select'")] = ARTIFACTS
    / "select",
    lam: Annotated[float | None, typer.Option("--lambda", help="overrides merge.lambda")] = None,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/merged/METHOD")] = None,
    prepared: Prepared = PREPARED,
    params: ParamsFile = PARAMS,
    method: OwnMethod = None,
    models: Models = None,
    vectors: OwnVectors = None,
    weights: Weights = None,
    settings: Settings = None,
    scope: Scope = None,
    form: Format = None,
    dtype: OutDtype = None,
    allow_pickle: OwnPickle = False,
    hashed: Hashed = True,
    as_json: AsJson = False,
) -> None:
    """Merge two task vectors of a project, or (--method) checkpoints of your own."""
    if method is not None:
        require_alone("--method", {f"METHOD {name}": name, "--lambda": lam})
        merge_own(
            method,
            settings or [],
            as_json=as_json,
            base=base,
            out=out,
            models=models or [],
            vectors=vectors or [],
            weights=weights or [],
            scope=scope,
            form=form,
            dtype=dtype,
            allow_pickle=allow_pickle,
            hashed=hashed,
        )
        return
    if name is None:
        raise UserError(
            "no method: name one of params.yaml, or merge checkpoints of your own with --method"
        )
    own = {"--model": models, "--vector": vectors, "--weight": weights, "--set": settings}
    own |= {"--scope": scope, "--format": form, "--dtype": dtype}
    own |= {"--allow-pickle": allow_pickle, "--no-hash": not hashed, "--json": as_json}
    require_alone(f"METHOD {name}, of params.yaml,", own)
    target = out or ARTIFACTS / "merged" / name
    stage_command(
        params,
        f"merge@{name}",
        lambda stage, p, run: stage.run(
            p, name, base or BASE, natural, robust, masks, select, target, lam, prepared
        ),
    )


@app.command()
def evaluate(
    name: Annotated[
        str, typer.Argument(help="row of the table", autocompletion=completing.named("models"))
    ],
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
    stage_command(
        params,
        f"evaluate@{name}",
        lambda stage, p, run: stage.run(p, name, model, base, data, target, metrics, run),
    )


@app.command()
def transfer(
    base: Base = BASE,
    data: DataRoot = DATA,
    evaluation: Annotated[
        Path, typer.Option(help="folder with one folder of 'pistole evaluate' per model")
    ] = ARTIFACTS / "evaluation",
    out: Path = ARTIFACTS / "transfer",
    params: ParamsFile = PARAMS,
) -> None:
    """Try every model on the adversarial images that were found for the others."""
    stage_command(
        params, "transfer", lambda stage, p, run: stage.run(p, base, data, evaluation, out)
    )


@app.command()
def frontier(
    method: Annotated[
        str,
        typer.Argument(
            help="a name of methods in params.yaml",
            autocompletion=completing.named("frontier.methods"),
        ),
    ],
    base: Base = BASE,
    natural: Natural = VECTORS["natural"],
    robust: Robust = VECTORS["robust"],
    masks: Masks = MASKS,
    data: DataRoot = DATA,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/frontier/METHOD")] = None,
    select: Annotated[Path, typer.Option(help="folder of 'pistole select'")] = ARTIFACTS / "select",
    prepared: Prepared = PREPARED,
    params: ParamsFile = PARAMS,
) -> None:
    """Sweep lambda for one method, composing the models in memory."""
    target = out or ARTIFACTS / "frontier" / method
    stage_command(
        params,
        f"frontier@{method}",
        lambda stage, p, run: stage.run(
            p, method, base, natural, robust, masks, data, target, select, prepared
        ),
    )


@app.command()
def theory(
    check: Annotated[
        str,
        typer.Argument(
            help="a name of the theory section of params.yaml",
            autocompletion=completing.named("theory"),
        ),
    ],
    artifacts: Annotated[Path, typer.Option(help="folder of all artifacts")] = ARTIFACTS,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/theory/CHECK")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Check one claim of the theory on images that the scores never saw."""
    target = out or artifacts / "theory" / check
    stage_command(
        params, f"theory@{check}", lambda stage, p, run: stage.run(p, check, artifacts, target)
    )


@app.command()
def gallery(
    artifacts: Annotated[Path, typer.Option(help="folder of all artifacts")] = ARTIFACTS,
    out: Path = ARTIFACTS / "gallery",
    params: ParamsFile = PARAMS,
) -> None:
    """Attack a few test images, to be looked at in the report."""
    stage_command(params, "gallery", lambda stage, p, run: stage.run(p, artifacts, out))


@app.command()
def report(
    artifacts: Annotated[Path, typer.Option(help="folder of all artifacts")] = ARTIFACTS,
    out: Path = Path("report"),
    params: ParamsFile = PARAMS,
) -> None:
    """Write the one-page report and report/metrics.json."""
    stage_command(params, "report", lambda stage, p, run: stage.run(p, artifacts, out, run))
