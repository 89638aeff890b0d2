"""What every fine-tuning objective is: an attack in fp32, then a loss (docs/method.md B.0)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pistole.robust.pgd import Budget, maximise, pgd


class Classifier(Protocol):
    """What an objective asks of a zero-shot classifier; images are in [0, 1].

    Attributes:
        image_size: side of the visual tower's input, px.
        text_features: T, unit norm, [C, e].
    """

    image_size: int
    text_features: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits [n, C]."""
        ...

    def embed(self, images: Tensor) -> Tensor:
        """Return f(x) [n, e], not normalised."""
        ...

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(x) and the projected tokens [n, t, e], the class token first."""
        ...

    def classify(self, features: Tensor) -> Tensor:
        """Return logits [n, C] from f(x)."""
        ...

    def seen_with(
        self, mean: Sequence[float], std: Sequence[float], logit_scale: float
    ) -> "Classifier":
        """Return the same tower under another normalisation and logit scale."""
        ...


@dataclass(frozen=True)
class Batch:
    """Images of one optimiser step, or of a part of it.

    Attributes:
        images: clean, in [0, 1].
        labels: class per image.
        noise: displacement that the attack starts from.
        whole: images of the whole step, over all parts and processes.
    """

    images: Float[Tensor, "n 3 h w"]
    labels: Int[Tensor, " n"]
    noise: Float[Tensor, "n 3 h w"]
    whole: int


Numbers = dict[str, float]


@dataclass(frozen=True)
class Objective(ABC):
    """A fine-tuning objective; the fields of a subclass are its hyper-parameters.

    Attributes:
        attacks: whether it trains on adversarial images.
        compares: whether its loss needs the frozen original.
    """

    attacks: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    def prepare(self, model: Any) -> Any:
        """Return the model as this objective sees it, for attack, update and frozen original.

        Args:
            model: the classifier that is trained.

        Returns:
            The classifier itself, or a view of the same parameters.
        """
        return model

    def adversarial(
        self, model: Classifier, original: Classifier | None, batch: Batch, budget: Budget
    ) -> Float[Tensor, "n 3 h w"]:
        """Attack the batch in fp32 (docs/method.md B.2).

        Args:
            model: the classifier that is trained.
            original: the frozen classifier that training began with; needed if the loss is l2.
            batch: the images.
            budget: its loss ``ce`` is the cross-entropy, ``l2`` the distance of FARE.

        Returns:
            The attacked images; the clean ones if the objective does not attack.
        """
        if not self.attacks:
            return batch.images
        if budget.loss == "ce":
            return pgd(model, batch.images, batch.labels, budget, noise=batch.noise)
        assert original is not None
        with torch.no_grad():
            target = original.embed(batch.images)

        def distance(images: Tensor) -> Tensor:
            return squared_distance(model.embed(images), target).sum()

        return maximise(distance, batch.images, budget, noise=batch.noise)

    @abstractmethod
    def loss(
        self,
        model: Classifier,
        original: Classifier | None,
        batch: Batch,
        adversarial: Float[Tensor, "n 3 h w"],
    ) -> tuple[Float[Tensor, ""], Numbers]:
        """Return the mean loss of the batch's rows, and numbers for the curve.

        The step's loss is the mean of its parts', weighted by their rows.

        Args:
            model: the classifier that is trained.
            original: the frozen classifier that training began with, if it is needed.
            batch: the images.
            adversarial: what :meth:`adversarial` returned.

        Returns:
            The loss, and at least ``accuracy`` on the images that it is made of.
        """


def squared_distance(
    features: Float[Tensor, "n e"], target: Float[Tensor, "n e"]
) -> Float[Tensor, " n"]:
    """Return ``||f - t||_2^2`` per row, a sum over the dimensions (docs/method.md B.0, FARE).

    Args:
        features: embeddings, not normalised.
        target: others.

    Returns:
        Squared distances, at least in fp32.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    return (features.to(wide) - target.to(wide)).square().sum(1)


def accuracy(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> float:
    """Return the share of rows whose largest logit is the label's.

    Args:
        logits: of the images.
        labels: of the images.

    Returns:
        A fraction in [0, 1].
    """
    return (logits.detach().argmax(1) == labels).float().mean().item()
