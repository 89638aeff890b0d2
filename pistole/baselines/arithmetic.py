"""Task arithmetic (Ilharco et al., ICLR 2023; docs/method.md C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pistole.baselines.rule import Rule
from pistole.method.vectors import Real


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Rule):
    """theta_0 + alpha sum_t w_t tau_t.

    Data need: none (labelled to choose alpha). alpha is ``scaling``; 0.4, the value of the
    official repository for two tasks.
    """

    elementwise: ClassVar[bool] = True
    scaling: float = 0.4

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        return base + self.scaling * sum(
            weight * delta for weight, delta in zip(weights, deltas, strict=True)
        )
