"""Averages of several models (Wortsman et al. 2022, Croce et al. 2023; docs/method.md C.1)."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pistole.baselines.options import require_number
from pistole.baselines.rule import Rule, Walk, weighted_sum
from pistole.errors import UserError
from pistole.method.vectors import Params, Real, require_finite, require_same_layout


@dataclass(frozen=True, kw_only=True)
class UniformSoup(Rule):
    """theta_0 + alpha sum_t w_t tau_t / sum_t w_t: the mean of the models at equal weights.

    Data need: none. Default: alpha 1, a mean of models and nothing else.
    """

    elementwise: ClassVar[bool] = True

    def survey(self, walk: Walk, weights: Sequence[Real]) -> float:
        """Add the weights up.

        Args:
            walk: not walked.
            weights: of the vectors.

        Returns:
            Their sum.

        Raises:
            UserError: the sum is not positive.
        """
        total = math.fsum(weights)
        if not total > 0:
            raise UserError(f"weights sum to {total}: give weights of a positive sum for a mean")
        return total

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        shares = [weight / survey for weight in weights]
        return base + self.scaling * weighted_sum(deltas, shares)


@dataclass(frozen=True, kw_only=True)
class RobustnessSoup(Rule):
    """theta_0 + alpha sum_t w_t a_t tau_t: an affine combination of the models and the base.

    ``coefficients`` a_t may be negative or above 1; the base has the weight 1 - sum_t a_t, none if
    they sum to 1. All models need a common ancestor. Data need: labelled, to choose a_t on a grid
    (:func:`affine_grid`). Default: 1/2 for each of two, the uniform soup; no code is published.
    """

    elementwise: ClassVar[bool] = True
    coefficients: tuple[float, ...] = (0.5, 0.5)

    def __post_init__(self) -> None:  # noqa: D105
        super().__post_init__()
        for coefficient in self.coefficients:
            require_number("coefficient", coefficient)

    def survey(self, walk: Walk, weights: Sequence[Real]) -> tuple[float, ...]:
        """Multiply weights and coefficients.

        Args:
            walk: not walked.
            weights: of the vectors.

        Returns:
            The factor of every vector.

        Raises:
            UserError: another number of coefficients than of vectors.
        """
        if len(self.coefficients) != len(weights):
            raise UserError(
                f"{len(self.coefficients)} coefficients for {len(weights)} task vectors: "
                "give one per vector"
            )
        return tuple(a * weight for a, weight in zip(self.coefficients, weights, strict=True))

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        return base + self.scaling * weighted_sum(deltas, survey)


def affine_grid(
    low: float = -0.2, high: float = 1.2, step: float = 0.1, *, base: bool = False
) -> list[tuple[float, float]]:
    """List coefficients of two models for the robustness soup (docs/method.md C.1).

    Args:
        low: least coefficient.
        high: largest coefficient.
        step: between neighbours.
        base: whether the base takes part: all pairs (a, b), the base having 1 - a - b; else the
            line a + b = 1.

    Returns:
        Pairs of coefficients of the natural and the robust model, each in [low, high].

    Raises:
        UserError: the bounds or the step make no grid.
    """
    for what, value in (("low", low), ("high", high), ("step", step)):
        require_number(what, value)
    if not (step > 0 and low <= high):
        raise UserError(f"grid from {low} to {high} by {step}: give low <= high and step > 0")
    values = [round(low + i * step, 9) for i in range(int((high - low) / step + 1e-6) + 1)]
    pairs = itertools.product(values, values) if base else ((a, round(1 - a, 9)) for a in values)
    return [(a, b) for a, b in pairs if low - 1e-9 <= b <= high + 1e-9]


@dataclass(frozen=True)
class Soup:
    """A greedy soup.

    Attributes:
        params: the mean of the members.
        members: their names, in the order in which they were added.
        score: of the soup.
    """

    params: Params
    members: tuple[str, ...]
    score: float


def greedy_soup(candidates: Mapping[str, Params], score: Callable[[Params], float]) -> Soup:
    """Average the candidates that do not harm (docs/method.md C.1).

    The candidates are ordered by their own held-out scores, equal ones by name; each joins the
    soup if the score of the mean does not drop.

    Args:
        candidates: models by name, of one layout.
        score: held-out score of a model, more is better.

    Returns:
        The soup; its score is never below that of the best candidate.

    Raises:
        UserError: no candidate, other layouts, or a value or score that is not finite.
    """
    if not candidates:
        raise UserError("no candidate for the soup: give at least one model")
    reference = next(iter(candidates.values()))
    for name in candidates:
        require_same_layout(reference, candidates[name], f"candidate {name!r}")
        require_finite(candidates[name], f"candidate {name!r}")

    def judged(params: Params, what: str) -> float:
        found = score(params)
        require_number(f"score of {what}", found)
        return found

    alone = {name: judged(params, repr(name)) for name, params in candidates.items()}
    first, *others = sorted(candidates, key=lambda name: (-alone[name], name))
    members, best = [first], alone[first]
    total = {key: value.double() for key, value in candidates[first].items()}
    for name in others:
        wider = {key: value + candidates[name][key] for key, value in total.items()}
        found = judged(_mean(wider, len(members) + 1), f"the soup with {name!r}")
        if found >= best:
            total, best = wider, found
            members.append(name)
    return Soup(_mean(total, len(members)), tuple(members), best)


def _mean(total: Params, count: int) -> Params:
    return {name: (value / count).float() for name, value in total.items()}
