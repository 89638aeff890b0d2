"""Model Breadcrumbs (Davari and Belilovsky, ECCV 2024; docs/method.md C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pistole.baselines.options import require_share
from pistole.baselines.rule import Rule, weighted_sum
from pistole.errors import require_choice
from pistole.method.vectors import Real

VARIANTS = ("row", "layer", "density")


@dataclass(frozen=True, kw_only=True)
class Breadcrumbs(Rule):
    """theta_0 + alpha sum_t w_t m_t * tau_t, m_t without the outliers and without the small ones.

    Of n magnitudes the largest floor(``gamma`` n) are masked, the next floor(``keep`` n) stay, all
    smaller ones are masked; of equal magnitudes the earlier coordinate counts as the larger.
    ``variant`` says over what: ``row``, each row of the last dimension (the official code: tensors
    of one dimension are one row, a single number stays); ``layer``, each whole tensor (the paper);
    ``density``, mergekit's, as ``layer`` but masking fewer outliers where gamma + keep > 1, so that
    the density is ``keep``. Short rows (keep n < 1) lose all, as in the official code.

    Data need: none (labelled to choose alpha). Defaults: gamma 0.006, keep 0.15, alpha 0.2, where
    the official search starts; its README shows gamma 0.1, keep 0.2, alpha 0.4, and mergekit's
    documentation gamma 0.01 with density 0.9.
    """

    scaling: float = 0.2
    gamma: float = 0.006
    keep: float = 0.15
    variant: str = "row"

    def __post_init__(self) -> None:  # noqa: D105
        super().__post_init__()
        require_share("gamma", self.gamma, zero=True, one=False)
        require_share("keep", self.keep)
        require_choice("variant", self.variant, VARIANTS)

    def mask(self, delta: Tensor) -> Tensor:
        """Mask one tensor (docs/method.md C, Breadcrumbs).

        Args:
            delta: of one task vector.

        Returns:
            True where the coordinate stays.
        """
        by_row = self.variant == "row"
        if by_row and not delta.dim():
            return torch.ones_like(delta, dtype=torch.bool)
        rows = delta.abs() if by_row else delta.abs().flatten()
        size = rows.shape[-1]
        left = int(size * self.keep)
        top = int(size * self.gamma)
        if self.variant == "density":
            top = min(top, size - left)
        order = rows.sort(dim=-1, descending=True, stable=True).indices
        kept = torch.zeros_like(rows, dtype=torch.bool)
        return kept.scatter_(-1, order[..., top : top + left], True).reshape(delta.shape)

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        masked = [delta.masked_fill(~self.mask(delta), 0) for delta in deltas]
        return base + self.scaling * weighted_sum(masked, weights)
