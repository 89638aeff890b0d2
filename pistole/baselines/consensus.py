"""TALL masks and Consensus merging (Wang et al., ICML 2024; docs/method.md C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pistole.baselines.options import require_number
from pistole.baselines.rule import Rule, Walk
from pistole.baselines.ties import sum_of
from pistole.errors import UserError
from pistole.method.vectors import Real


@dataclass(frozen=True, kw_only=True)
class Consensus(Rule):
    """theta_0 + alpha 1[sum_t m_t >= k] * tau, tau = sum_t u_t, u_t = w_t tau_t.

    m_t = 1[|u_t| > lam_t |tau - u_t|] is vector t's TALL mask: the coordinates that matter to it.
    k is ``agree``: 2 drops the catastrophic coordinates, which no vector uses, and the selfish
    ones, which one uses; 1 drops the catastrophic ones; 0 is task arithmetic. With two vectors 1
    is the union and 2 the intersection of the masks, empty for lam_t >= 1.

    Data need: labelled, to choose ``lams`` (one for all vectors or one per vector) and alpha.
    Defaults: k = 2, the official one; lam = 0.4, the middle of the official grid 0.2 to 0.6 from
    which each task takes its best; alpha = 0.4, that of task arithmetic here.
    """

    elementwise: ClassVar[bool] = True
    scaling: float = 0.4
    agree: int = 2
    lams: float | tuple[float, ...] = 0.4

    def __post_init__(self) -> None:  # noqa: D105
        super().__post_init__()
        if not isinstance(self.agree, int) or self.agree < 0:
            raise UserError(f"agree is {self.agree}: give the number of vectors, 0 or more")
        for lam in self.lams if isinstance(self.lams, tuple) else (self.lams,):
            require_number("lam", lam)
            if lam < 0:
                raise UserError(f"lam is {lam}: give 0 or more")

    def survey(self, walk: Walk, weights: Sequence[Real]) -> tuple[float, ...]:
        """Refuse options that do not fit the number of vectors.

        Args:
            walk: not walked.
            weights: of the vectors.

        Returns:
            lam_t per vector.

        Raises:
            UserError: more agreeing vectors than there are, or another number of lam_t.
        """
        count = len(weights)
        lams = self.lams if isinstance(self.lams, tuple) else (self.lams,) * count
        if len(lams) != count:
            raise UserError(f"{len(lams)} lams for {count} task vectors: give one per vector")
        if self.agree > count:
            raise UserError(f"agree is {self.agree} for {count} task vectors: give at most {count}")
        return lams

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        parts = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
        total = sum_of(parts)
        used = sum_of([mask.to(torch.int32) for mask in tall_masks(parts, survey)])
        return base + self.scaling * total.masked_fill_(used < self.agree, 0)


def tall_masks(parts: Sequence[Tensor], lams: Sequence[Real]) -> list[Tensor]:
    """Find the coordinates that matter to each vector (docs/method.md C, TALL).

    Args:
        parts: u_t, one tensor per vector.
        lams: lam_t, one per vector.

    Returns:
        |u_t| > lam_t |sum_s u_s - u_t|, per vector.
    """
    total = sum_of(parts)
    return [part.abs() > lam * (total - part).abs() for part, lam in zip(parts, lams, strict=True)]
