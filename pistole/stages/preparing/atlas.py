"""Preparation ``atlas``."""

import math

from torch import Tensor
from torch.nn.functional import cross_entropy

from pistole.baselines.atlas import CLIP, EPOCHS, LR, WEIGHT_DECAY
from pistole.baselines.learning import Descent
from pistole.models.zeroshot import functional_logits
from pistole.stages.preparing.adamerging import learn
from pistole.stages.preparing.images import Batches
from pistole.stages.preparing.job import Job, Tensors


def prepare(
    job: Job,
    *,
    descent: Descent | None = None,
    init: float = 0.0,
    parts: int = 1,
) -> tuple[Tensors, dict[str, float]]:
    """Learn aTLAS's coefficients with labels (docs/method.md C).

    Args:
        job: the inputs; its ``steps`` come before the descent's.
        descent: how long and how fast; None is ten epochs of the images with the official options.
        init: first value of all coefficients.
        parts: K, random parts of a tensor, each with its own coefficient.

    Returns:
        ``SOURCE/TENSOR`` -> its coefficients, one per part, and numbers before and after.
    """
    batches = Batches(job, "atlas")
    if descent is None:
        steps = EPOCHS * math.ceil(len(job.images) / batches.size)
        descent = Descent(steps, LR, WEIGHT_DECAY, CLIP)

    def loss(theta: Tensors, step: int) -> Tensor:
        images, labels = batches(step)
        attacked = batches.attacked(theta, images, labels, step)
        clean = cross_entropy(functional_logits(job.model, theta, images), labels)
        return (clean + cross_entropy(functional_logits(job.model, theta, attacked), labels)) / 2

    return learn(job, "atlas", loss, descent, grain="layer", init=init, parts=parts)
