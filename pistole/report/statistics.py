"""Intervals of accuracies: Wilson's for one task, a paired bootstrap for means over tasks.

docs/method.md D.3: all models answer the same images, so models are compared image by image, and
images are drawn again within each task, because every task weighs the same in a mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
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


Measured = dict[str, Interval]  # measure -> interval


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


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test: do two models get the same images right equally often?

    Only images on which they differ tell; under the hypothesis each is as likely to be one
    model's as the other's, so their number is binomial(1/2).

    Args:
        first: bool ``[images]``: the first model is right.
        second: of the second model, on the same images.

    Returns:
        How many images only the first, only the second gets right, and the two-sided p.
    """
    only, other = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    if only + other == 0:
        return 0, 0, 1.0
    from scipy.stats import binomtest  # takes seconds to import, and `pistole show` needs none

    return only, other, float(binomtest(only, only + other).pvalue)


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
    from pistole.seeds import derive

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


@dataclass(frozen=True)
class Paired:
    """All models' measures on the same images, with one bootstrap draw for all of them.

    Measures are linear in the answers, so a group of models stands for the mean of their answers,
    image by image.

    Attributes:
        models: names along the models' axis.
        points: fractions ``[models, 3]``.
        samples: fractions ``[B, models, 3]``.
    """

    models: tuple[str, ...]
    points: np.ndarray
    samples: np.ndarray

    def mean(self, group: Sequence[str]) -> Measured:
        """Estimate the measures of a model, or of the mean of several.

        Args:
            group: names of models.

        Returns:
            measure -> interval.
        """
        return _intervals(*self._of(group))

    def lead(self, group: Sequence[str], other: Sequence[str]) -> Measured:
        """Estimate ``group - other`` on the same images.

        Args:
            group: names of models.
            other: names of models.

        Returns:
            measure -> interval.
        """
        (point, samples), (against, others) = self._of(group), self._of(other)
        return _intervals(point - against, samples - others)

    def share(self, part: Sequence[str], whole: Sequence[str], base: Sequence[str]) -> Interval:
        """Estimate which share of a gain in the Sum something else gives too.

        The interval is that of the ratio over the resamples. One without a gain counts as an
        infinite share, so the interval is unbounded when the gain is hardly clear of zero.

        Args:
            part: what is asked about.
            whole: what has the gain.
            base: what both are compared with.

        Returns:
            ``(part - base) / (whole - base)``; an end may be infinite.

        Raises:
            ValueError: there is no gain.
        """
        (start, starts), sums = self._of(base), MEASURES.index("sum")
        tops, bottoms = (self._of(group) for group in (part, whole))
        gain = bottoms[0][sums] - start[sums]
        if gain <= 0:
            raise ValueError(f"a gain of {gain} has no shares")
        top, bottom = (found[1][:, sums] - starts[:, sums] for found in (tops, bottoms))
        beyond = np.where(top == 0, 0.0, np.copysign(np.inf, top))
        ratios = np.divide(top, bottom, out=beyond, where=bottom > 0)
        low, high = np.quantile(ratios, TAILS, method="inverted_cdf")  # no mean of infinities
        return Interval(float((tops[0][sums] - start[sums]) / gain), float(low), float(high))

    def _of(self, group: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        places = [self.models.index(name) for name in group]
        return self.points[places].mean(axis=0), self.samples[:, places].mean(axis=1)


def compare(
    models: Sequence[str], outcomes: Mapping[str, np.ndarray], *, resamples: int, seed: int
) -> Paired:
    """Measure all models and draw the images again, once for all of them.

    Args:
        models: names along the models' axis.
        outcomes: as in :func:`measures`.
        resamples: number of bootstrap samples.
        seed: run seed.

    Returns:
        What every model and every difference is estimated from.
    """
    return Paired(tuple(models), measures(outcomes), resample(outcomes, resamples, seed))


def _intervals(points: np.ndarray, samples: np.ndarray) -> Measured:
    low, high = np.quantile(samples, TAILS, axis=0)
    return {
        name: Interval(float(points[k]), float(low[k]), float(high[k]))
        for k, name in enumerate(MEASURES)
    }
