"""TeCoA: text-guided contrastive adversarial training (Mao et al., ICLR 2023)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from pistole.robust.objectives.base import Batch, Classifier, Numbers, Objective, accuracy


@dataclass(frozen=True)
class Tecoa(Objective):
    """Cross-entropy of adversarial images (docs/method.md B.0, TeCoA)."""

    def loss(
        self, model: Classifier, original: Classifier | None, batch: Batch, adversarial: Tensor
    ) -> tuple[Tensor, Numbers]:
        """Return ``CE(z(x_adv), y)``.

        Args:
            model: the classifier that is trained.
            original: not used.
            batch: the labels.
            adversarial: the attacked images.

        Returns:
            The mean loss, and the accuracy under the attack.
        """
        logits = model(adversarial)
        found = {"accuracy": accuracy(logits, batch.labels)}
        return cross_entropy(logits, batch.labels), found
