"""A straight line through points that are both measured with error (docs/method.md E.2).

Every point's x and y are means over repeats (Hutchinson probes, antithetic pairs), and all points
of a group share the directions of a repeat. So errors are not independent over points, and
resampling the points alone would give intervals that are too narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pistole.errors import UserError
from pistole.method.reliability import average_ranks
from pistole.theory.correlation import CHUNK, row_correlations

DEFINED = 0.9  # share of the resamples that must have a slope
Draw = tuple[np.ndarray, np.ndarray, np.ndarray]  # counts of probes, of pairs; positions of points


@dataclass(frozen=True)
class Repeated:
    """Repeated measurements of the points of one group; a repeat is shared by its points.

    Attributes:
        x: predictor.
        y: response, with repeats of its own.
    """

    x: Float[Tensor, "probes n"]
    y: Float[Tensor, "pairs n"]


@dataclass(frozen=True)
class NoisyFit:
    """Slope and rank correlation of y on x, both means over repeats.

    Attributes:
        n: number of points.
        slope: of y on x without the error of x; None if that error drowns x, here or in more
            than a tenth of the resamples.
        slope_ci95: interval over points and repeats; None if there is no slope.
        r2: squared correlation of the means, so between 0 and 1.
        spearman: rank correlation of the means; 0 if one is constant.
        spearman_ci95: interval over points and repeats.
        within_two_errors: share of points with |y - x| below two standard errors of the
            difference; None with a single repeat.
    """

    n: int
    slope: float | None
    slope_ci95: tuple[float, float] | None
    r2: float
    spearman: float
    spearman_ci95: tuple[float, float]
    within_two_errors: float | None


def noisy_fit(groups: Sequence[Repeated], *, resamples: int, seed: int) -> NoisyFit:
    """Fit y on x over all groups, with intervals over points, probes and pairs.

    The error of x flattens a least-squares line. Its mean square in the denominator is therefore
    taken off, which leaves products of different probes only: sum_i x_i^2 minus the variance
    of x_i over the probes. Points and repeats are resampled at once, by group. Resampled repeats
    carry the noise a second time, so intervals are shifted to have their median at the estimate.

    Args:
        groups: measurements; groups share no repeats.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        The fit.

    Raises:
        UserError: fewer than 3 points, values that are not finite, or too few resamples.
    """
    pairs = [tuple(t.detach().double().cpu().numpy() for t in (g.x, g.y)) for g in groups]
    pairs = [(x, y) for x, y in pairs if x.shape[1]]
    n = sum(x.shape[1] for x, _ in pairs)
    if n < 3:
        raise UserError(f"{n} points: a fit with intervals needs at least 3")
    if resamples < 1:
        raise UserError(f"resamples is {resamples}: give at least 1")
    if not all(np.isfinite(values).all() for pair in pairs for values in pair):
        raise UserError("a point of the fit is not finite: drop it or measure it again")
    x, y = (np.concatenate([pair[side].mean(0) for pair in pairs]) for side in (0, 1))
    slope, rank = (found.item() for found in _statistics(pairs, [_everything(*p) for p in pairs]))
    slopes, ranks = _bootstrap(pairs, n, resamples, seed)
    ends = _shifted(ranks, rank)
    assert ends is not None  # a rank correlation always exists
    known = _shifted(slopes, slope) if np.isfinite(slope) else None
    return NoisyFit(
        n=n,
        slope=None if known is None else slope,
        slope_ci95=known,
        r2=row_correlations(x[None], y[None]).item() ** 2,
        spearman=rank,
        spearman_ci95=(max(-1.0, ends[0]), min(1.0, ends[1])),
        within_two_errors=_within(pairs),
    )


def _everything(x: np.ndarray, y: np.ndarray) -> Draw:
    return np.ones((1, len(x))), np.ones((1, len(y))), np.arange(x.shape[1])[None]


def _bootstrap(
    pairs: list[tuple[np.ndarray, np.ndarray]], n: int, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    source = np.random.default_rng(seed)
    slopes, ranks, rows = [], [], max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        draws = [
            (
                source.multinomial(len(x), np.full(len(x), 1 / len(x)), size=count),
                source.multinomial(len(y), np.full(len(y), 1 / len(y)), size=count),
                source.integers(x.shape[1], size=(count, x.shape[1])),
            )
            for x, y in pairs
        ]
        slope, rank = _statistics(pairs, draws)
        slopes.append(slope)
        ranks.append(rank)
    return np.concatenate(slopes), np.concatenate(ranks)


def _statistics(
    pairs: list[tuple[np.ndarray, np.ndarray]], draws: list[Draw]
) -> tuple[np.ndarray, np.ndarray]:
    """Slope (NaN where the error of x drowns it) and rank correlation per resample."""
    n = sum(x.shape[1] for x, _ in pairs)
    left, right, noise = [], [], 0.0
    for (x, y), (probes, others, chosen) in zip(pairs, draws, strict=True):
        left.append(np.take_along_axis(probes @ x / len(x), chosen, 1))
        right.append(np.take_along_axis(others @ y / len(y), chosen, 1))
        noise = noise + _noise(x, probes, chosen, n)
    a, b = np.concatenate(left, 1), np.concatenate(right, 1)
    ranks = row_correlations(average_ranks(a), average_ranks(b))
    a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    signal = np.square(a).sum(1) - noise
    empty = np.full(len(a), np.nan)
    return np.divide((a * b).sum(1), signal, out=empty, where=signal > 0), ranks


def _noise(x: np.ndarray, probes: np.ndarray, chosen: np.ndarray, n: int) -> np.ndarray:
    """What the error of a group's means adds to the sum of squares around the mean of n points."""
    d = x - x.mean(0)
    counts = np.stack([np.bincount(row, minlength=x.shape[1]) for row in chosen])
    # Tr(C S) of the centring matrix C and the covariance S of the chosen points over the probes.
    spread = counts @ np.square(d).sum(0) - np.square(counts @ d.T).sum(1) / n
    return np.square(probes).sum(1) / len(x) ** 2 * spread / max(len(x) - 1, 1)


def _shifted(values: np.ndarray, estimate: float) -> tuple[float, float] | None:
    """Central 95 % of the resamples, moved so that their median is the estimate."""
    defined = values[np.isfinite(values)]
    if len(defined) < DEFINED * len(values):
        return None
    low, middle, high = np.percentile(defined, (2.5, 50, 97.5))
    return float(low - middle + estimate), float(high - middle + estimate)


def _within(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float | None:
    if any(len(values) < 2 for pair in pairs for values in pair):
        return None
    inside = []
    for x, y in pairs:
        error = np.sqrt(x.var(0, ddof=1) / len(x) + y.var(0, ddof=1) / len(y))
        inside.append(np.abs(y.mean(0) - x.mean(0)) <= 2 * error)
    return float(np.concatenate(inside).mean())
