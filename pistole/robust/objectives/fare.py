"""FARE: unsupervised adversarial fine-tuning of the embedding (Schlarmann et al., ICML 2024)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pistole.robust.objectives.base import (
    Batch,
    Classifier,
    Numbers,
    Objective,
    accuracy,
    squared_distance,
)


@dataclass(frozen=True)
class Fare(Objective):
    """Adversarial embeddings stay where the frozen model has the clean ones (B.0, FARE).

    It uses no labels; its attack is ``loss: l2`` (docs/method.md B.2).
    """

    compares: ClassVar[bool] = True

    def loss(
        self, model: Classifier, original: Classifier | None, batch: Batch, adversarial: Tensor
    ) -> tuple[Tensor, Numbers]:
        """Return ``mean_n || f(x_adv) - f_0(x) ||_2^2`` of embeddings that are not normalised.

        Args:
            model: the classifier that is trained.
            original: the frozen classifier that training began with.
            batch: the images; the labels serve the accuracy alone.
            adversarial: the attacked images.

        Returns:
            The mean loss, and the accuracy under the attack.
        """
        assert original is not None
        with torch.no_grad():
            target = original.embed(batch.images)
        features = model.embed(adversarial)
        with torch.no_grad():
            found = {"accuracy": accuracy(model.classify(features), batch.labels)}
        return squared_distance(features, target).mean(), found
