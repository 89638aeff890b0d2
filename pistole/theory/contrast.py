"""Whether one curve lies below another, from paired parts (docs/method.md E.3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pistole.errors import UserError
from pistole.method.vectors import Real
from pistole.theory.path import Path

LEVEL = 0.95
ROUNDING = 1e-9  # of lambda


@dataclass(frozen=True)
class Contrast:
    """Mean differences of paired parts with simultaneous 95% intervals.

    Attributes:
        mean: of the differences.
        low: lower ends.
        high: upper ends.
    """

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def contrast(ours: Float[Tensor, "m parts"], theirs: Float[Tensor, "m parts"]) -> Contrast:
    """Compare m pairs of models, each on the same parts (docs/method.md E.3).

    Args:
        ours: values of m models.
        theirs: values of m others on the same parts and directions.

    Returns:
        Mean of ours - theirs with Student's intervals over the parts, widened (Bonferroni) so that
        all m hold together with 95%; unbounded with a single part.

    Raises:
        UserError: there is nothing to compare.
    """
    m, parts = ours.shape
    if not m or not parts:
        raise UserError("there is nothing to compare: give at least one lambda and one image")
    change = ours.double() - theirs.double()
    mean = change.mean(1)
    if parts == 1:
        infinite = (math.inf,) * m
        return Contrast(tuple(mean.tolist()), tuple(-x for x in infinite), infinite)
    from scipy.stats import t as student  # takes seconds to import

    factor = float(student.ppf(1 - (1 - LEVEL) / 2 / m, parts - 1))
    width = factor * change.std(1) / math.sqrt(parts)
    return Contrast(*(tuple(values.tolist()) for values in (mean, mean - width, mean + width)))


def below(found: Contrast) -> str:
    """Decide whether ours lies below theirs in every comparison.

    Args:
        found: differences ours - theirs.

    Returns:
        ``holds`` if every interval lies below 0, ``fails`` if one lies at or above 0, else
        ``undecided``.
    """
    if any(low >= 0 for low in found.low):
        return "fails"
    return "holds" if all(high < 0 for high in found.high) else "undecided"


def minimum_near(path: Path, target: Real, *, reach: Real) -> str:
    """Decide whether a path has its minimum near a lambda (docs/method.md E.3).

    The lowest point within ``reach`` of the target (or the grid's nearest) is compared with every
    point farther away.

    Args:
        path: the path.
        target: lambda at which the minimum is claimed.
        reach: how far from it still counts as near.

    Returns:
        ``holds`` if every other point is higher, ``fails`` if one is lower, each by a simultaneous
        95% interval; else ``undecided``.
    """
    order = sorted(range(len(path.lambdas)), key=lambda i: abs(path.lambdas[i] - target))
    near = [i for i in order if abs(path.lambdas[i] - target) <= reach + ROUNDING] or order[:1]
    far = [i for i in order if i not in near]
    if not far:
        return "undecided"
    best = min(near, key=lambda i: path.values[i].mean().item())
    found = contrast(path.values[best].expand(len(far), -1), path.values[far])
    return below(found)


def rank_verdict(interval: Sequence[float]) -> str:
    """Decide whether a lower curvature goes with a higher Sum (docs/method.md E.3).

    Args:
        interval: of their rank correlation.

    Returns:
        ``holds`` if it lies below 0, ``fails`` if above, else ``undecided``.
    """
    if interval[1] < 0:
        return "holds"
    return "fails" if interval[0] > 0 else "undecided"
