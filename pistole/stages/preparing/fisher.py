"""Preparation ``fisher``: the diagonals of both models' Fisher matrices."""

import torch
from torch import Tensor

from pistole.baselines.fisher import FLOOR, fisher_diagonal, norm_of
from pistole.models.zeroshot import functional_logits
from pistole.progress import counting
from pistole.seeds import generator
from pistole.stages.preparing.job import Job, Tensors
from pistole.stages.preparing.sources import at_once, sources


def prepare(job: Job, *, labels: str = "sampled") -> tuple[Tensors, dict[str, float]]:
    """Measure F of the clean loss at theta_nat and of the adversarial loss at theta_rob.

    Args:
        job: the inputs.
        labels: ``sampled``, ``true`` or ``all``, as for
            :func:`pistole.baselines.fisher.fisher_diagonal`.

    Returns:
        ``SOURCE/TENSOR`` -> F, ``norm/SOURCE`` -> its norm; and per source the norm and the share
        of coordinates below the floor, which the merge does not tell apart.
    """
    statistics, numbers = {}, {}

    def log_probs(theta: Tensors, x: Tensor) -> Tensor:
        return functional_logits(job.model, theta, x).log_softmax(1)

    with counting("prepare fisher", 2) as advance:
        for source in sources(job):
            diagonal = fisher_diagonal(
                log_probs,
                source.theta,
                source.pixels,
                labels=labels,
                truth=source.labels,
                uniforms=uniforms(job, source.name),
                together=at_once(job),
            )
            norm = norm_of(diagonal)
            statistics |= {f"{source.name}/{name}": value for name, value in diagonal.items()}
            statistics[f"norm/{source.name}"] = norm
            numbers[f"norm/{source.name}"] = norm.item()
            numbers[f"below_floor/{source.name}"] = _below(diagonal)
            advance(source.name)
    return statistics, numbers


def uniforms(job: Job, source: str) -> Tensor:
    """Draw one number per image, which its id decides.

    Args:
        job: the inputs.
        source: another source draws others.

    Returns:
        Numbers in [0, 1).
    """
    own = (generator(job.seed, "prepare", "fisher", source, name) for name in job.images.ids)
    return torch.stack([torch.rand((), generator=each, dtype=torch.float64) for each in own])


def _below(diagonal: Tensors) -> float:
    low = sum(int((value < FLOOR).sum()) for value in diagonal.values())
    return low / sum(value.numel() for value in diagonal.values())
