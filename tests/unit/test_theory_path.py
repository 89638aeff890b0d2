"""Paths over lambda at equal lambda and at equal distance (docs/method.md E.3)."""

import math

import pytest
import torch
from scipy import stats

from pistole.errors import UserError
from pistole.theory.contrast import Contrast, below, contrast, minimum_near, rank_verdict
from pistole.theory.path import Path, Point, at_distance, distance, lowest
from pistole.theory.spectrum import Spectrum


def path(lambdas, distances, values) -> Path:
    grids = (tuple(map(float, grid)) for grid in (lambdas, distances))
    return Path(*grids, torch.tensor(values, dtype=torch.float64))


def noisy(means: list[float], size: float = 0.0, parts: int = 16) -> torch.Tensor:
    """Values of every part; all points share the parts' chance but for ``size``."""
    source = torch.Generator().manual_seed(0)
    common = torch.randn(parts, generator=source, dtype=torch.float64)
    own = torch.randn(len(means), parts, generator=source, dtype=torch.float64)
    own -= own.mean(1, keepdim=True)
    return torch.tensor(means, dtype=torch.float64)[:, None] + 10 * common + size * own


def test_distance_is_the_norm_over_all_tensors():
    base = {"a": torch.zeros(2, 2), "b": torch.ones(3)}
    moved = {"b": torch.ones(3) + 2, "a": torch.full((2, 2), 1.0)}
    assert distance(moved, base) == pytest.approx(4)  # sqrt(4 + 12)
    with pytest.raises(UserError, match=r"merged model: tensor 'b' is missing"):
        distance({"a": base["a"]}, base)


def test_a_path_is_read_at_a_distance_between_two_lambdas():
    ours = path([0, 0.5, 1], [4, 2, 1], [[10.0, 0], [20, 2], [30, 4]])
    assert at_distance(ours, 3, near=0).tolist() == [15, 1]
    assert at_distance(ours, 1.75, near=0).tolist() == [22.5, 2.5]
    assert at_distance(ours, 2, near=0).tolist() == [20, 2]
    assert at_distance(ours, 4, near=1).tolist() == [10, 0]
    assert at_distance(ours, 4.01, near=0) is None
    assert at_distance(ours, 0.99, near=0) is None


def test_of_two_crossings_the_one_with_the_nearer_lambda_counts():
    ours = path([0, 0.5, 1], [4, 2, 6], [[0.0], [1], [2]])
    # Distance 3 is met at lambda 0.25 (value 0.5) and at 0.625 (value 1.25).
    for near, value in ((0, 0.5), (0.4, 0.5), (0.5, 1.25), (1, 1.25)):
        assert at_distance(ours, 3, near=near).item() == pytest.approx(value)


def test_the_contrast_is_a_paired_t_test_with_bonferroni():
    ours, theirs = noisy([1.0, 2.0, 3.0], size=1.0), noisy([2.0, 2.0, 2.0])
    found = contrast(ours, theirs)
    assert found.mean == pytest.approx((-1, 0, 1))
    for i in range(3):
        expected = stats.ttest_rel(ours[i], theirs[i]).confidence_interval(1 - 0.05 / 3)
        assert (found.low[i], found.high[i]) == pytest.approx(tuple(expected))
    alone = contrast(ours[:1], theirs[:1])
    assert alone.high[0] < found.high[0]  # one comparison needs no widening


def test_a_single_part_has_no_interval():
    found = contrast(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
    assert found == Contrast((-2.0,), (-math.inf,), (math.inf,))
    assert below(found) == "undecided"


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_to_compare_is_refused(shape):
    with pytest.raises(UserError, match="nothing to compare"):
        contrast(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize(
    ("lows", "highs", "verdict"),
    [
        ((-3.0, -2.0), (-2.0, -1.0), "holds"),
        ((-3.0, -2.0), (-2.0, 0.1), "undecided"),
        ((-3.0, 0.1), (-2.0, 1.0), "fails"),
        ((-1.0, 0.1), (1.0, 1.0), "fails"),
        ((0.0,), (0.0,), "fails"),  # the same model is not below itself
    ],
)
def test_below_needs_every_interval(lows, highs, verdict):
    assert below(Contrast(lows, lows, highs)) == verdict


GRID = (0.0, 0.1, 0.2, 0.3, 0.6, 1.0)


@pytest.mark.parametrize(
    ("means", "size", "lambdas", "verdict"),
    [
        ([3, 2, 1, 2, 3, 4], 0.1, GRID, "holds"),
        ([3, 1, 2, 2, 3, 4], 0.1, GRID, "holds"),  # 0.1 is near 0.2
        ([3, 2, 1, 2, 0.5, 4], 0.1, GRID, "fails"),
        ([3, 2, 1, 2, 1.2, 4], 3.0, GRID, "undecided"),
        ([1, 2], 0.1, (0.0, 1.0), "holds"),  # the grid's nearest to 0.2 is 0
        ([2, 1], 0.1, (0.0, 1.0), "fails"),
        ([1], 0.1, (0.2,), "undecided"),
        ([1, 1], 0.0, (0.2, 1.0), "fails"),  # flat: no minimum
    ],
)
def test_the_minimum_near_a_lambda(means, size, lambdas, verdict):
    ours = Path(lambdas, lambdas, noisy(means, size))
    assert minimum_near(ours, 0.2, reach=0.1) == verdict


def test_the_lowest_point():
    assert lowest(path([0, 0.5, 1], [1, 1, 1], [[3.0, 0], [1, 1], [2, 0]])) == 0.5


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [((-0.9, -0.1), "holds"), ((0.1, 0.9), "fails"), ((-0.9, 0.1), "undecided")],
)
def test_flatter_models_with_a_higher_sum_have_a_negative_rank_correlation(ends, verdict):
    assert rank_verdict(ends) == verdict


def test_the_row_of_a_point():
    values = torch.tensor([1.0, 3.0], dtype=torch.float64)
    ends = Spectrum(5.0, 0.5, -2.0, 0.25)
    row = Point("pistole", 0.2, "robust", 4.0, 1.5, values, values / 10, ends, (0.5, 0.25)).row()
    assert row == {
        "method": "pistole",
        "lambda": 0.2,
        "loss": "robust",
        "distance": 4.0,
        "mean_loss": 1.5,
        "trace": 2.0,
        "trace_error": 1.0,
        "sharpness": pytest.approx(0.2),
        "sharpness_error": pytest.approx(0.1),
        "top_eigenvalue": 5.0,
        "top_residual": 0.5,
        "bottom_eigenvalue": -2.0,
        "bottom_residual": 0.25,
        "select_clean": 0.5,
        "select_robust": 0.25,
        "select_sum": 0.75,
    }
    alone = Point("vanilla", 0.2, "robust", 4.0, 1.5, values[:1], values[:1], ends, None).row()
    assert [alone[k] for k in ("trace_error", "sharpness_error", "select_sum")] == [None] * 3
