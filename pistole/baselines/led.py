"""LED-Merging: locate, elect, disjoin (Ma et al., ACL 2025; docs/method.md C.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pistole.baselines.gradients import Loss, per_sample_gradients
from pistole.baselines.largest import largest
from pistole.baselines.rule import Rule
from pistole.baselines.sources import source_named
from pistole.errors import UserError
from pistole.method.vectors import Params, Real, zeros_like


@dataclass(frozen=True, kw_only=True)
class Led(Rule):
    """theta_0 + alpha sum_t w_t m_t*tau_t with masks m_t that no two tasks share.

    A coordinate is elected for task t if it is among the top ``rates[t]`` of its tensor both by the
    base's and by the fine-tuned model's importance on the task's data (the pattern "11"); m_t keeps
    what is elected for t alone. All else keeps the base's value. Importances do not depend on the
    weights: at weight 0 a task still withdraws its coordinates from the others. Data need:
    labelled images.

    Statistics: ``natural/TENSOR`` and ``robust/TENSOR``, importances of the fine-tuned models, and
    ``base natural/TENSOR`` and ``base robust/TENSOR``, of the base on the same images.

    Defaults: alpha 0.9 and unit weights as in the official command. Its rates are .1 (safety), .4
    (mathematics) and .5 (code); here the natural vector, the utility, has .4 and the robust one,
    the safety, .1. The official code takes all entries that tie with the last one, and of tensors
    with fewer than 1/rate entries all; here the number is exact, and at least 1.

    Attributes:
        rates: share of each tensor that is elected, one per vector.
    """

    needs: ClassVar[str | None] = "led"
    scaling: float = 0.9
    rates: tuple[float, ...] = (0.4, 0.1)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a rate is out of its range.
        """
        super().__post_init__()
        for rate in self.rates:
            if not 0 <= rate <= 1:
                raise UserError(f"led rates has {rate}: give shares in [0, 1]")

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        if len(self.rates) != len(deltas):
            raise UserError(
                f"led rates has {len(self.rates)} entries for {len(deltas)} task vectors: give one "
                "per vector"
            )
        masks = disjoint([self._elected(number, name) for number in range(len(deltas))])
        parts = zip(weights, masks, deltas, strict=True)
        moved = sum(weight * mask * delta.double() for weight, mask, delta in parts)
        return (base.double() + self.scaling * moved).float()

    def _elected(self, number: int, name: str) -> Tensor:
        rate, source = self.rates[number], source_named(number)
        own = largest(self.statistic(f"{source}/{name}"), rate)
        return own & largest(self.statistic(f"base {source}/{name}"), rate)


def disjoint(elected: Sequence[Tensor]) -> list[Tensor]:
    """Keep what is elected once (docs/method.md C.3).

    Args:
        elected: one mask per task, same shape.

    Returns:
        The masks without coordinates that another task elects too.
    """
    votes = torch.stack(list(elected)).sum(0)
    return [mask & (votes == 1) for mask in elected]


def importance(
    loss: Loss, theta: Params, samples: tuple[Tensor, ...], *, together: int = 1
) -> Params:
    """Locate: E_x |theta * d ell(x) / d theta|, of single samples (docs/method.md C.3).

    The absolute value is taken of every sample's gradient, as the official code does: that of the
    mean gradient is noise at a minimum of the loss.

    Args:
        loss: from parameters and one sample's tensors to its loss.
        theta: the point.
        samples: tensors with one row per sample.
        together: gradients that memory holds at once.

    Returns:
        Importances by name.
    """
    total = zeros_like(theta)
    for found in per_sample_gradients(loss, theta, samples, together):
        for name, value in found.items():
            total[name] += value.abs().sum(0) / len(samples[0])
    return {name: value * theta[name].abs() for name, value in total.items()}
