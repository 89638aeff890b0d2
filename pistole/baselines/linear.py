"""Straight lines in parameter space (docs/method.md C.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pistole.baselines.rule import Rule, weighted_sum
from pistole.method.merge import require_ingredients
from pistole.method.vectors import Params, Real


@dataclass(frozen=True, kw_only=True)
class Linear(Rule):
    """theta_0 + alpha sum_t w_t tau_t with alpha = 1 (docs/method.md C.1).

    If the weights sum to 1, it is the weighted mean of the fine-tuned models, and for the weights
    lambda and 1 - lambda it is :func:`vanilla`. Data need: none. At weights (1, 1) it adds both
    vectors whole.
    """

    elementwise: ClassVar[bool] = True

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        return base + self.scaling * weighted_sum(deltas, weights)


def vanilla(theta_0: Params, tau_nat: Params, tau_rob: Params, *, lam: Real) -> Params:
    """theta_0 + lambda tau_nat + (1 - lambda) tau_rob (docs/method.md A.7, C.1).

    Args:
        theta_0: the base.
        tau_nat: natural task vector, same names and shapes.
        tau_rob: robust task vector, same names and shapes.
        lam: weight of the natural vector, in [0, 1].

    Returns:
        The merged parameters.
    """
    require_ingredients(theta_0, tau_nat, tau_rob, lam)
    return {
        name: base + (lam * tau_nat[name] + (1 - lam) * tau_rob[name])
        for name, base in theta_0.items()
    }


def wise_ft(theta_0: Params, tau_nat: Params, tau_rob: Params, *, lam: Real) -> Params:
    """theta_0 + (1 - lambda) tau_rob: the robust model drawn back to the base (docs/method.md C.1).

    Args:
        theta_0: the base, which takes the natural model's place.
        tau_nat: not used beyond its layout.
        tau_rob: robust task vector, same names and shapes.
        lam: weight of the base, in [0, 1].

    Returns:
        The merged parameters.
    """
    require_ingredients(theta_0, tau_nat, tau_rob, lam)
    return {name: base + (1 - lam) * tau_rob[name] for name, base in theta_0.items()}
