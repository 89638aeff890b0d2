"""Slopes and ranks of points that are both measured with shared errors (docs/method.md E.2)."""

import numpy as np
import pytest
import torch
from scipy import stats

from pistole.errors import UserError
from pistole.theory.correlation import fit
from pistole.theory.noisy_fit import Repeated, noisy_fit


def measured(
    seed: int, *, slope=1.0, n=60, probes=8, pairs=8, noise=1.0, shared=0.0, error=None
) -> Repeated:
    """True x and slope * x, each repeat off by noise of its own and one part that all share."""
    source = np.random.default_rng(seed)
    x = source.normal(size=n)

    def repeats(truth: np.ndarray, count: int, size: float) -> torch.Tensor:
        own = source.normal(size=(count, n)) * size
        return torch.from_numpy(truth + own + shared * source.normal(size=(count, 1)))

    error = noise if error is None else error
    return Repeated(repeats(x, probes, noise), repeats(slope * x, pairs, error))


def test_without_errors_it_is_the_least_squares_fit():
    group = measured(0, slope=1.5, noise=0.0, error=0.5, pairs=1)
    found = noisy_fit([group], resamples=400, seed=0)
    line = fit(group.x.mean(0), group.y[0], resamples=400, seed=0)
    assert found.n == 60
    assert found.slope == pytest.approx(line.slope)
    assert found.r2 == pytest.approx(line.r2)
    assert found.spearman == pytest.approx(line.spearman)
    assert found.slope_ci95 == pytest.approx(line.slope_ci95, abs=0.03)
    assert found.spearman_ci95 == pytest.approx(line.spearman_ci95, abs=0.03)


def test_the_slope_is_freed_of_the_error_of_x():
    """Least squares has 2 / (1 + 9/16) of a slope of 2 over many repetitions."""
    groups = [measured(k, slope=2.0, probes=16, noise=3.0) for k in range(200)]
    plain = [stats.linregress(g.x.mean(0), g.y.mean(0)).slope for g in groups]
    freed = [noisy_fit([g], resamples=50, seed=0).slope for g in groups]
    known = [s for s in freed if s is not None]
    assert np.mean(plain) == pytest.approx(1.28, abs=0.05)
    assert len(known) > 190
    assert np.median(known) == pytest.approx(2.0, abs=0.1)


def test_the_slope_by_hand():
    x = torch.tensor([[0.0, 4.0, 6.0, 8.0, -8.0], [0.0, 6.0, 6.0, 8.0, -8.0]])
    group = Repeated(x, torch.tensor([[0.0, 1.0, 5.0, 7.0, -9.0]]))
    # Means 0, 5, 6, 8, -8 around 2.2 have the squares 164.8 and with y the products 154.2. The
    # probes differ at one point, whose mean has the variance 1; centring keeps 4/5 of it.
    found = noisy_fit([group], resamples=9, seed=0)
    assert found.slope == pytest.approx(154.2 / (164.8 - 0.8))
    # Two groups share no probes: centring over 10 points keeps 9/10 of each.
    twice = noisy_fit([group, group], resamples=9, seed=0)
    assert twice.slope == pytest.approx(308.4 / (329.6 - 1.8))
    # One group of all 10 points does: the common error of two points loses 4/10.
    wide = Repeated(x.repeat(1, 2), group.y.repeat(1, 2))
    together = noisy_fit([wide], resamples=9, seed=0)
    assert together.slope == pytest.approx(308.4 / (329.6 - (2 - 4 / 10)))


def test_intervals_cover_errors_that_all_points_share():
    """A common error tilts no line, but one that grows with x does: points alone see none."""
    hits = plain = 0
    for k in range(100):
        source = np.random.default_rng(k)
        x = source.normal(size=40)
        gain_x, gain_y = (1 + source.normal(size=(6, 1)) * 0.5 for _ in range(2))
        group = Repeated(torch.from_numpy(gain_x * x), torch.from_numpy(gain_y * x))
        ends = noisy_fit([group], resamples=300, seed=k).slope_ci95
        hits += ends is not None and ends[0] <= 1 <= ends[1]
        ends = fit(group.x.mean(0), group.y.mean(0), resamples=300, seed=k).slope_ci95
        plain += ends[0] <= 1 <= ends[1]
    assert plain < 10
    assert hits >= 85


