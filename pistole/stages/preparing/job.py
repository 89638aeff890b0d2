"""What a preparation gets: the model, the two vectors, and held-out training images."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pistole.models.zeroshot import ZeroShotClassifier
from pistole.robust.pgd import Budget
from pistole.stages.slices import Slice

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Job:
    """The inputs of one preparation.

    Attributes:
        model: zero-shot classifier of the fine-tuning dataset, holding the base's parameters.
        images: held-out training images, labelled; never test images.
        theta_0: the base's parameters on the model's device.
        tau_nat: natural task vector, there too.
        tau_rob: robust task vector, there too.
        budget: the attack behind adversarial images.
        seed: of the run.
        batch_size: images per gradient step of what learns.
        pass_size: images per pass, for memory only.
        steps: gradient steps of what learns; None means the method's own.
    """

    model: ZeroShotClassifier
    images: Slice
    theta_0: Tensors
    tau_nat: Tensors
    tau_rob: Tensors
    budget: Budget
    seed: int
    batch_size: int
    pass_size: int
    steps: int | None


# Statistics by name, and a few numbers about them for the metrics.
Preparation = Callable[[Job], tuple[Tensors, dict[str, float]]]
