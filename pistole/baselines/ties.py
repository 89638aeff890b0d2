"""TIES-Merging (Yadav et al., NeurIPS 2023; docs/method.md C)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pistole.baselines.options import require_share
from pistole.baselines.quantile import tensor_threshold, top_thresholds
from pistole.baselines.rule import Rule, Walk
from pistole.errors import require_choice
from pistole.method.vectors import Real

REDUCES = ("mean", "sum")
SCOPES = ("vector", "tensor")
PIECE = 1 << 18  # coordinates of a survey's step: no copies of whole tensors
ZERO_SIGNS = ("majority", "positive", "none")


@dataclass(frozen=True)
class Election:
    """What TIES knows of the whole vectors.

    Attributes:
        thresholds: per vector the least magnitude that is kept; empty if all are.
        by_tensor: the same for each tensor that has its own, by name.
        sign: taken where the trimmed vectors sum to 0: -1, 0 (keep nothing) or 1.
    """

    thresholds: tuple[float, ...]
    by_tensor: Mapping[str, tuple[float, ...]]
    sign: float

    def limits(self, name: str) -> tuple[float, ...]:
        """Return a tensor's thresholds.

        Args:
            name: of the tensor.

        Returns:
            One per vector; empty if everything is kept.
        """
        return self.by_tensor.get(name, self.thresholds)


@dataclass(frozen=True, kw_only=True)
class Ties(Rule):
    """theta_0 + alpha reduce_t { u_t : sgn u_t = sgn sum_s u_s }, u_t = w_t trim(tau_t).

    trim keeps the ``density`` d coordinates of largest magnitude of a vector of d coordinates,
    rounded down and at least one; all that tie with the last of them stay, so that no order of
    tensors counts. ``reduce``: the mean over the kept entries that agree with the elected sign
    (the paper), or their ``sum`` (FusionBench). A weight of 0 takes the vector out of the mean.

    Data need: none. Defaults: top 20%, alpha 1, mean: the paper's. The official code keeps one
    coordinate more, d - k + 1 of them for kthvalue's k. A sum of 0 takes the sign of the majority
    of the whole vector's elected signs, as there (``zero_sign``); without a majority nothing is
    kept, where the official code keeps the negative entries. For peft and mergekit zero sums are
    ``positive``, and they trim each tensor for itself (``scope`` ``tensor``). With two vectors a
    conflict goes to the larger magnitude.
    """

    elementwise: ClassVar[bool] = True
    density: float = 0.2
    reduce: str = "mean"
    scope: str = "vector"
    zero_sign: str = "majority"

    def __post_init__(self) -> None:  # noqa: D105
        super().__post_init__()
        require_share("density", self.density)
        require_choice("reduce", self.reduce, REDUCES)
        require_choice("scope", self.scope, SCOPES)
        require_choice("zero_sign", self.zero_sign, ZERO_SIGNS)

    def survey(self, walk: Walk, weights: Sequence[Real]) -> Election:
        """Find the thresholds in two passes (one if each tensor has its own), the sign in one more.

        Args:
            walk: gives the task vectors tensor by tensor.
            weights: of the vectors.

        Returns:
            Thresholds and sign.
        """
        thresholds, by_tensor = (), {}
        if self.density < 1 and self.scope == "vector":
            thresholds = tuple(top_thresholds(_rows(walk), self.density))
        elif self.density < 1:
            by_tensor = {
                name: tuple(tensor_threshold(delta, self.density) for delta in deltas)
                for name, deltas in walk()
                if deltas[0].numel()
            }
        signs = {"positive": 1.0, "none": 0.0}
        if self.zero_sign in signs:
            return Election(thresholds, by_tensor, signs[self.zero_sign])
        surplus, found = 0, Election(thresholds, by_tensor, 0.0)
        for name, deltas in walk():
            pieces = zip(*(delta.reshape(-1).split(PIECE) for delta in deltas), strict=True)
            for piece in pieces:
                totals = sum_of(_trimmed(piece, weights, found.limits(name)))
                surplus += int((totals > 0).sum()) - int((totals < 0).sum())
        return replace(found, sign=float((surplus > 0) - (surplus < 0)))

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        trimmed = _trimmed(deltas, weights, survey.limits(name))
        return base + self.scaling * elect(trimmed, survey.sign, self.reduce)


def _trimmed(
    deltas: Sequence[Tensor], weights: Sequence[Real], limits: Sequence[float]
) -> list[Tensor]:
    """Trim and weigh; a positive factor does not change which magnitudes are largest."""
    weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    if not limits:
        return weighted
    return [
        product.masked_fill_(delta.abs() < limit, 0)
        for product, delta, limit in zip(weighted, deltas, limits, strict=True)
    ]


def _rows(walk: Walk) -> Callable[[], Iterator[Sequence[Tensor]]]:
    return lambda: (deltas for _, deltas in walk())


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Add tensors of one shape in their order.

    Args:
        tensors: at least one.

    Returns:
        A new tensor.
    """
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def elect(tensors: Sequence[Tensor], zero_sign: float, reduce: str) -> Tensor:
    """Merge the entries that agree with the sign of the sum (docs/method.md C, TIES).

    Args:
        tensors: trimmed and weighted, one per vector, of one shape.
        zero_sign: taken where the sum is 0.
        reduce: ``mean`` over the agreeing entries that are not 0, or ``sum``.

    Returns:
        The merged entries; 0 where none agrees.
    """
    signs = sum_of(tensors).sign_()
    signs.masked_fill_(signs == 0, zero_sign)
    merged, count = torch.zeros_like(signs), torch.zeros_like(signs)
    for tensor in tensors:
        agrees = tensor * signs > 0
        merged += tensor.masked_fill(~agrees, 0)
        count += agrees
    return merged / count.clamp_(min=1) if reduce == "mean" else merged
