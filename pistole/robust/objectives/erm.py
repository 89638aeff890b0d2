"""ERM: natural fine-tuning."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from pistole.robust.objectives.base import Batch, Classifier, Numbers, Objective, accuracy


@dataclass(frozen=True)
class Erm(Objective):
    """Cross-entropy of the clean images (docs/method.md B.0, ERM)."""

    attacks: ClassVar[bool] = False

    def loss(
        self, model: Classifier, original: Classifier | None, batch: Batch, adversarial: Tensor
    ) -> tuple[Tensor, Numbers]:
        """Return ``CE(z(x), y)``.

        Args:
            model: the classifier that is trained.
            original: not used.
            batch: the images.
            adversarial: not used.

        Returns:
            The mean loss, and the clean accuracy.
        """
        logits = model(batch.images)
        found = {"accuracy": accuracy(logits, batch.labels)}
        return cross_entropy(logits, batch.labels), found
