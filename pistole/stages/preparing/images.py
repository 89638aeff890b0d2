"""Batches, attacks and numbers that the methods which learn share."""

from collections.abc import Callable

import torch
from torch import Tensor

from pistole.baselines.learning import mean_entropy
from pistole.models.zeroshot import functional_logits
from pistole.robust.pgd import pgd
from pistole.seeds import derive, generator
from pistole.stages.losses import Objective
from pistole.stages.preparing.job import Job, Tensors

StepLoss = Callable[[Tensors, int], Tensor]


class Batches:
    """Batches by step number: every epoch is a permutation that the seed decides."""

    def __init__(self, job: Job, purpose: str) -> None:
        """Hold the images.

        Args:
            job: gives images, batch size, device and seed; a slice smaller than a batch is one.
            purpose: what learns; others get other batches.
        """
        self.job, self.purpose = job, purpose
        self.device = next(job.model.parameters()).device
        self.size = min(job.batch_size, len(job.images))
        self.per_epoch = len(job.images) // self.size

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return batch number ``step``.

        Args:
            step: 0, 1, 2, ...

        Returns:
            Images in [0, 1] and labels, on the model's device.
        """
        epoch, place = divmod(step, self.per_epoch)
        source = generator(self.job.seed, "preparing", self.purpose, "epoch", epoch)
        order = torch.randperm(len(self.job.images), generator=source)
        chosen = order[place * self.size : (place + 1) * self.size]
        labels = self.job.images.labels[chosen].to(self.device)
        return self.job.images.pixels(chosen).to(self.device), labels

    def attacked(self, theta: Tensors, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """Attack the images of a step at a point.

        Args:
            theta: the point; it gets no gradient.
            images: of the step.
            labels: that the attack leads away from.
            step: its number, which decides the start.

        Returns:
            Adversarial images.
        """
        held = {name: value.detach() for name, value in theta.items()}
        return pgd(
            lambda pixels: functional_logits(self.job.model, held, pixels),
            images,
            labels,
            self.job.budget,
            generator=generator(self.job.seed, "preparing", self.purpose, "start", step),
        )


def entropy_loss(job: Job, purpose: str, mixed: bool) -> StepLoss:
    """Make the mean entropy of a step's images a function of the parameters.

    Args:
        job: the inputs.
        purpose: what learns.
        mixed: whether half of the weight is on adversarial images, which lead away from the
            model's own prediction on the clean ones: no label is read.

    Returns:
        The loss.
    """
    batches = Batches(job, purpose)

    def loss(theta: Tensors, step: int) -> Tensor:
        images, _ = batches(step)
        logits = functional_logits(job.model, theta, images)
        entropy = mean_entropy(logits)
        if not mixed:
            return entropy
        attacked = batches.attacked(theta, images, logits.detach().argmax(1), step)
        return (entropy + mean_entropy(functional_logits(job.model, theta, attacked))) / 2

    return loss


def judged(job: Job, theta: Tensors, moment: str, *, attack: bool = True) -> dict[str, float]:
    """Measure entropy and accuracy on all images, clean and attacked.

    Entropy that falls while accuracy does not rise is sharpened, not learned (docs/method.md C).

    Args:
        job: the inputs.
        theta: the point.
        moment: ``before`` or ``after`` learning, for the names.
        attack: whether to attack the images, away from their labels.

    Returns:
        ``MOMENT/entropy_clean``, ``MOMENT/accuracy_clean``, and the same ``_adversarial``.
    """
    objective = Objective(job.model, job.images, job.pass_size)
    pixels = {"clean": objective.clean}
    if attack:
        # The same start before and after.
        seed = derive(job.seed, "preparing", "judged")
        pixels["adversarial"] = objective.attacked(theta, job.budget, seed)
    numbers = {}
    for kind, images in pixels.items():
        entropy, right = _sums(objective, theta, images)
        numbers[f"{moment}/entropy_{kind}"] = entropy / len(job.images)
        numbers[f"{moment}/accuracy_{kind}"] = right / len(job.images)
    return numbers


@torch.no_grad()
def _sums(objective: Objective, theta: Tensors, pixels: Tensor) -> tuple[float, int]:
    entropy, right = 0.0, 0
    for batch in objective.batches():
        images = pixels[batch].to(objective.device)
        logits = functional_logits(objective.model, theta, images)
        entropy += mean_entropy(logits).item() * len(batch)
        right += int((logits.argmax(1) == objective.labels[batch]).sum())
    return entropy, right
