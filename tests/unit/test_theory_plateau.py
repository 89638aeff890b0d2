"""The plateau of a finite-difference curvature over the radius (docs/method.md E.2)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pistole.errors import UserError
from pistole.theory.plateau import Plateau, disagreements, plateau

ETAS = torch.tensor([1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1], dtype=torch.float64)


def curve(rounding: float, fourth: float, n: int = 201) -> torch.Tensor:
    """c (1 + fourth eta^2) + rounding / eta^2 * noise, for n true curvatures c of both signs."""
    source = torch.Generator().manual_seed(0)
    c = torch.randn(n, generator=source, dtype=torch.float64).exp()
    c *= torch.randint(0, 2, (n,), generator=source) * 2 - 1
    noise = torch.randn(len(ETAS), n, generator=source, dtype=torch.float64)
    return c * (1 + fourth * ETAS[:, None] ** 2) + rounding / ETAS[:, None] ** 2 * noise


def test_the_plateau_lies_between_rounding_and_the_fourth_order():
    # Rounding is 1 at 3e-4 and 1e-3 of c at 1e-2; the fourth order is 1 % at 3e-2, 10 % at 0.1.
    found = plateau(curve(1e-7, 10), tolerance=0.05)
    assert found is not None
    assert (ETAS[found.first], ETAS[found.last]) == (3e-3, 3e-2)
    assert ETAS[found.middle] == 1e-2
    assert found.disagreement <= 0.05


@pytest.mark.parametrize(
    ("rounding", "fourth", "first", "last"),
    [
        (0.0, 0.0, 1e-4, 3e-1),  # a quadratic in exact arithmetic
        (0.0, 10.0, 1e-4, 3e-2),  # no rounding: down to the smallest radius
        (1e-7, 0.0, 3e-3, 3e-1),  # no fourth order: up to the largest
        (1e-9, 10.0, 3e-4, 3e-2),  # better arithmetic: further down
        (1e-7, 100.0, 3e-3, 1e-2),  # a rougher function: less far up
    ],
)
def test_each_end_is_set_by_its_own_error(rounding, fourth, first, last):
    found = plateau(curve(rounding, fourth), tolerance=0.05)
    assert found is not None
    assert (ETAS[found.first].item(), ETAS[found.last].item()) == (first, last)


def test_no_two_radii_agree():
    assert plateau(curve(1.0, 0.0), tolerance=0.05) is None
    assert plateau(torch.ones(1, 5), tolerance=0.05) is None


def test_a_drift_by_small_steps_is_no_plateau():
    """Neighbours agree to 4 %, but a plateau's two ends must as well."""
    steps = torch.tensor([[1.0], [1.04], [1.08], [1.12], [1.16]])
    found = plateau(steps, tolerance=0.05)
    assert found is not None
    assert found.last - found.first == 1


def test_of_two_plateaus_the_longer_counts_then_the_flatter():
    longer = torch.tensor([[1.0], [1.0], [9.0], [5.0], [5.1], [5.2]])
    found = plateau(longer, tolerance=0.05)
    assert found is not None
    assert (found.first, found.last) == (3, 5)
    assert found.disagreement == pytest.approx(0.2 / 5.2, rel=1e-6)
    flatter = torch.tensor([[1.0], [1.03], [9.0], [5.0], [5.01]])
    found = plateau(flatter, tolerance=0.05)
    assert found is not None
    assert (found.first, found.last) == (3, 4)


def test_the_middle_of_an_even_plateau_is_the_smaller_radius():
    assert Plateau(2, 5, 0.0).middle == 3
    assert Plateau(2, 4, 0.0).middle == 3


def test_a_few_points_that_own_the_sum_do_not_decide():
    estimates = torch.ones(3, 9)
    estimates[1, 0] = 1e6
    assert plateau(estimates, tolerance=0.05) == Plateau(0, 2, 0.0)


def test_disagreement_by_hand():
    change = disagreements(torch.tensor([[1.0, 0.0, -2.0], [2.0, 0.0, 2.0]]))
    # Points: 1/2, 0 (both 0), 4/2; the median is 1/2.
    assert change.tolist() == [[0.0, 0.5], [0.5, 0.0]]


@given(st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-6))
def test_the_unit_does_not_matter(scale):
    estimates = curve(1e-7, 10)
    ours, theirs = (plateau(e, tolerance=0.05) for e in (estimates, estimates * scale))
    assert ours is not None
    assert theirs is not None
    assert (ours.first, ours.last) == (theirs.first, theirs.last)


def test_nothing_to_compare_is_refused():
    with pytest.raises(UserError, match="no estimates"):
        plateau(torch.ones(3, 0), tolerance=0.05)
