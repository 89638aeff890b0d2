"""Optimal Brain Merging: saliencies of a layer-wise quadratic (docs/method.md C.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pistole.baselines.activations import NONE, ROWS
from pistole.baselines.largest import largest
from pistole.baselines.rule import Rule
from pistole.baselines.sources import source_named
from pistole.errors import UserError, require_choice
from pistole.method.vectors import Real

SALIENCIES = ("obd", "obs")
DAMPING = 0.01


@dataclass(frozen=True, kw_only=True)
class Obm(Rule):
    """theta_0 + alpha sum_t w_t tau_t where it is salient and agrees with the elected sign.

    Of each linear layer, with delta_t = w_t tau_t and H_t = 2 X_t^T X_t / rows the Hessian of the
    layer's squared output error: s_t = delta_t^2 H_jj / 2 (``obd``), or delta_t^2 / (2 [H^-1]_jj)
    (``obs``); divided by its mean over the layer; the top ``share`` of each delta_t is kept; the
    sign of a coordinate is sgn(sum_t s_t sgn(delta_t)) over what is kept, and entries of another
    sign are dropped (all of them where the sum is 0). All other tensors: plain task arithmetic.
    Data need: unlabelled images.

    Statistics: per tensor ``axis/TENSOR`` (as for RegMean), and for linear layers
    ``natural obd/TENSOR`` and ``robust obd/TENSOR``, H_jj per input j, and ``natural obs/TENSOR``
    and ``robust obs/TENSOR``, 1 / [H^-1]_jj with damping of 1% of H's mean diagonal. Convolutions
    whose patches do not overlap are linear layers.

    Defaults: there is no public code, and the share and coefficients are not known. Chosen: 20%, as
    TIES has it; unit coefficients; ``obd``; normalised saliencies, with which the elected signs
    do not depend on the weights.

    Attributes:
        share: of each linear layer's entries that is kept.
        saliency: ``obd`` or ``obs``.
        normalize: divide saliencies by their mean over the layer, so that tasks compare.
    """

    needs: ClassVar[str | None] = "obm"
    share: float = 0.2
    saliency: str = "obd"
    normalize: bool = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of its range.
        """
        super().__post_init__()
        require_choice("obm saliency", self.saliency, SALIENCIES)
        if not 0 <= self.share <= 1:
            raise UserError(f"obm share is {self.share}: give a share in [0, 1]")

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        own = [weight * delta.double() for weight, delta in zip(weights, deltas, strict=True)]
        axis = int(self.statistic(f"axis/{name}"))
        if axis != NONE:
            saliencies = [self._saliency(n, name, delta, axis) for n, delta in enumerate(own)]
            own = agreeing(own, saliencies, self.share)
        return (base.double() + self.scaling * sum(own)).float()

    def _saliency(self, number: int, name: str, delta: Tensor, axis: int) -> Tensor:
        key = f"{source_named(number)} {self.saliency}/{name}"
        curvature = self.statistic(key).double()
        matrix = delta.flatten(1)
        curvature = curvature[:, None] if axis == ROWS else curvature[None]
        found = (matrix.square() * curvature / 2).reshape(delta.shape)
        mean = found.mean()
        return found / mean if self.normalize and mean > 0 else found


def agreeing(deltas: Sequence[Tensor], saliencies: Sequence[Tensor], share: float) -> list[Tensor]:
    """Trim to the most salient entries and to the sign that saliency elects (docs/method.md C.3).

    Args:
        deltas: displacements of one layer.
        saliencies: theirs, same shape.
        share: of the entries that is kept of each.

    Returns:
        The displacements, 0 where not salient or of another sign.
    """
    kept = [
        torch.where(largest(saliency, share), delta, 0)
        for delta, saliency in zip(deltas, saliencies, strict=True)
    ]
    votes = sum(s * delta.sign() for s, delta in zip(saliencies, kept, strict=True))
    sign = torch.as_tensor(votes).sign()
    return [torch.where(delta.sign() == sign, delta, 0) for delta in kept]


def curvatures(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return what saliencies read of H = 2 G.

    Args:
        gram: mean of x x^T over the layer's inputs, [in, in], fp64.

    Returns:
        H_jj (``obd``), and 1 / [H^-1]_jj (``obs``) with 1% of H's mean diagonal added to the
        diagonal; both are 0 where all inputs are.
    """
    hessian = 2 * gram
    diagonal = hessian.diagonal().clone()
    mean = diagonal.mean()
    if mean == 0:
        return diagonal, diagonal.clone()
    damped = hessian + DAMPING * mean * torch.eye(len(gram)).to(gram)
    return diagonal, 1 / torch.cholesky_inverse(torch.linalg.cholesky(damped)).diagonal()
