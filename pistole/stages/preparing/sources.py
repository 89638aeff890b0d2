"""The two fine-tuned models, each with the images that its own task has."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from pistole.models.zeroshot import functional_logits
from pistole.seeds import derive
from pistole.stages.losses import Objective
from pistole.stages.preparing.job import Job, Tensors

GRADIENTS = 2**30  # bytes of single samples' gradients at once; decides the way they are computed
FP32 = 4


@dataclass(frozen=True)
class Prepared:
    """One source.

    Attributes:
        name: ``natural`` or ``robust``.
        theta: theta_0 + tau_s.
        pixels: clean images, or the same images attacked at theta_rob; on the device.
        labels: of the images, there too.
    """

    name: str
    theta: Tensors
    pixels: Tensor
    labels: Tensor


def sources(job: Job) -> Iterator[Prepared]:
    """Yield the natural model with clean images, then the robust one with adversarial ones.

    Args:
        job: the inputs.

    Yields:
        The sources.
    """
    objective = Objective(job.model, job.images, job.pass_size)
    for name, tau in (("natural", job.tau_nat), ("robust", job.tau_rob)):
        theta = {key: value + tau[key] for key, value in job.theta_0.items()}
        pixels = objective.clean
        if name == "robust":
            pixels = objective.attacked(theta, job.budget, derive(job.seed, "prepare", name))
        yield Prepared(name, theta, pixels.to(objective.device), objective.labels)


def gradients_at_once(parameters: int, most: int) -> int:
    """Say how many samples' gradients are computed together.

    Args:
        parameters: of the tower.
        most: images per pass.

    Returns:
        A number that these two decide alone, whatever the machine has.
    """
    return max(1, min(most, GRADIENTS // (FP32 * parameters)))


def at_once(job: Job) -> int:
    """Say the same of a job.

    Args:
        job: gives the tower and the images per pass.

    Returns:
        Samples whose gradients are computed together.
    """
    parameters = sum(value.numel() for value in job.theta_0.values())
    return gradients_at_once(parameters, job.pass_size)


def sample_loss(job: Job) -> Callable[[Tensors, Tensor, Tensor], Tensor]:
    """Make the cross-entropy of one image a function of the parameters.

    Args:
        job: gives the model.

    Returns:
        From parameters, an image and its label to the loss.
    """

    def loss(theta: Tensors, image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_logits(job.model, theta, image[None]), label[None])

    return loss
