"""Intervals of accuracies: Wilson's for one task, a paired bootstrap for means over tasks.

docs/method.md D.3: all models answer the same images, so models are compared image by image, and
images are drawn again within each task, because every task weighs the same in a mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from pistole.seeds import derive

LEVEL = 0.95
MEASURES = ("clean_mean", "robust_mean", "sum")


@dataclass(frozen=True)
class Interval:
    """A number with its 95% interval.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def side(self) -> int:
        """1 if the interval lies above zero, -1 if below, 0 if it holds zero."""
        return int(self.low > 0) - int(self.high < 0)


def wilson(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion; it stays in [0, 1] at 0 and at all successes.

    Args:
        successes: how often it happened.
        trials: out of how many.
        level: coverage.

    Returns:
        The proportion and its interval.

    Raises:
        ValueError: ``successes`` is not between 0 and ``trials``, or there are no trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p, weight = successes / trials, 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / weight
    half = z / weight * (p * (1 - p) / trials + z * z / (4 * trials * trials)) ** 0.5
    # The ends are exact in these two cases; rounding would leave them a hair beside 0 and 1.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(p, low, high)


def measures(outcomes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean clean, mean robust accuracy over tasks, and their sum, per model.

    Args:
        outcomes: task -> bool ``[images, models, 2]``: right when clean, right under attack.

    Returns:
        Fractions ``[models, 3]`` in the order of :data:`MEASURES`.
    """
    means = np.mean([correct.mean(axis=0) for correct in outcomes.values()], axis=0)
    return np.concatenate([means, means.sum(axis=-1, keepdims=True)], axis=-1)


def resample(outcomes: Mapping[str, np.ndarray], resamples: int, seed: int) -> np.ndarray:
    """Bootstrap :func:`measures`: images are drawn with replacement within each task.

    One draw serves all models, so differences between models are paired. Images on which all
    models do the same are interchangeable: their multiplicities are drawn from the multinomial
    law, which is the law of drawing the images one by one.

    Args:
        outcomes: as in :func:`measures`.
        resamples: number of bootstrap samples B.
        seed: run seed.

    Returns:
        Fractions ``[B, models, 3]``.
    """
    total = 0.0
    for task, correct in outcomes.items():
        count, models, kinds = correct.shape
        patterns, times = np.unique(correct.reshape(count, -1), axis=0, return_counts=True)
        stream = np.random.default_rng(derive(seed, "report", "bootstrap", task))
        drawn = stream.multinomial(count, times / count, size=resamples)
        # Whole numbers below 2**53: the product is exact in whatever order it is summed.
        right = drawn.astype(np.float64) @ patterns.astype(np.float64)
        total = total + (right / count).reshape(resamples, models, kinds)
    means = total / len(outcomes)
    return np.concatenate([means, means.sum(axis=-1, keepdims=True)], axis=-1)


def estimates(
    models: Sequence[str],
    outcomes: Mapping[str, np.ndarray],
    *,
    resamples: int,
    seed: int,
    reference: str | None,
) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, Interval]]]:
    """Estimate every model's measures and the lead of one model over each other one.

    Args:
        models: names along the models' axis.
        outcomes: as in :func:`measures`.
        resamples: number of bootstrap samples.
        seed: run seed.
        reference: the model whose lead is asked; None for no comparison.

    Returns:
        model -> measure -> interval, and other model -> measure -> interval of
        ``reference - other`` on the same images.
    """
    points, samples = measures(outcomes), resample(outcomes, resamples, seed)
    own = {name: _intervals(points[i], samples[:, i]) for i, name in enumerate(models)}
    if reference is None or reference not in models:
        return own, {}
    first = list(models).index(reference)
    leads = {
        name: _intervals(points[first] - points[i], samples[:, first] - samples[:, i])
        for i, name in enumerate(models)
        if i != first
    }
    return own, leads


def _intervals(points: np.ndarray, samples: np.ndarray) -> dict[str, Interval]:
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = np.quantile(samples, tails, axis=0)
    return {
        name: Interval(float(points[k]), float(low[k]), float(high[k]))
        for k, name in enumerate(MEASURES)
    }
