"""The shape of a curve of (clean, robust) accuracies: bend, hypervolume, dominance.

docs/method.md E.5. Curves are arrays ``[..., l, 2]``: l points in the order of lambda, each clean
and robust accuracy in any one unit; leading axes are resamples. Nothing is assumed monotone.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
SAME = 1e-9  # round-off between means that are equal
Curve = Float[np.ndarray, "*r l 2"]


def distances(curve: Curve) -> Float[np.ndarray, "*r l"]:
    """Signed distance of every point from the chord, the line through the two ends.

    Positive on the side of the larger clean + robust sum; where both sides are equal in that, on
    the side of the larger robust accuracy.

    Args:
        curve: at least two points.

    Returns:
        In the curve's unit, perpendicular to the chord; NaN where the ends coincide.
    """
    start, (dx, dy), side = _chord(curve)
    length = np.hypot(dx, dy)[..., None]
    x, y = curve[..., 0] - start[..., :1], curve[..., 1] - start[..., 1:]
    across = side[..., None] * (dx[..., None] * y - dy[..., None] * x)
    return np.divide(across, length, out=np.full(across.shape, np.nan), where=length > 0)


def bend(curve: Curve) -> Float[np.ndarray, "*r"]:
    """Signed area between curve and chord, by the shoelace formula (docs/method.md E.5).

    The polygon runs along the curve and back along the chord. Its area is positive where it lies
    on the side of :func:`distances`' positive sign; parts on both sides cancel, and a loop counts
    with its sense of rotation.

    Args:
        curve: at least two points.

    Returns:
        In the square of the curve's unit.
    """
    _, _, side = _chord(curve)
    x, y = curve[..., 0], curve[..., 1]
    left = np.roll(x, -1, axis=-1) * y - x * np.roll(y, -1, axis=-1)  # clockwise is positive
    return np.asarray(side * left.sum(axis=-1) / 2)


def _chord(curve: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Start, direction, and which side of the direction is positive: 1 left, -1 right."""
    start, step = curve[..., 0, :], curve[..., -1, :] - curve[..., 0, :]
    dx, dy = step[..., 0], step[..., 1]
    # The left normal (-dy, dx) gains dx - dy in clean + robust, and dx in robust.
    gain = np.where(np.abs(dx - dy) > SAME, dx - dy, dx)
    return start, (dx, dy), np.where(gain < 0, -1.0, 1.0)


def hypervolume(points: Curve) -> Float[np.ndarray, "*r"]:
    """Area that the points dominate over the reference point (0, 0), exactly (docs/method.md E.5).

    Args:
        points: accuracies >= 0, any order.

    Returns:
        Area of the union of the rectangles from (0, 0) to every point, in the unit squared.
    """
    order = np.argsort(-points[..., 0], axis=-1, kind="stable")
    clean, robust = (np.take_along_axis(points[..., k], order, axis=-1) for k in (0, 1))
    following = np.concatenate([clean[..., 1:], np.zeros_like(clean[..., :1])], axis=-1)
    steps = (clean - following) * np.maximum.accumulate(robust, axis=-1)
    return np.asarray(steps.sum(axis=-1))


def dominated(points: Curve, by: Float[np.ndarray, "*r k 2"]) -> Int[np.ndarray, "*r"]:
    """Count points that another curve Pareto-dominates (docs/method.md E.5).

    Args:
        points: points that may be dominated.
        by: points that may dominate: no worse in both accuracies, better in one.

    Returns:
        How many of ``points`` at least one of ``by`` dominates.
    """
    ahead = by[..., None, :, :] - points[..., :, None, :]
    no_worse = (ahead >= -SAME).all(axis=-1)
    better = (ahead > SAME).any(axis=-1)
    return np.asarray((no_worse & better).any(axis=-1).sum(axis=-1))


def extreme(values: Float[np.ndarray, "*r l"]) -> Float[np.ndarray, "*r"]:
    """Return the value of largest size, with its sign.

    Args:
        values: numbers; NaN only where a whole row is.

    Returns:
        One per row; NaN for a row of NaN.
    """
    place = np.abs(values).argmax(axis=-1)
    return np.asarray(np.take_along_axis(values, place[..., None], axis=-1)[..., 0])


def interval(values: Float[np.ndarray, " r"], level: float = LEVEL) -> tuple[float, float] | None:
    """Return central quantiles of a resampled statistic.

    Args:
        values: one per resample; NaN where it is not defined.
        level: coverage.

    Returns:
        Both ends over the resamples that define it; None if none does.
    """
    defined = values[np.isfinite(values)]
    if len(defined) == 0:
        return None
    low, high = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


@dataclass(frozen=True)
class Straightness:
    """Whether a curve stays near the chord of its ends.

    Attributes:
        verdict: ``holds``, ``fails`` or ``undecided``.
        distance: signed distance of the inner point furthest from the chord; None without one.
        interval: its 95 % interval.
    """

    verdict: str
    distance: float | None
    interval: tuple[float, float] | None


def straightness(
    curve: Float[np.ndarray, "l 2"], samples: Float[np.ndarray, "r l 2"], *, within: float
) -> Straightness:
    """Test whether every inner point lies within a distance of the chord (docs/method.md E.5).

    It does if the 95 % interval of every inner point's distance lies within the bounds: each test
    must pass, so none needs a correction. It does not if the interval of any of them lies outside
    after Bonferroni's correction.

    Args:
        curve: points in the order of lambda.
        samples: resampled curves.
        within: the bound, in the curve's unit.

    Returns:
        The verdict and the furthest inner point.
    """
    away, spread = distances(curve)[1:-1], distances(samples)[:, 1:-1]
    if len(away) == 0 or not np.isfinite(away).all():
        return Straightness("undecided", None, None)
    plain = [interval(column) for column in spread.T]
    strict = [interval(column, 1 - (1 - LEVEL) / len(away)) for column in spread.T]
    inside = all(ends is not None and max(-ends[0], ends[1]) <= within for ends in plain)
    outside = any(ends is not None and max(ends[0], -ends[1]) > within for ends in strict)
    furthest = int(np.abs(away).argmax())
    verdict = "holds" if inside else "fails" if outside else "undecided"
    return Straightness(verdict, float(away[furthest]), plain[furthest])
