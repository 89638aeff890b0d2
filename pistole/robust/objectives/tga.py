"""TGA-ZSR: text-guided attention for zero-shot robustness (Yu et al., NeurIPS 2024)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, normalize

from pistole.robust.objectives.base import Batch, Classifier, Numbers, Objective, accuracy

MAP_SIDE = 224  # px; fixed, so that alpha and beta mean the same for every tower
GUARD = 1e-6
ROUND_OFF = 1e-2  # of a map's norm, which is in the tens where maps differ


@dataclass(frozen=True)
class Tga(Objective):
    """Adversarial cross-entropy with attention maps held to the frozen model's (B.0, TGA-ZSR).

    Attributes:
        alpha: weight of the term on adversarial images.
        beta: weight of the term on clean images.
        official: as in the released code: tokens are normalised over the token axis instead of
            the features, a constant map divides 0 by 0, and a difference that is mere round-off,
            as at the first step, has a gradient of full length.
    """

    compares: ClassVar[bool] = True
    alpha: float = 0.08
    beta: float = 0.05
    official: bool = False

    def prepare(self, model: Any) -> Any:
        """Refuse a tower without patch tokens before any attack is spent.

        Args:
            model: the classifier that is trained.

        Returns:
            The classifier.
        """
        side = model.image_size
        with torch.no_grad():
            model.tokens(torch.full((1, 3, side, side), 0.5, device=model.text_features.device))
        return model

    def loss(
        self, model: Classifier, original: Classifier | None, batch: Batch, adversarial: Tensor
    ) -> tuple[Tensor, Numbers]:
        """Return ``CE(z_adv, y) + alpha L_AR + beta L_AMC``.

        ``L_AR = mean_n ||A(x_adv) - A_0(x)||_2`` and ``L_AMC = mean_n ||A(x) - A_0(x)||_2`` with
        the maps A of :func:`attention_map` for the text of the true class.

        Args:
            model: the classifier that is trained; a ViT.
            original: the frozen classifier that training began with.
            batch: the images.
            adversarial: the attacked images.

        Returns:
            The mean loss, the accuracy under the attack, and the three terms without weights.
        """
        assert original is not None
        text = model.text_features[batch.labels]

        def attention(tokens: Tensor) -> Tensor:
            return attention_map(tokens, text, official=self.official).flatten(1)

        with torch.no_grad():
            wanted = attention(original.tokens(batch.images)[1])
        features, attacked = model.tokens(adversarial)
        _, clean = model.tokens(batch.images)
        logits = model.classify(features)
        error = cross_entropy(logits, batch.labels)
        refined = self._length(attention(attacked) - wanted).mean()
        kept = self._length(attention(clean) - wanted).mean()
        found = {
            "accuracy": accuracy(logits, batch.labels),
            "cross_entropy": error.item(),
            "attention_adversarial": refined.item(),
            "attention_clean": kept.item(),
        }
        return error + self.alpha * refined + self.beta * kept, found

    def _length(self, difference: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
        """The l2 norm; within 0.01 of it, and without a direction where it is mere round-off."""
        if self.official:
            return torch.linalg.vector_norm(difference, dim=1)
        return (difference.square().sum(1) + ROUND_OFF**2).sqrt() - ROUND_OFF


def attention_map(
    tokens: Float[Tensor, "n t e"], text: Float[Tensor, "n e"], *, official: bool = False
) -> Float[Tensor, "n s s"]:
    """Show where an image resembles a text (docs/method.md B.0, TGA-ZSR).

    Cosine of every patch with the text, min-max to [0, 1] over the patches, bilinear to 224 px.

    Args:
        tokens: class token, then the patches of a square grid row by row.
        text: unit-norm text feature of each image's class.
        official: divide by the norm over the **token** axis, class token included, and by the
            bare range of the map.

    Returns:
        The maps, fp32.
    """
    tokens = tokens.float()
    unit = normalize(tokens, dim=1 if official else 2)
    similarity = (unit[:, 1:] * text[:, None].float()).sum(2)
    side = math.isqrt(similarity.shape[1])
    low = similarity.amin(1, keepdim=True)
    span = similarity.amax(1, keepdim=True) - low
    scaled = (similarity - low) / (span if official else span + GUARD)
    grid = scaled.unflatten(1, (1, side, side))
    return interpolate(grid, (MAP_SIDE, MAP_SIDE), mode="bilinear", align_corners=False)[:, 0]
