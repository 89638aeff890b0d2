"""What rules that read statistics share: names of the sources, and weights as those of a mean."""

from collections.abc import Sequence

from pistole.baselines.rule import SOURCES
from pistole.errors import UserError
from pistole.method.vectors import Real


def source_named(number: int) -> str:
    """Name the source of a task vector, as the keys of statistics do.

    Args:
        number: place of the vector, from 0.

    Returns:
        ``natural``, ``robust``, then ``vector 3`` and so on.
    """
    return SOURCES[number] if number < len(SOURCES) else f"vector {number + 1}"


def shares(weights: Sequence[Real]) -> list[float]:
    """Divide weights by their sum, for rules whose weights are those of a mean.

    Args:
        weights: one per vector.

    Returns:
        Shares that sum to 1.

    Raises:
        UserError: a weight is negative, or none is positive.
    """
    if min(weights) < 0 or not sum(weights) > 0:
        told = ", ".join(f"{weight:g}" for weight in weights)
        raise UserError(
            f"weights are {told}: a weighted mean needs weights >= 0 with a positive sum"
        )
    return [weight / sum(weights) for weight in weights]
