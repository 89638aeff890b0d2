"""The evaluation ensemble: APGD-CE, then APGD-T on the survivors (docs/method.md D.2).

The attacks are torchattacks' components with the parameters of the reference AutoAttack;
``torchattacks.AutoAttack`` itself is a weaker one and is not used. FAB-T and Square can follow
(``standard``). One FGSM step comes first: it costs the gradient that the check for saturation
needs anyway. Whether an image is broken is what the model predicts on the checked adversarial
image, not what the attack reports.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.robust.cascade import Attempt, Cascade, OnBatch
from pistole.robust.checks import check_images
from pistole.robust.components import apgd_ce, apgd_t, fab_t, square
from pistole.robust.found import Found
from pistole.robust.guards import LIMITS, SLACK, note, square_note
from pistole.robust.journal import Journal
from pistole.robust.modes import exact_fp32, frozen, require_fp32
from pistole.robust.spec import DLR_CLASSES, EnsembleSpec, radius_name
from pistole.seeds import derive

__all__ = ["EnsembleSpec", "Outcomes", "evaluate"]

SMALLER = "smaller_eps"  # what broke an image that only an attack at a smaller radius broke

Masks = dict[str, Tensor]  # attack -> which samples are right after it and all before


@dataclass(frozen=True)
class Outcomes:
    """What became of every sample.

    Attributes:
        columns: one value per sample, in input order: ``id``, ``label``, ``clean_prediction``,
            ``clean_correct``, ``fgsm_correct``, ``apgd_ce_correct``, ``apgd_t_correct``,
            ``fab_t_correct``, ``square_correct``, ``robust_correct``, ``broken_by`` (the attack's
            name, ``clean``, ``smaller_eps``, or empty), and ``robust_correct@RADIUS`` for every
            further radius. The attacks form a cascade: correct after one of them implies correct
            after all before it, and an attack that was left out changes nothing. An image that is
            broken at one radius is broken at every larger one.
        notes: what a reader of the numbers has to know.
    """

    columns: dict[str, list]
    notes: tuple[str, ...]


def evaluate(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    ids: Sequence[str],
    spec: EnsembleSpec,
    *,
    seed: int,
    dataset: str,
    on_batch: OnBatch | None = None,
    journal: Journal | None = None,
    found: Found | None = None,
) -> Outcomes:
    """Attack a model on labelled images.

    An image that is wrong when clean counts as broken and is not attacked. Each start is drawn
    from (seed, dataset, sample id, attempt), so outcomes do not depend on batches. The model's
    modes, gradients and the global RNGs are as before afterwards.

    Args:
        model: from images in [0, 1] to logits; normalisation inside; fp32.
        images: fp32 pixels in [0, 1], on any device.
        labels: classes.
        ids: sample ids.
        spec: the ensemble.
        seed: run seed.
        dataset: name that the starts are drawn under.
        on_batch: called after each attacked batch with the attempt's name, the positions of its
            samples and their adversarial images.
        journal: where the outcomes of batches are kept and found again; the caller removes it.
        found: gets the adversarial images that fooled the model.

    Returns:
        The outcomes.

    Raises:
        UserError: unfit model, images, labels or ids.
    """
    check_images(images)
    if not len(images) == len(labels) == len(ids):
        raise UserError(
            f"{len(images)} images, {len(labels)} labels, {len(ids)} ids: give one of each a sample"
        )
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise UserError(
            f"labels are {labels.dtype} {tuple(labels.shape)}: give int64 class numbers [n]"
        )
    require_fp32(model)
    run = Cascade(
        *(model, images, labels, ids, seed, dataset, spec.batch_size),
        Journal() if journal is None else journal,
        on_batch,
        found,
    )
    with exact_fp32(run.device), frozen(model):
        predictions, classes = run.clean()
        correct = predictions == labels.cpu()
        masks, flat = _attacked(run, correct, spec, spec.eps, classes)
        others = _other_radii(run, masks, spec, classes)
        share = flat / max(int(correct.sum()), 1)
        notes = _notes(spec, classes, share, masks) if spec.eps > 0 else []
    columns = _columns(ids, labels, predictions, masks)
    columns |= {f"robust_correct@{radius_name(r)}": mask.tolist() for r, mask in others.items()}
    return Outcomes(columns, tuple(notes))


def _attacked(
    run: Cascade, correct: Tensor, spec: EnsembleSpec, eps: float, classes: int
) -> tuple[Masks, int]:
    # All attacks at one radius, and how many images had no gradient.
    masks, flat = {"clean": correct}, 0
    alive = correct
    if eps > 0:
        alive, flat = run.one_step(alive, eps, "fgsm")
    masks["fgsm"] = alive
    for name, attempts in _attempts(run, spec, eps, classes).items():
        masks[name] = alive = run.after(alive, attempts, eps) if eps > 0 else alive
    return masks, flat


def _other_radii(
    run: Cascade, masks: Masks, spec: EnsembleSpec, classes: int
) -> dict[float, Tensor]:
    # The headline's attacks have run by now, on all images, so that no further radius changes what
    # they find; only its survivors lose those that a smaller radius broke.
    others, alive = {}, masks["clean"]
    for radius in sorted({spec.eps, *spec.radii}):
        if radius == spec.eps:
            if spec.radii and radius > min(spec.radii):
                masks[SMALLER] = _survivors(masks) & alive
            alive = _survivors(masks)
        else:
            found, _ = _attacked(run, alive, spec, radius, classes)
            others[radius] = alive = _survivors(found)
    return others


def _survivors(masks: Masks) -> Tensor:
    return list(masks.values())[-1]


def _attempts(
    run: Cascade, spec: EnsembleSpec, eps: float, classes: int
) -> dict[str, Iterator[tuple[str, Attempt]]]:
    # In their order, each as its restarts and targets.
    return {
        "apgd_ce": _ce_attempts(spec, eps),
        "apgd_t": _t_attempts(spec, eps, spec.targets_of(classes)),
        "fab_t": _fab_attempts(spec, eps, spec.targets_of(classes, least=2)),
        "square": _square_attempts(spec, eps, derive(run.seed, "ensemble", run.dataset)),
    }


def _ce_attempts(spec: EnsembleSpec, eps: float) -> Iterator[tuple[str, Attempt]]:
    for restart in range(spec.apgd_ce_restarts):
        yield f"apgd_ce/{restart}", partial(apgd_ce, eps=eps, steps=spec.apgd_ce_steps)


def _t_attempts(spec: EnsembleSpec, eps: float, targets: int) -> Iterator[tuple[str, Attempt]]:
    for target in range(1, targets + 1):
        attack = partial(apgd_t, eps=eps, steps=spec.apgd_t_steps, target=target, targets=targets)
        for restart in range(spec.apgd_t_restarts):
            yield f"apgd_t/{target}/{restart}", attack


def _fab_attempts(spec: EnsembleSpec, eps: float, targets: int) -> Iterator[tuple[str, Attempt]]:
    for target in range(1, targets + 1) if spec.fab_t_steps else ():
        effort = {"steps": spec.fab_t_steps, "target": target, "targets": targets}
        yield f"fab_t/{target}", partial(_fab_t, eps=eps, **effort)


def _fab_t(model: nn.Module, x: Tensor, y: Tensor, draws: Tensor, **effort: Any) -> Tensor:
    return fab_t(model, x, y, **effort)  # it starts at the clean image


def _square_attempts(spec: EnsembleSpec, eps: float, seed: int) -> Iterator[tuple[str, Attempt]]:
    if spec.square_queries:
        yield "square/0", partial(square, eps=eps, queries=spec.square_queries, seed=seed)


def _notes(spec: EnsembleSpec, classes: int, share: float, masks: Masks) -> list[str]:
    notes, targets = [], spec.targets_of(classes)
    if share > LIMITS["EV01"]:
        text = f"{share:.0%} of the images have no cross-entropy gradient: APGD-CE is weak there"
        notes.append(note("EV01", text))
    if targets == 0 < spec.targets:
        text = f"{classes} classes: APGD-T left out, its loss needs {DLR_CLASSES}"
        notes.append(note("EV02", text))
    elif targets < spec.targets:
        text = f"{classes} classes: APGD-T tries {targets} targets instead of {spec.targets}"
        notes.append(note("EV02", text))
    by_square = (masks["fab_t"] & ~masks["square"]).float().mean().item()
    if by_square > SLACK:
        notes.append(square_note(by_square))
    return notes


def _columns(
    ids: Sequence[str], labels: Tensor, predictions: Tensor, masks: Masks
) -> dict[str, list]:
    broken_by = [""] * len(ids)
    for name, mask in reversed(masks.items()):
        for position in (~mask).nonzero()[:, 0].tolist():
            broken_by[position] = name
    return {
        "id": list(ids),
        "label": labels.tolist(),
        "clean_prediction": predictions.tolist(),
        **{f"{name}_correct": mask.tolist() for name, mask in masks.items()},
        "robust_correct": _survivors(masks).tolist(),
        "broken_by": broken_by,
    }
