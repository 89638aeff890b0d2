"""Task arithmetic (Ilharco et al., ICLR 2023; docs/method.md C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pistole.baselines.options import require_count
from pistole.baselines.rule import Rule, Walk, weighted_sum
from pistole.method.vectors import Real


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Rule):
    """theta_0 + alpha sum_t w_t tau_t: addition.

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
        return base + self.scaling * weighted_sum(deltas, weights)


@dataclass(frozen=True, kw_only=True)
class Signed(Rule):
    """theta_0 + alpha sum_t s_t w_t tau_t with the signs s_t of one of the forms below.

    Attributes:
        form: name of the form, for messages (class attribute).
        signs: one per vector, so that their number is fixed (class attribute).
    """

    elementwise: ClassVar[bool] = True
    form: ClassVar[str]
    signs: ClassVar[tuple[int, ...]]

    def survey(self, walk: Walk, weights: Sequence[Real]) -> None:
        """Refuse another number of vectors.

        Args:
            walk: not walked.
            weights: of the vectors.
        """
        require_count(self.form, len(weights), len(self.signs))

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        signed = [sign * weight for sign, weight in zip(self.signs, weights, strict=True)]
        return base + self.scaling * weighted_sum(deltas, signed)


@dataclass(frozen=True, kw_only=True)
class Negation(Signed):
    """theta_0 - alpha w tau: forgets what one vector has learned.

    Data need: none (labelled to choose alpha). alpha is 1, the end of the official grid.
    """

    form: ClassVar[str] = "task negation"
    signs: ClassVar[tuple[int, ...]] = (-1,)


@dataclass(frozen=True, kw_only=True)
class Analogy(Signed):
    """theta_0 + alpha (w_C tau_C + w_B tau_B - w_A tau_A): "A is to B as C is to D", for D.

    The vectors are given in the order C, B, A. Data need: none (labelled to choose alpha). alpha
    is 1, the end of the official grid.
    """

    form: ClassVar[str] = "task analogy"
    signs: ClassVar[tuple[int, ...]] = (1, 1, -1)
