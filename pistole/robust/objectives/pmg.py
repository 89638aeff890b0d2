"""PMG-AFT: pre-trained model guided adversarial fine-tuning (Wang et al., CVPR 2024)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from pistole.robust.objectives.base import Batch, Classifier, Numbers, Objective, accuracy

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pmg(Objective):
    """Adversarial cross-entropy, held to two other predictions (docs/method.md B.0, PMG-AFT).

    Attributes:
        alpha: weight of the term that holds it to the frozen model on the same images.
        beta: weight of the term that holds it to its own clean prediction.
        detach_clean: stop the gradient through the clean prediction, which the released code
            does not.
        official: as in the released code: the divergences are summed over the batch, logits are
            bare cosines in attack and loss, and images are normalised with ImageNet's statistics.
    """

    compares: ClassVar[bool] = True
    alpha: float = 1.0
    beta: float = 1.0
    detach_clean: bool = False
    official: bool = False

    def prepare(self, model: Any) -> Any:
        """Return the model as is, or as the released code sees it.

        Args:
            model: the classifier that is trained.

        Returns:
            The classifier; with ``official`` under ImageNet's normalisation and logit scale 1.
        """
        if not self.official:
            return model
        return model.seen_with(IMAGENET_MEAN, IMAGENET_STD, 1.0)

    def loss(
        self, model: Classifier, original: Classifier | None, batch: Batch, adversarial: Tensor
    ) -> tuple[Tensor, Numbers]:
        """Return ``CE(z_adv, y) + alpha KL(p_0,adv || p_adv) + beta KL(p_clean || p_adv)``.

        Args:
            model: the classifier that is trained.
            original: the frozen classifier that training began with.
            batch: the images.
            adversarial: the attacked images.

        Returns:
            The mean loss, the accuracy under the attack, and the three terms without weights.
        """
        assert original is not None
        logits = model(adversarial)
        with torch.no_grad():
            frozen = original(adversarial)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_clean):
            clean = model(batch.images)
        scale = batch.whole if self.official else 1
        error = cross_entropy(logits, batch.labels)
        general = scale * divergence(frozen, logits)
        kept = scale * divergence(clean, logits)
        found = {
            "accuracy": accuracy(logits, batch.labels),
            "cross_entropy": error.item(),
            "kl_frozen": general.item(),
            "kl_clean": kept.item(),
        }
        return error + self.alpha * general + self.beta * kept, found


def divergence(target: Float[Tensor, "n c"], logits: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Return ``mean_n KL(softmax(target) || softmax(logits))`` (docs/method.md B.0, PMG-AFT).

    Args:
        target: logits of the distribution that the expectation is over.
        logits: of the other.

    Returns:
        The mean over the rows, differentiable in both.
    """
    goal, found = log_softmax(target, dim=1), log_softmax(logits, dim=1)
    return kl_div(found, goal, reduction="batchmean", log_target=True)
