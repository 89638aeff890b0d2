"""Commands that make the two task vectors."""

from pathlib import Path
from typing import Annotated

import typer

from pistole.cli import completing
from pistole.cli.common import (
    ARTIFACTS,
    BASE,
    DATA,
    PARAMS,
    AllowPickle,
    Base,
    DataRoot,
    FinetuneData,
    ParamsFile,
    Source,
    app,
    stage_command,
)
from pistole.cli.standalone import (
    AsJson,
    Hashed,
    Models,
    OwnBase,
    OwnPickle,
    Scope,
    require_alone,
    subtract_own,
)
from pistole.errors import UserError


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
def base(
    data: DataRoot = DATA,
    out: Path = BASE,
    allow_pickle: AllowPickle = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Store the base model's visual tower and its text features of every dataset."""
    stage_command(
        params,
        "base",
        lambda stage, p, run: stage.run(p, data, out, allow_pickle=allow_pickle or p.allow_pickle),
    )


@app.command()
def finetune(
    source: Source,
    base: Base = BASE,
    data: FinetuneData = None,
    out: Annotated[Path | None, typer.Option(help="default: artifacts/checkpoints/SOURCE")] = None,
    allow_pickle: AllowPickle = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Fine-tune one source, or take the checkpoint that params.yaml names."""
    target = out or ARTIFACTS / "checkpoints" / source
    stage_command(
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
    source: Annotated[
        str | None,
        typer.Argument(
            help="natural or robust; or --model", autocompletion=completing.named("finetune")
        ),
    ] = None,
    base: OwnBase = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="default: artifacts/checkpoints/SOURCE")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="default: artifacts/vectors/SOURCE.safetensors")
    ] = None,
    params: ParamsFile = PARAMS,
    models: Models = None,
    scope: Scope = None,
    allow_pickle: OwnPickle = False,
    hashed: Hashed = True,
    as_json: AsJson = False,
) -> None:
    """Subtract the base from a checkpoint of a project, or (--model) of your own."""
    if models:
        require_alone("--model", {f"SOURCE {source}": source, "--checkpoint": checkpoint})
        subtract_own(
            as_json=as_json,
            base=base,
            out=out,
            models=models,
            scope=scope,
            allow_pickle=allow_pickle,
            hashed=hashed,
        )
        return
    if source is None:
        raise UserError("no source: give natural or robust, or --model with your own checkpoint")
    own = {"--scope": scope, "--allow-pickle": allow_pickle, "--no-hash": not hashed}
    own |= {"--json": as_json}
    require_alone(f"SOURCE {source}", own)
    fine = checkpoint or ARTIFACTS / "checkpoints" / source
    target = out or ARTIFACTS / "vectors" / f"{source}.safetensors"
    stage_command(
        params,
        f"vectors@{source}",
        lambda stage, p, run: stage.run(p, source, base or BASE, fine, target),
    )
