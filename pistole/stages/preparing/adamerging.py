"""Preparations ``ada_task``, ``ada_layer``, ``ada_task_mix`` and ``ada_layer_mix``."""

import dataclasses
from functools import partial

from pistole.baselines.adamerging import DESCENT, INIT
from pistole.baselines.coefficients import composed, learn_coefficients, named
from pistole.baselines.learning import Descent
from pistole.baselines.sources import SOURCES
from pistole.progress import counting
from pistole.stages.preparing.images import StepLoss, entropy_loss, judged
from pistole.stages.preparing.job import Job, Tensors


def prepare(
    job: Job,
    *,
    grain: str = "layer",
    mixed: bool = False,
    descent: Descent = DESCENT,
    init: float = INIT,
    clamp: bool = True,
) -> tuple[Tensors, dict[str, float]]:
    """Learn AdaMerging's coefficients (docs/method.md C).

    Args:
        job: the inputs; its ``steps`` come before the descent's.
        grain: ``task`` or ``layer``.
        mixed: whether adversarial images have half of the weight.
        descent: how long and how fast.
        init: first value of all coefficients.
        clamp: whether they stay in [0, 1].

    Returns:
        ``SOURCE/TENSOR`` -> its coefficient, and numbers before and after.
    """
    purpose = f"ada_{grain}{'_mix' if mixed else ''}"
    options = {"grain": grain, "init": init, "clamp": clamp}
    return learn(job, purpose, entropy_loss(job, purpose, mixed), descent, **options)


def learn(
    job: Job, purpose: str, loss: StepLoss, descent: Descent, **options: object
) -> tuple[Tensors, dict[str, float]]:
    """Learn coefficients of both vectors with progress and numbers.

    Args:
        job: the inputs.
        purpose: what learns.
        loss: of merged parameters and the step's number.
        descent: how long and how fast, unless the job says how long.
        **options: of :func:`pistole.baselines.coefficients.learn_coefficients`.

    Returns:
        ``SOURCE/TENSOR`` -> its coefficients, and numbers before and after.
    """
    if job.steps is not None:
        descent = dataclasses.replace(descent, steps=job.steps)
    vectors = (job.tau_nat, job.tau_rob)
    with counting(f"prepare {purpose}", descent.steps) as advance:
        found, losses = learn_coefficients(
            job.theta_0, vectors, loss, descent, on_step=advance, **options
        )
    first = found.new_full(found.shape, float(options["init"]))
    numbers = {"steps": float(descent.steps)}
    if losses:
        numbers |= {"loss/first": losses[0], "loss/last": losses[-1]}
    for moment, coefficients in (("before", first), ("after", found)):
        numbers |= judged(job, composed(job.theta_0, vectors, coefficients), moment)
    for source, values in zip(SOURCES, found, strict=True):
        for name, number in (("mean", values.mean()), ("min", values.min()), ("max", values.max())):
            numbers[f"coefficient_{name}/{source}"] = number.item()
    return named(found, list(job.theta_0)), numbers


prepare_task = partial(prepare, grain="task")
prepare_layer = partial(prepare, grain="layer")
prepare_task_mix = partial(prepare, grain="task", mixed=True)
prepare_layer_mix = partial(prepare, grain="layer", mixed=True)
