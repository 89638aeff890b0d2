"""How well one measured quantity predicts another (docs/method.md E.2)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pistole.errors import UserError
from pistole.method.reliability import average_ranks, spearman

__all__ = ["Fit", "fit", "spearman"]

CHUNK = 2**22  # resampled values held at once


@dataclass(frozen=True)
class Fit:
    """A straight line y = slope x + intercept by least squares, and the rank correlation.

    Attributes:
        n: number of points.
        slope: dimension of y over x.
        slope_ci95: percentile bootstrap interval.
        intercept: dimension of y.
        r2: share of y's variance that the line explains; 1 if y is constant.
        spearman: rank correlation in [-1, 1]; 0 if x or y is constant.
        spearman_ci95: percentile bootstrap interval.
    """

    n: int
    slope: float
    slope_ci95: tuple[float, float]
    intercept: float
    r2: float
    spearman: float
    spearman_ci95: tuple[float, float]


def fit(x: Float[Tensor, " n"], y: Float[Tensor, " n"], *, resamples: int, seed: int) -> Fit:
    """Fit y on x with bootstrap intervals over the points.

    Args:
        x: predictor, at least 3 points, not constant.
        y: response.
        resamples: bootstrap resamples of (x, y) pairs.
        seed: of the resampling.

    Returns:
        The fit.

    Raises:
        UserError: fewer than 3 points, values that are not finite, a constant x, or too few
            resamples.
    """
    a, b = (t.detach().double().cpu().numpy() for t in (x, y))
    if len(a) < 3:
        raise UserError(f"{len(a)} points: a fit with intervals needs at least 3")
    if resamples < 1:
        raise UserError(f"resamples is {resamples}: give at least 1")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError("a point of the fit is not finite: drop it or measure it again")
    if (a == a[0]).all():
        raise UserError("the predictor is constant: a slope needs points at different x")
    slope = _slopes(a[None], b[None]).item()
    intercept = b.mean() - slope * a.mean()
    spread = np.square(b - b.mean()).sum()
    left = np.square(b - slope * a - intercept).sum()
    slopes, ranks = _bootstrap(a, b, resamples, seed)
    return Fit(
        n=len(a),
        slope=slope,
        slope_ci95=_interval(slopes),
        intercept=float(intercept),
        r2=float(1 - left / spread) if spread else 1.0,
        spearman=spearman(x, y),
        spearman_ci95=_interval(ranks),
    )


def _slopes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Least-squares slope per row; NaN where a row of a is constant."""
    a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    below = np.square(a).sum(1)
    return np.divide((a * b).sum(1), below, out=np.full(len(a), np.nan), where=below > 0)


def _bootstrap(
    a: np.ndarray, b: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    source = np.random.default_rng(seed)
    slopes, ranks, rows = [], [], max(1, CHUNK // len(a))
    for start in range(0, resamples, rows):
        chosen = source.integers(len(a), size=(min(rows, resamples - start), len(a)))
        slopes.append(_slopes(a[chosen], b[chosen]))
        ranks.append(row_correlations(*(average_ranks(v[chosen]) for v in (a, b))))
    return np.concatenate(slopes), np.concatenate(ranks)


def row_correlations(
    a: Float[np.ndarray, "r n"], b: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """Return Pearson's correlation of every row with its counterpart.

    Args:
        a: rows.
        b: as many rows.

    Returns:
        In [-1, 1]; 0 where a row is constant, as :func:`spearman` has it.
    """
    a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    below = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    return np.divide((a * b).sum(1), below, out=np.zeros(len(a)), where=below > 0)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Central 95 % of the resamples that are defined."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        raise UserError("no resample of the fit has a slope: raise the number of resamples")
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)
