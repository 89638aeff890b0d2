"""The radii at which a finite difference measures the second derivative (docs/method.md E.2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pistole.errors import UserError
from pistole.method.vectors import Real

SHORTEST = 2  # radii that must agree with one another


@dataclass(frozen=True)
class Plateau:
    """Consecutive radii at which a curvature estimate stays the same.

    Attributes:
        first: position of the smallest radius.
        last: position of the largest radius.
        disagreement: the largest between two of them, <= the tolerance.
    """

    first: int
    last: int
    disagreement: float

    @property
    def middle(self) -> int:
        """Position of the radius in the middle, the smaller of two."""
        return (self.first + self.last) // 2


def disagreements(estimates: Float[Tensor, "radii n"]) -> Float[Tensor, "radii radii"]:
    """Compare the estimates at every two radii (docs/method.md E.2).

    Args:
        estimates: of one curvature per point, by radius.

    Returns:
        The median over the points of |a - b| / max(|a|, |b|), in [0, 2]; 0 where both are 0. The
        median, since a few points own a sum and a curvature near 0 has no relative precision.
    """
    a, b = estimates[:, None], estimates[None]
    larger = torch.maximum(a.abs(), b.abs())
    change = torch.where(larger > 0, (a - b).abs() / larger, torch.zeros_like(larger))
    return change.quantile(0.5, dim=-1)


def plateau(estimates: Float[Tensor, "radii n"], *, tolerance: Real) -> Plateau | None:
    """Find the longest run of consecutive radii that all agree with one another.

    Below it rounding error, above it the fourth order changes the estimate. Only the estimate
    itself decides, not the value that theory predicts, so that the choice cannot favour theory.

    Args:
        estimates: of one curvature per point, by rising radius: PCI / eta^2 is one up to a
            constant factor.
        tolerance: largest disagreement within a plateau.

    Returns:
        The plateau; of two equally long ones that with the smaller disagreement. None if no two
        neighbouring radii agree.

    Raises:
        UserError: no radii or no points.
    """
    if not estimates.numel():
        raise UserError("there are no estimates to compare: give radii and points")
    found, change = None, disagreements(estimates.double())
    for first in range(len(estimates)):
        for last in range(first + SHORTEST - 1, len(estimates)):
            worst = change[first : last + 1, first : last + 1].max().item()
            if worst > tolerance:
                break
            if found is None or (last - first, -worst) > (
                found.last - found.first,
                -found.disagreement,
            ):
                found = Plateau(first, last, worst)
    return found
