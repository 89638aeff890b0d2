"""PCB-Merging: parameter competition balancing (Du et al., NeurIPS 2024; docs/method.md C.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pistole.baselines.options import require_share
from pistole.baselines.quantile import order_statistics
from pistole.baselines.rule import Rule, Walk
from pistole.baselines.ties import sum_of
from pistole.method.vectors import Real

TAIL = 1e-4  # share of the magnitudes that is clamped at either end
LEAST = 1e-12  # of the divisor

Bounds = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Ranges:
    """What PCB knows of the whole vectors, per vector.

    Attributes:
        magnitudes: the bounds that magnitudes are clamped to.
        scores: the score below which the scale is 0, and the largest score.
    """

    magnitudes: Bounds
    scores: Bounds


@dataclass(frozen=True, kw_only=True)
class Pcb(Rule):
    """theta_0 + alpha sum_t sgn(u_t) A_t s_t / max(sum_t s_t, 1e-12) with u_t = w_t tau_t.

    A_t are the magnitudes of u_t, clamped to their 0.01% quantiles at both ends; of n vectors,
    score_t = exp(n N(A_t)^2) tanh(u_t sum_s u_s) balances within and between the vectors;
    s_t = N(max(score_t, its quantile 1 - r)) keeps the ``ratio`` r of largest scores; N maps the
    range over the whole vector to [0, 1], and values that are all equal to 0 (the official code
    divides 0 by 0). All quantiles are exact and over the whole vector, their ranks the official
    ones: floor((1 - r) d), and floor(d / 10^4) and floor(d - d / 10^4 - 1).

    The length of what is merged is a weighted mean's, not a sum's: with weights (lambda,
    1 - lambda) it shrinks. Data need: none (labelled with the official evolutionary search).
    Defaults: r = 0.1 and alpha = 1, those of the official function; its vision script takes 0.05
    and 1.2.
    """

    ratio: float = 0.1

    def __post_init__(self) -> None:  # noqa: D105
        super().__post_init__()
        require_share("ratio", self.ratio)

    def survey(self, walk: Walk, weights: Sequence[Real]) -> Ranges:
        """Find both kinds of bounds, in two passes each.

        Args:
            walk: gives the task vectors tensor by tensor.
            weights: of the vectors.

        Returns:
            The bounds.
        """

        def contributions() -> Iterator[list[Tensor]]:
            for _, deltas in walk():
                yield _weighted(deltas, weights)

        def tails(size: int) -> tuple[int, int]:
            return int(size * TAIL), max(0, int(size * (1 - TAIL) - 1))

        def best(size: int) -> tuple[int, int]:
            return min(size - 1, int(size * (1 - self.ratio))), size - 1

        magnitudes = _pairs(order_statistics(contributions, tails, magnitude=True))

        def scored() -> Iterator[list[Tensor]]:
            for parts in contributions():
                yield competition_scores(parts, magnitudes)

        return Ranges(magnitudes, _pairs(order_statistics(scored, best)))

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        parts = _weighted(deltas, weights)
        scales = [
            normalise(score, bounds)
            for score, bounds in zip(
                competition_scores(parts, survey.magnitudes), survey.scores, strict=True
            )
        ]
        merged = sum_of(
            [
                part.sign() * part.abs().clamp(*bounds) * scale
                for part, bounds, scale in zip(parts, survey.magnitudes, scales, strict=True)
            ]
        )
        return base + self.scaling * merged / sum_of(scales).clamp_(min=LEAST)


def _weighted(deltas: Sequence[Tensor], weights: Sequence[Real]) -> list[Tensor]:
    return [delta * weight for delta, weight in zip(deltas, weights, strict=True)]


def _pairs(found: list[list[float]]) -> Bounds:
    return tuple((low, high) for low, high in found)


def normalise(values: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Clamp to bounds and map them to 0 and 1 (docs/method.md C.2).

    Args:
        values: any shape.
        bounds: the lower and the upper one.

    Returns:
        Values in [0, 1]; 0 if the bounds are equal.
    """
    low, high = bounds
    if not high > low:
        return torch.zeros_like(values)
    return (values.clamp(low, high) - low) / (high - low)


def competition_scores(parts: Sequence[Tensor], magnitudes: Bounds) -> list[Tensor]:
    """Score the coordinates of every vector: exp(n N(A_t)^2) tanh(u_t sum_s u_s), docs C.2.

    Args:
        parts: u_t, one tensor per vector.
        magnitudes: bounds of the magnitudes, per vector.

    Returns:
        The scores, one tensor per vector.
    """
    total = sum_of(parts)
    return [
        (len(parts) * normalise(part.abs(), bounds).square()).exp_() * (part * total).tanh_()
        for part, bounds in zip(parts, magnitudes, strict=True)
    ]
