"""Stage ``finetune@SOURCE``: fine-tune the visual tower, or take the user's own checkpoint."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from pistole import processes
from pistole.errors import UserError
from pistole.files import (
    atomic_directory,
    read_json,
    save_tensors,
    sha256_file,
    sha256_tensors,
    write_csv,
    write_json,
)
from pistole.models.checkpoint import load_visual
from pistole.models.offshelf import check_pairing, find_checkpoint
from pistole.models.zeroshot import parameters_of
from pistole.params import Params
from pistole.params.schema import Source
from pistole.progress import counting
from pistole.robust.objectives import Objective, objective_named
from pistole.robust.optimisers import Settings
from pistole.robust.resume import forget_state
from pistole.robust.training import fit
from pistole.robust.workers import joined
from pistole.seeds import derive, generator
from pistole.stages.runtime import RESUME, attack_budget, classifier, device_of
from pistole.stages.slices import Slice, read_slice
from pistole.stages.towers import base_digest, base_state, require_source

LOG_EVERY = 50  # steps between lines of the log
CURVE = ("step", "loss", "lr", "grad_norm", "accuracy")
OnMetric = Callable[[str, float, int], None]


def run(
    params: Params,
    source: str,
    base: Path,
    data: Path,
    out: Path,
    *,
    allow_pickle: bool = False,
    on_metric: OnMetric | None = None,
) -> dict[str, float]:
    """Train one source, or verify and copy ``finetune.SOURCE.checkpoint``.

    Args:
        params: ``finetune.SOURCE`` and ``attack.train`` are read.
        source: ``natural`` or ``robust``.
        base: what stage ``base`` wrote.
        data: the fine-tuning dataset; its slice ``finetune`` is used.
        out: folder for ``visual.safetensors``, ``curve.csv`` and ``training.json``.
        allow_pickle: let the user's checkpoint be a ``.pt`` file (weights only).
        on_metric: told of (name, value, step) for every number of the curve.

    Returns:
        The last loss, if trained.
    """
    require_source(source)
    knobs = getattr(params.finetune, source)
    if knobs.checkpoint is not None:
        (theta, digest), curve = _own(knobs.checkpoint, base, allow_pickle), []
    else:
        (theta, curve), digest = _train(params, source, base, data), None
    if processes.rank() == 0:
        _write(params, source, base, out, theta, curve, digest)
    if knobs.checkpoint is None and processes.rank() == 0:
        forget_state(_state_path(source))
    for row in curve if on_metric else []:
        for name in _columns(curve)[1:]:
            on_metric(name, row[name], int(row["step"]))
    return {"last_loss": curve[-1]["loss"]} if curve else {}


def _write(
    params: Params,
    source: str,
    base: Path,
    out: Path,
    theta: dict[str, Tensor],
    curve: list[dict[str, float]],
    own_digest: str | None,
) -> None:
    knobs = getattr(params.finetune, source)
    trained = knobs.checkpoint is None
    record = {
        "source": source,
        "objective": knobs.objective if trained else None,
        "checkpoint": knobs.checkpoint,
        "checkpoint_sha256": own_digest,
        "base_digest": base_digest(base),
        "digest": sha256_tensors(theta),
    }
    options = asdict(objective_of(knobs)) if trained else {}
    # BatchNorm statistics are frozen at the base's: they are buffers, so a task vector could not
    # carry them, and merged models must see the same ones as the sources.
    _, buffers = base_state(base)
    with atomic_directory(out) as folder:
        save_tensors(folder / "visual.safetensors", theta | buffers, record | options)
        write_json(folder / "training.json", record | options)
        write_csv(folder / "curve.csv", _columns(curve), curve)


def _columns(curve: list[dict[str, float]]) -> tuple[str, ...]:
    # By name, since a resumed curve has lost the order of the objective's own numbers.
    own = {name for row in curve[:1] for name in row} - set(CURVE)
    return (*CURVE, *sorted(own))


def objective_of(knobs: Source) -> Objective:
    """Make the objective that one source is trained with.

    Args:
        knobs: ``finetune.SOURCE``.

    Returns:
        The objective with its hyper-parameters.
    """
    return objective_named(
        knobs.objective,
        alpha=knobs.alpha,
        beta=knobs.beta,
        detach_clean=knobs.detach_clean,
        official=knobs.official,
    )


def _own(name: str, base: Path, allow_pickle: bool) -> tuple[dict[str, Tensor], str]:
    """The user's checkpoint, held against the base's architecture and BatchNorm statistics."""
    found = find_checkpoint(name)
    parameters, buffers = base_state(base)
    theta = load_visual(
        found.path,
        parameters,
        reference_buffers=buffers,
        allow_pickle=allow_pickle,
        base_digest=base_digest(base),
    )
    check_pairing(found, read_json(base / "model.json"))
    return theta, sha256_file(found.path)


def _state_path(source: str) -> Path:
    return RESUME / f"finetune-{source}.safetensors"


def _train(
    params: Params, source: str, base: Path, data: Path
) -> tuple[dict[str, Tensor], list[dict]]:
    knobs, device = getattr(params.finetune, source), device_of(params)
    images = read_slice(data, "finetune")
    settings = Settings(
        steps=knobs.steps,
        batch_size=knobs.batch_size,
        lr=knobs.lr,
        weight_decay=knobs.weight_decay,
        warmup=knobs.warmup,
        optimiser=knobs.optimizer,
        accumulate=knobs.accumulate,
        precision=knobs.precision,
    )
    key = derive(params.model_dump_json(), base_digest(base), images.digest, source)
    per_epoch = max(len(images) // knobs.batch_size, 1)  # Batches refuses 0
    epochs = -(-knobs.steps // per_epoch)
    with joined(device) as workers, counting(f"finetune {source}", knobs.steps) as advance:
        model = classifier(base, images.dataset, device)

        def told(step: int, metrics: dict[str, float]) -> None:
            noteworthy = step % LOG_EVERY == 0 or step == knobs.steps - 1
            if workers.leads:
                said = f"epoch {step // per_epoch + 1}/{epochs}, step {step + 1}"
                advance(f"{said}, loss {metrics['loss']:.4f}" if noteworthy else "")

        def found(steps: int) -> None:
            if workers.leads:
                advance("kept from a killed run", steps, kept=True)

        curve = fit(
            model,
            dict(model.visual.named_parameters()),
            Batches(images, knobs.batch_size, params.seed, source, device),
            objective_of(knobs),
            settings,
            budget=attack_budget(params, "train"),
            seed=derive(params.seed, "finetune", source),
            run_key=str(key),
            workers=workers,
            state_path=_state_path(source),
            on_step=told,
            on_resume=found,
        )
    return {name: value.cpu() for name, value in parameters_of(model).items()}, curve


class Batches:
    """Batches by step number: every epoch is a permutation that the seed decides."""

    def __init__(
        self, images: Slice, size: int, seed: int, source: str, device: torch.device
    ) -> None:
        """Hold the images.

        Args:
            images: training images.
            size: images per batch.
            seed: run seed.
            source: ``natural`` or ``robust``.
            device: where batches go.

        Raises:
            UserError: the slice is smaller than one batch.
        """
        if len(images) < size:
            raise UserError(
                f"finetune.{source}.batch_size is {size}, but slices.finetune has {len(images)}: "
                "lower the one or raise the other"
            )
        self.images, self.size, self.device = images, size, device
        self.parts = (seed, "finetune", source, "epoch")

    def __call__(self, step: int, rows: slice = slice(None)) -> tuple[list[str], Tensor, Tensor]:
        """Return batch number ``step``, or some of its rows.

        Args:
            step: 0, 1, 2, ...
            rows: of the batch.

        Returns:
            Sample ids, images in [0, 1] and labels.
        """
        per_epoch = len(self.images) // self.size
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(self.images), generator=generator(*self.parts, epoch))
        chosen = order[place * self.size : (place + 1) * self.size][rows]
        ids = [self.images.ids[i] for i in chosen]
        return (
            ids,
            self.images.pixels(chosen).to(self.device),
            self.images.labels[chosen].to(self.device),
        )
