"""Bend, distances, hypervolume and dominance of curves, on shapes with known areas."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pistole.theory.frontier import (
    bend,
    distances,
    dominated,
    extreme,
    hypervolume,
    interval,
    straightness,
)

accuracies = st.integers(0, 50).map(float)
points = st.lists(st.tuples(accuracies, accuracies), min_size=2, max_size=7).map(np.array)


def curve(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=float)


TRIANGLE = curve((0, 10), (8, 8), (10, 0))  # a corner outside the chord: area 1/2 |10 x 6|
BELOW = curve((0, 10), (2, 2), (10, 0))
SQUARE = curve((0, 4), (4, 4), (4, 0))


def test_areas_of_known_polygons():
    assert bend(TRIANGLE) == pytest.approx(30)
    assert bend(BELOW) == pytest.approx(-30)
    assert bend(SQUARE) == pytest.approx(8)
    assert bend(curve((0, 10), (5, 5), (10, 0))) == pytest.approx(0)
    assert bend(curve((0, 10), (10, 0))) == 0


def test_parts_on_both_sides_of_the_chord_cancel():
    bulges = curve((0, 12), (4, 10), (6, 6), (8, 2), (12, 0))
    assert bend(bulges) == pytest.approx(0)
    away = distances(bulges)
    assert away[1] == pytest.approx(math.sqrt(2))
    assert away[3] == pytest.approx(-math.sqrt(2))


def test_curves_need_not_be_monotone():
    # The detour goes back in clean accuracy, at equal distance from the chord's start.
    detour = curve((2, 10), (0, 12), (4, 12), (10, 2))
    x, y = detour.T
    clockwise = 0.5 * np.sum(np.roll(x, -1) * y - x * np.roll(y, -1))
    assert bend(detour) == pytest.approx(clockwise)
    assert bend(detour) > 0


@pytest.mark.parametrize(
    ("ends", "outside"),
    [
        (((0, 10), (10, 0)), (10, 10)),  # the usual trade
        (((5, 0), (6, 10)), (8, 2)),  # steep and rising: to the right
        (((0, 5), (10, 6)), (5, 9)),  # flat and rising: above
        (((5, 5), (5, 0)), (9, 2)),  # vertical: to the right
        (((0, 5), (9, 5)), (3, 9)),  # horizontal: above
        (((0, 0), (7, 7)), (2, 6)),  # along the diagonal: the more robust side
    ],
)
def test_the_side_of_the_larger_sum_is_positive_whichever_end_comes_first(ends, outside):
    for first, last in (ends, ends[::-1]):
        above = curve(first, outside, last)
        mirrored = np.add(first, last) - outside
        below = curve(first, mirrored, last)
        assert bend(above) > 0 > bend(below)
        assert distances(above)[1] > 0 > distances(below)[1]
        assert bend(above) == pytest.approx(-bend(below))


def test_distances_are_perpendicular_and_zero_at_the_ends():
    # Left of a chord that rises by more than the diagonal: less clean at equal robust accuracy.
    assert distances(curve((0, 0), (3, 9), (12, 16)))[1] == pytest.approx((16 * 3 - 12 * 9) / 20)
    assert distances(TRIANGLE)[[0, 2]] == pytest.approx(0)
    assert distances(TRIANGLE)[1] == pytest.approx(6 / math.sqrt(2))


def test_ends_that_coincide_have_no_chord():
    loop = curve((1, 1), (3, 4), (1, 1))
    assert np.isnan(distances(loop)).all()
    assert bend(loop) == 0


def test_resamples_are_measured_one_by_one():
    stacked = np.stack([TRIANGLE, BELOW, SQUARE])
    assert bend(stacked) == pytest.approx([float(bend(one)) for one in stacked])
    assert distances(stacked) == pytest.approx(np.stack([distances(one) for one in stacked]))
    assert hypervolume(stacked) == pytest.approx([float(hypervolume(one)) for one in stacked])
    by = np.stack([SQUARE] * 3)
    assert dominated(stacked, by).tolist() == [int(dominated(one, SQUARE)) for one in stacked]


@settings(deadline=None)
@given(points, st.floats(0.1, 10))
def test_bend_ignores_direction_and_place_and_scales_with_the_square(line, scale):
    start, end = line[0], line[-1]
    assume(abs((end - start) @ [1, -1]) > 0.5)  # the side is that of the larger sum
    assert bend(line[::-1]) == pytest.approx(bend(line), abs=1e-8)
    assert bend(line + 7.5) == pytest.approx(bend(line), abs=1e-6)
    assert bend(scale * line) == pytest.approx(scale**2 * bend(line), abs=1e-6)
    assert distances(line[::-1])[::-1] == pytest.approx(distances(line), abs=1e-9)


# Hypervolume


def test_hypervolume_of_staircases():
    assert hypervolume(curve((3, 4))) == 12
    assert hypervolume(curve((1, 3), (2, 2), (3, 1))) == pytest.approx(1 * 3 + 1 * 2 + 1 * 1)
    assert hypervolume(curve((2, 2), (1, 1), (2, 1))) == 4  # dominated points add nothing
    assert hypervolume(curve((0, 9), (5, 0))) == 0
    assert hypervolume(curve((2, 3), (2, 5))) == 10


@settings(deadline=None)
@given(points, st.randoms())
def test_hypervolume_counts_the_cells_below(line, random):
    cells = sum(
        any(i < c and j < r for c, r in line) for i, j in itertools.product(range(50), repeat=2)
    )
    assert hypervolume(line) == pytest.approx(cells)
    order = list(range(len(line)))
    random.shuffle(order)
    assert hypervolume(line[order]) == pytest.approx(cells)
    assert hypervolume(line[:-1]) <= cells + 1e-9


# Dominance


def test_dominance_needs_one_strict_improvement():
    assert dominated(curve((1, 1), (2, 2)), curve((1, 1))) == 0
    assert dominated(curve((1, 1)), curve((1, 1.5))) == 1
    assert dominated(curve((1, 1)), curve((2, 0.5), (0.5, 2))) == 0
    assert dominated(curve((1, 1), (2, 2), (0, 3)), curve((2, 2.5))) == 2
    assert dominated(curve((0.3, 1)), curve((0.1 + 0.2, 1))) == 0  # round-off is no improvement


@settings(deadline=None)
@given(points, points)
def test_dominance_by_definition(line, by):
    expected = sum(any((b >= p).all() and (b > p).any() for b in by) for p in line)
    assert dominated(line, by) == expected


# Extremes, intervals, verdict


def test_extreme_keeps_the_sign():
    assert extreme(np.array([0.0, -3.0, 2.0])) == -3
    assert extreme(np.array([[0.0, 1.0], [2.0, -2.5]])).tolist() == [1, -2.5]
    assert np.isnan(extreme(np.full(3, np.nan)))


def test_interval_leaves_out_what_is_not_defined():
    values = np.arange(101.0)
    assert interval(values) == pytest.approx((2.5, 97.5))
    assert interval(np.append(values, np.nan)) == pytest.approx((2.5, 97.5))
    assert interval(values, 0.5) == pytest.approx((25, 75))
    assert interval(np.array([np.nan])) is None


def spread(line: np.ndarray, noise: float, seed: int = 0, resamples: int = 2000) -> np.ndarray:
    shape = (resamples, *line.shape)
    return line + noise * np.random.default_rng(seed).standard_normal(shape)


STRAIGHT = curve((60, 40), (65, 35), (70, 30), (75, 25), (80, 20))
BENT = curve((60, 40), (67, 37), (74, 34), (77, 27), (80, 20))
WAVE = curve((60, 40), (67, 37), (70, 30), (73, 23), (80, 20))


@pytest.mark.parametrize(
    ("line", "noise", "verdict"),
    [
        (STRAIGHT, 0.1, "holds"),
        (STRAIGHT, 2.0, "undecided"),
        (BENT, 0.1, "fails"),
        (BENT, 5.0, "undecided"),
        (WAVE, 0.1, "fails"),  # its area is 0
        (100 - BENT, 0.1, "fails"),  # the other side
    ],
)
def test_straightness(line, noise, verdict):
    found = straightness(line, spread(line, noise), within=1.0)
    assert found.verdict == verdict
    assert found.distance == pytest.approx(extreme(distances(line)[1:-1]))
    low, high = found.interval
    assert low < found.distance < high


def test_a_failure_must_survive_the_correction_for_the_number_of_points():
    # One of three points at 1.3 with a standard error of 0.14: plain interval above 1.02,
    # corrected for three points from 0.96 on.
    line = STRAIGHT + np.array([[0, 0], [1.3, 1.3], [0, 0], [0, 0], [0, 0]]) / math.sqrt(2)
    samples = np.repeat(line[None], 4000, axis=0)
    samples[:, 1] += 0.14 / math.sqrt(2) * np.random.default_rng(1).standard_normal((4000, 1))
    found = straightness(line, samples, within=1.0)
    assert found.interval[0] > 1.0
    assert found.verdict == "undecided"
    only = line[[0, 1, 4]], samples[:, [0, 1, 4]]
    assert straightness(*only, within=1.0).verdict == "fails"


def test_two_points_are_a_line_by_definition_and_prove_nothing():
    line = STRAIGHT[[0, -1]]
    found = straightness(line, spread(line, 0.1), within=1.0)
    assert (found.verdict, found.distance, found.interval) == ("undecided", None, None)
    loop = STRAIGHT[[0, 1, 0]]
    assert straightness(loop, spread(loop, 0.1), within=1.0).verdict == "undecided"