def test_the_rank_correlation_and_its_interval():
    group = measured(3, noise=0.5)
    found = noisy_fit([group], resamples=500, seed=0)
    expected = stats.spearmanr(group.x.mean(0), group.y.mean(0)).statistic
    assert found.spearman == pytest.approx(expected)
    low, high = found.spearman_ci95
    assert -1 <= low < found.spearman < high <= 1
    noisier = noisy_fit([measured(3, noise=3.0)], resamples=500, seed=0)
    assert noisier.spearman_ci95[1] - noisier.spearman_ci95[0] > high - low


def test_noise_that_resampling_adds_again_does_not_move_the_interval_off_the_estimate():
    found = noisy_fit([measured(0, n=400, probes=3, pairs=3)], resamples=300, seed=0)
    low, high = found.spearman_ci95
    assert low < found.spearman < high
    assert (low + high) / 2 == pytest.approx(found.spearman, abs=0.02)


def test_groups_have_repeats_of_their_own():
    """The same points as one group or as two: other draws, and other shares of the noise."""
    a, b = measured(1, n=30), measured(2, n=30)
    together = Repeated(torch.cat([a.x, b.x], 1), torch.cat([a.y, b.y], 1))
    ours, theirs = (
        noisy_fit([a, b], resamples=200, seed=0),
        noisy_fit([together], resamples=200, seed=0),
    )
    assert (ours.n, ours.spearman, ours.r2) == (theirs.n, theirs.spearman, theirs.r2)
    assert ours.slope_ci95 != theirs.slope_ci95
    empty = Repeated(torch.zeros(8, 0), torch.zeros(8, 0))
    assert noisy_fit([a, empty, b], resamples=200, seed=0) == ours


def test_noise_that_drowns_x_leaves_no_slope():
    x = torch.tensor([[1.0, -1.0, 2.0, -2.1], [-1.0, 1.1, -2.0, 2.0]])
    found = noisy_fit([Repeated(x, x)], resamples=100, seed=0)
    assert (found.slope, found.slope_ci95) == (None, None)
    assert -1 <= found.spearman <= 1


def test_the_share_of_points_within_two_errors():
    right = noisy_fit([measured(0, n=400)], resamples=1, seed=0).within_two_errors
    assert right == pytest.approx(0.94, abs=0.03)
    x = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 7.0]])
    y = torch.tensor([[3.0, 1.0, 20.0], [5.0, 1.0, 22.0]])
    # Means 1, 1, 6 against 4, 1, 21; the error of a mean is 1, 0, 1; two of the difference: 2.83.
    assert noisy_fit([Repeated(x, y)], resamples=1, seed=0).within_two_errors == pytest.approx(
        1 / 3
    )
    alone = noisy_fit([measured(0, pairs=1)], resamples=1, seed=0)
    assert alone.within_two_errors is None


def test_many_resamples_are_made_in_chunks(monkeypatch):
    group = measured(0)
    whole = noisy_fit([group], resamples=50, seed=3)
    monkeypatch.setattr("pistole.theory.noisy_fit.CHUNK", 7 * 60)
    found = noisy_fit([group], resamples=50, seed=3)
    assert found.slope == whole.slope
    assert found.slope_ci95 == pytest.approx(whole.slope_ci95, abs=0.2)
    assert noisy_fit([group], resamples=50, seed=3) == found


@pytest.mark.parametrize(
    ("group", "resamples", "words"),
    [
        (Repeated(torch.zeros(3, 2), torch.zeros(3, 2)), 9, "2 points"),
        (Repeated(torch.full((3, 4), torch.nan), torch.zeros(3, 4)), 9, "not finite"),
        (Repeated(torch.zeros(3, 4), torch.zeros(3, 4)), 0, "resamples is 0"),
    ],
)
def test_bad_input_is_refused(group, resamples, words):
    with pytest.raises(UserError, match=words):
        noisy_fit([group], resamples=resamples, seed=0)
