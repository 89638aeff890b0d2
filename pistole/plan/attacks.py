"""Passes of the attacks: PGD, and the evaluation ensemble with its early exits."""

from collections.abc import Sequence
from dataclasses import dataclass

from pistole.plan.work import FORWARD, IMAGE, Work, Works, times
from pistole.robust.ensemble import DLR_CLASSES, EnsembleSpec
from pistole.robust.pgd import Budget


@dataclass(frozen=True)
class Survival:
    """Which share of the images is still attacked: what early exits save.

    Attributes:
        clean: right when clean; only these are attacked.
        ce: still right after the first APGD-CE.
        t: still right after the first target of APGD-T.
    """

    clean: float
    ce: float
    t: float


EVERY = Survival(1.0, 1.0, 1.0)  # no exit at all: an upper bound for any model
# Means of 13 zero-shot sets at 2/255 in published tables of ViT-L/14 (docs/method.md F.3), rounded:
# what these shares will be is the result of the run. All of a model without adversarial training
# falls to APGD-CE.
FRAGILE = Survival(0.70, 0.0, 0.0)
STURDY = Survival(0.65, 0.46, 0.44)


def pgd(images: float, budget: Budget, batch: int) -> Works:
    """Count :func:`pistole.robust.pgd.pgd`: one gradient on the image per step.

    Args:
        images: attacked images.
        budget: eps and steps.
        batch: images per pass.

    Returns:
        The passes; none at eps 0, where PGD returns the images.
    """
    return [Work(IMAGE, images * budget.steps if budget.eps > 0 else 0, batch)]


def apgd_ce(images: float, steps: int, batch: int) -> Works:
    """Count one run of APGD-CE and the check of what it found.

    Args:
        images: attacked images.
        steps: iterations; the start is differentiated too.
        batch: images per pass.

    Returns:
        The passes.
    """
    return [Work(IMAGE, images * (steps + 1), batch), Work(FORWARD, images, batch)]


def apgd_t(images: float, steps: int, batch: int) -> Works:
    """Count one run of APGD-T against one target: a pass chooses the target's class.

    Args:
        images: attacked images.
        steps: iterations; the start is differentiated too.
        batch: images per pass.

    Returns:
        The passes.
    """
    return [*apgd_ce(images, steps, batch), Work(FORWARD, images, batch)]


def targets(spec: EnsembleSpec, classes: int | None) -> int:
    """Say how many targets APGD-T tries.

    Args:
        spec: the ensemble.
        classes: of the task; None if unknown, which counts as many.

    Returns:
        0 where the loss has too few classes.
    """
    if classes is None:
        return spec.targets
    return min(spec.targets, classes - 1) if classes >= DLR_CLASSES else 0


def attacked(images: int, spec: EnsembleSpec, classes: int | None, share: Survival) -> list[float]:
    """Expect how many images each attempt of the ensemble meets.

    Args:
        images: of the task.
        spec: the ensemble.
        classes: of the task; None if unknown.
        share: which part is left.

    Returns:
        One number for each restart of APGD-CE, then for each target and restart of APGD-T.
    """
    count = targets(spec, classes) * spec.apgd_t_restarts
    ce = [share.clean] + [share.ce] * (spec.apgd_ce_restarts - 1)
    t = [share.ce, *[share.t] * (count - 1)] if count else []
    return [images * part for part in (*ce, *t)]


def ensemble(images: int, right: float, meets: Sequence[float], spec: EnsembleSpec) -> Works:
    """Count :func:`pistole.robust.ensemble.evaluate` (docs/method.md D.2).

    Args:
        images: of the task.
        right: right when clean.
        meets: images that each attempt meets, as :func:`attacked` lists them.
        spec: the ensemble.

    Returns:
        Clean predictions, the check that the model is deterministic, the look for vanished
        gradients, and the attempts.
    """
    batch = spec.batch_size
    works = [Work(FORWARD, images + 2 * min(batch, images), batch)]
    if spec.eps == 0:
        return works
    works.append(Work(IMAGE, right, batch))
    for attempt, count in enumerate(meets):
        first = attempt < spec.apgd_ce_restarts
        one, steps = (apgd_ce, spec.apgd_ce_steps) if first else (apgd_t, spec.apgd_t_steps)
        works += times(count, one(1, steps, batch))
    return works


def expected_ensemble(
    images: int, spec: EnsembleSpec, classes: int | None, share: Survival
) -> Works:
    """Count the ensemble on one task under expected exits.

    Args:
        images: of the task.
        spec: the ensemble.
        classes: of the task; None if unknown.
        share: which part of the images is left.

    Returns:
        The passes; with :data:`EVERY` an upper bound.
    """
    return ensemble(images, images * share.clean, attacked(images, spec, classes, share), spec)
