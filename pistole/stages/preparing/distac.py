"""Preparation ``distac``."""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pistole.baselines.distac import (
    BETA,
    DESCENT,
    SHARPENING,
    SOFT,
    condition,
    distillation,
    norm_of,
    scales,
)
from pistole.baselines.learning import Descent
from pistole.baselines.sources import SOURCES
from pistole.models.zeroshot import functional_logits
from pistole.progress import counting
from pistole.stages.preparing.images import Batches, StepLoss, judged
from pistole.stages.preparing.job import Job, Tensors

TEMPERATURES = {"natural": SOFT, "robust": SHARPENING}


def prepare(
    job: Job,
    *,
    descent: Descent = DESCENT,
    beta: float = BETA,
    temperatures: Mapping[str, tuple[float, float]] = TEMPERATURES,
    match_norms: bool = True,
) -> tuple[Tensors, dict[str, float]]:
    """Condition both task vectors (docs/method.md C.4).

    Args:
        job: the inputs; its ``steps`` come before the descent's.
        descent: how long and how fast.
        beta: weight of the anchor.
        temperatures: of teacher and student, by source.
        match_norms: whether the longer vector shrinks to the other's norm.

    Returns:
        ``SOURCE/TENSOR`` -> its part of the conditioned vector, and numbers before and after.
    """
    if job.steps is not None:
        descent = dataclasses.replace(descent, steps=job.steps)
    vectors = dict(zip(SOURCES, (job.tau_nat, job.tau_rob), strict=True))
    norms = [norm_of(tau) for tau in vectors.values()]
    kappas = scales(norms) if match_norms else [1.0] * len(norms)
    # Where teacher and student are the same, the start is the minimum: rounding would move it.
    learns = {
        source: kappa != 1 or temperatures[source][0] != temperatures[source][1]
        for source, kappa in zip(SOURCES, kappas, strict=True)
    }
    found, numbers = {}, {}
    with counting("prepare distac", descent.steps * sum(learns.values())) as advance:
        for (source, tau), norm, kappa in zip(vectors.items(), norms, kappas, strict=True):
            conditioned, told = tau, {}
            if learns[source]:
                conditioned, told = _conditioned(
                    job, source, tau, descent, kappa, beta, temperatures[source], advance
                )
            told |= {"kappa": kappa, "norm_before": norm, "norm_after": norm_of(conditioned)}
            numbers |= {f"{source}/{name}": value for name, value in told.items()}
            found |= {f"{source}/{name}": value for name, value in conditioned.items()}
    return found, numbers


def _conditioned(
    job: Job,
    source: str,
    tau: Tensors,
    descent: Descent,
    kappa: float,
    beta: float,
    temperatures: tuple[float, float],
    advance: Callable[[], None],
) -> tuple[Tensors, dict[str, float]]:
    attack = source == "robust"
    teacher = _moved(job.theta_0, tau)
    numbers = judged(job, teacher, "before", attack=attack)
    loss = _distilled(job, source, teacher, temperatures, attack)
    conditioned, losses = condition(
        job.theta_0, tau, loss, descent, kappa=kappa, beta=beta, on_step=advance
    )
    del teacher, loss  # before the student needs the room
    numbers |= judged(job, _moved(job.theta_0, conditioned), "after", attack=attack)
    if losses:
        numbers |= {"loss/first": losses[0], "loss/last": losses[-1]}
    return conditioned, numbers


def _moved(theta_0: Tensors, vector: Tensors) -> Tensors:
    return {name: base + vector[name] for name, base in theta_0.items()}


def _distilled(
    job: Job, source: str, teacher: Tensors, temperatures: tuple[float, float], attack: bool
) -> StepLoss:
    batches = Batches(job, f"distac/{source}")

    @torch.no_grad()
    def taught(images: Tensor) -> Tensor:
        return functional_logits(job.model, teacher, images)

    def loss(theta: Tensors, step: int) -> Tensor:
        images, _ = batches(step)
        target = taught(images)
        if attack:
            # Away from the teacher's prediction: no label is read.
            attacked = batches.attacked(theta, images, target.argmax(1), step)
            images, target = torch.cat([images, attacked]), torch.cat([target, taught(attacked)])
        return distillation(target, functional_logits(job.model, theta, images), temperatures)

    return loss
