"""Preparations ``concrete`` and ``concrete_am``."""

import dataclasses

import torch

from pistole.baselines.coefficients import composed, learn_coefficients, named
from pistole.baselines.concrete import DESCENT, INIT, drawn_masks, learn_mask, masked
from pistole.baselines.learning import Descent
from pistole.baselines.sources import SOURCES
from pistole.progress import counting
from pistole.stages.preparing.images import entropy_loss, judged
from pistole.stages.preparing.job import Job, Tensors

TEMPERATURE, INNER_RATE = 0.5, 1.0


def prepare(
    job: Job,
    *,
    descent: Descent = DESCENT,
    temperature: float = TEMPERATURE,
    init: float = INIT,
    kind: str = "sample",
    mixed: bool = False,
) -> tuple[Tensors, dict[str, float]]:
    """Learn Concrete task arithmetic's mask (docs/method.md C).

    Args:
        job: the inputs; its ``steps`` come before the descent's.
        descent: how long and how fast.
        temperature: T of the relaxed variables.
        init: coefficient of both vectors.
        kind: of the last mask: ``sample``, ``hard`` or ``median``.
        mixed: whether adversarial images have half of the weight.

    Returns:
        ``mask/TENSOR``, and numbers before and after.
    """
    descent = _descent(job, descent)
    vectors = (job.tau_nat, job.tau_rob)
    with counting("prepare concrete", descent.steps) as advance:
        logits, losses = learn_mask(
            job.theta_0,
            vectors,
            entropy_loss(job, "concrete", mixed),
            descent,
            seed=job.seed,
            init=init,
            temperature=temperature,
            on_step=advance,
        )
    masks = drawn_masks(logits, temperature, job.seed, "concrete", "last", kind=kind)
    constant = job.theta_0[next(iter(job.theta_0))].new_full((2, 1, 1), init)
    numbers = _numbers(job, masks, constant, constant, losses)
    return {f"mask/{name}": mask for name, mask in masks.items()}, numbers


def prepare_am(
    job: Job,
    *,
    descent: Descent = DESCENT,
    temperature: float = TEMPERATURE,
    init: float = INIT,
    inner_rate: float = INNER_RATE,
    kind: str = "sample",
    clamp: bool = False,
    mixed: bool = False,
) -> tuple[Tensors, dict[str, float]]:
    """Learn Concrete AdaMerging's mask, then its coefficients (docs/method.md C).

    Args:
        job: the inputs; its ``steps`` come before the descent's.
        descent: how long and how fast; half of the steps are for the mask, half for coefficients.
        temperature: T of the relaxed variables.
        init: first coefficient of both vectors, in both halves.
        inner_rate: rate of the coefficients' step before each of the mask's.
        kind: of the last mask: ``sample``, ``hard`` or ``median``.
        clamp: whether the coefficients stay in [0, 1].
        mixed: whether adversarial images have half of the weight.

    Returns:
        ``mask/TENSOR`` and ``SOURCE/TENSOR``, and numbers before and after.
    """
    descent = _descent(job, descent)
    first_half = dataclasses.replace(descent, steps=descent.steps - descent.steps // 2)
    vectors = (job.tau_nat, job.tau_rob)
    loss, inner = (entropy_loss(job, f"concrete_am/{part}", mixed) for part in ("mask", "inner"))
    with counting("prepare concrete_am", descent.steps) as advance:
        logits, losses = learn_mask(
            job.theta_0,
            vectors,
            loss,
            first_half,
            seed=job.seed,
            init=init,
            temperature=temperature,
            inner=(inner, inner_rate),
            on_step=advance,
        )
        masks = drawn_masks(logits, temperature, job.seed, "concrete", "last", kind=kind)
        del logits
        found, later = learn_coefficients(
            job.theta_0,
            masked(vectors, masks),
            entropy_loss(job, "concrete_am/coefficients", mixed),
            dataclasses.replace(descent, steps=descent.steps // 2),
            grain="layer",
            init=init,
            clamp=clamp,
            on_step=advance,
        )
    first = found.new_full((2, 1, 1), init)
    numbers = _numbers(job, masks, first, found, losses + later)
    for source, values in zip(SOURCES, found, strict=True):
        numbers[f"coefficient_mean/{source}"] = values.mean().item()
    learned = {f"mask/{name}": mask for name, mask in masks.items()}
    return learned | named(found, list(job.theta_0)), numbers


def _descent(job: Job, descent: Descent) -> Descent:
    return descent if job.steps is None else dataclasses.replace(descent, steps=job.steps)


def _numbers(
    job: Job, masks: Tensors, first: torch.Tensor, last: torch.Tensor, losses: list[float]
) -> dict[str, float]:
    """Before: no mask, first coefficients. After: the mask, last coefficients."""
    vectors = (job.tau_nat, job.tau_rob)
    numbers = {"steps": float(len(losses))}
    if losses:
        numbers |= {"loss/first": losses[0], "loss/last": losses[-1]}
    numbers |= judged(job, composed(job.theta_0, vectors, first), "before")
    numbers |= judged(job, composed(job.theta_0, masked(vectors, masks), last), "after")
    below = sum(int((mask < 1).sum()) for mask in masks.values())
    numbers["mask/below_mean"] = below / sum(mask.numel() for mask in masks.values())
    return numbers
