"""Slope, R^2 and rank correlation with bootstrap intervals (docs/method.md E.2)."""

import math

import pytest
import torch
from scipy import stats

from pistole.errors import UserError
from pistole.theory.correlation import fit, spearman


def points(n: int = 80, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(n, generator=source)
    return x, 1.5 * x - 2 + noise * torch.randn(n, generator=source)


def test_the_fit_agrees_with_scipy():
    x, y = points()
    found, line = fit(x, y, resamples=50, seed=0), stats.linregress(x.double(), y.double())
    assert found.n == 80
    assert found.slope == pytest.approx(line.slope)
    assert found.intercept == pytest.approx(line.intercept)
    assert found.r2 == pytest.approx(line.rvalue**2)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.spearman == spearman(x, y)


def test_the_intervals_have_the_width_that_scipy_gives():
    x, y = points()
    found = fit(x, y, resamples=4000, seed=0)

    def boot(statistic) -> tuple[float, float]:
        made = stats.bootstrap(
            (x.double().numpy(), y.double().numpy()), statistic, paired=True,
            vectorized=False, n_resamples=1500, method="percentile", rng=1,
        )  # fmt: skip
        return tuple(made.confidence_interval)

    slope = boot(lambda a, b: stats.linregress(a, b).slope)
    assert found.slope_ci95 == pytest.approx(slope, abs=0.02)
    rank = boot(lambda a, b: stats.spearmanr(a, b).statistic)
    assert found.spearman_ci95 == pytest.approx(rank, abs=0.01)


def test_the_same_seed_gives_the_same_interval():
    x, y = points()
    left, right = (fit(x, y, resamples=100, seed=3) for _ in range(2))
    assert left == right
    assert left != fit(x, y, resamples=100, seed=4)


def test_many_resamples_are_made_in_chunks(monkeypatch):
    x, y = points()
    whole = fit(x, y, resamples=100, seed=3)
    monkeypatch.setattr("pistole.theory.correlation.CHUNK", 7 * len(x))
    assert fit(x, y, resamples=100, seed=3) == whole


def test_a_perfect_line():
    x = torch.arange(10.0)
    found = fit(x, 3 * x + 1, resamples=50, seed=0)
    assert (found.slope, found.r2, found.spearman) == pytest.approx((3, 1, 1))
    assert found.slope_ci95 == pytest.approx((3, 3))


def test_a_constant_response_has_slope_zero():
    found = fit(torch.arange(10.0), torch.ones(10), resamples=50, seed=0)
    assert (found.slope, found.r2, found.spearman) == (0, 1, 0)
    assert found.spearman_ci95 == (0, 0)


def test_few_points_have_resamples_without_a_slope():
    found = fit(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 2.0, 1.0]), resamples=200, seed=0)
    assert all(math.isfinite(bound) for bound in (*found.slope_ci95, *found.spearman_ci95))


@pytest.mark.parametrize(
    ("x", "y", "resamples", "words"),
    [
        ([0.0, 1.0], [0.0, 1.0], 9, "2 points"),
        ([0.0, 1.0, 2.0], [0.0, 1.0, math.nan], 9, "not finite"),
        ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0], 9, "predictor is constant"),
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], 0, "resamples is 0"),
    ],
)
def test_bad_input_is_refused(x, y, resamples, words):
    with pytest.raises(UserError, match=words):
        fit(torch.tensor(x), torch.tensor(y), resamples=resamples, seed=0)
