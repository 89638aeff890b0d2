"""Passes of the attacks: PGD, the evaluation ensemble with its early exits, and the ladder."""

from collections.abc import Iterable

from pistole.plan.survival import Attempt, Survival, attempts
from pistole.plan.work import FORWARD, IMAGE, Work, Works
from pistole.robust.cascade import PROBED
from pistole.robust.ensemble import EnsembleSpec
from pistole.robust.guards import QUERIES, STARTS
from pistole.robust.pgd import Budget


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


def one_attempt(attempt: Attempt, spec: EnsembleSpec) -> Works:
    """Count one attack on what it meets, and the checks of what it found.

    FGSM takes a gradient and checks every image. APGD takes a gradient at every iterate but the
    last, whose answer is all that counts; a broken image leaves and is checked, so that each has
    one pass without a gradient. One more chooses the target of APGD-T. FAB-T has no exit, two
    passes at its start, a gradient and a prediction per iteration, and checks what it broke. Square
    has its start, its queries and a check: hardly an image leaves it early.

    Args:
        attempt: what it meets.
        spec: steps and queries.

    Returns:
        The passes. An image that only the last iterate breaks has one more, its check.
    """
    met, broken = attempt.images, attempt.broken

    def passes(gradients: float, forward: float) -> Works:
        return [
            Work(IMAGE, gradients, spec.batch_size),
            Work(FORWARD, forward, spec.batch_size),
        ]

    def apgd(steps: int) -> float:
        return (met - broken) * steps + broken * min(attempt.iterates, steps)

    if attempt.name == "fgsm":
        return passes(met, met)
    if attempt.name == "apgd_ce":
        return passes(apgd(spec.apgd_ce_steps), met)
    if attempt.name == "apgd_t":
        return passes(apgd(spec.apgd_t_steps), 2 * met)
    if attempt.name == "fab_t":
        return passes(met * spec.fab_t_steps, met * (spec.fab_t_steps + 2) + broken)
    return passes(0, met * (spec.square_queries + 2))


def ensemble(images: int, tried: Iterable[Attempt], spec: EnsembleSpec) -> Works:
    """Count :func:`pistole.robust.ensemble.evaluate` (docs/method.md D.2).

    Args:
        images: of the task.
        tried: what the attempts meet, at all radii.
        spec: the ensemble.

    Returns:
        Clean predictions, the check that the model is deterministic, and the attempts.
    """
    probed = min(PROBED, spec.batch_size, images)
    works = [Work(FORWARD, images + 2 * probed, spec.batch_size)]
    return works + [work for attempt in tried for work in one_attempt(attempt, spec)]


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
        The passes; with :data:`pistole.plan.survival.EVERY` an upper bound.
    """
    tried = attempts(images, spec, classes, share)
    # As if each were broken at the last iterate of something: one pass in some hundred.
    late = sum(attempt.images for attempt in tried if attempt.name == "fgsm")
    return [*ensemble(images, tried, spec), Work(FORWARD, late, spec.batch_size)]


def ladder(images: int, standing: float) -> Works:
    """Count :func:`pistole.robust.guards.climb` (docs/method.md D.3).

    Args:
        images: on the ladder, in one batch.
        standing: of them, those that Square has to go on with.

    Returns:
        The gradients of PGD-10 from its starts, PGD-2 and PGD-10 in the large ball; predictions of
        clean and attacked images; Square's start, queries and result.
    """
    tens = STARTS + 1
    return [
        Work(IMAGE, images * (10 * tens + 2), images),
        Work(FORWARD, images * (tens + 5) + standing * QUERIES, images),
    ]
