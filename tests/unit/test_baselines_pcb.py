"""PCB-Merging against its definition, written out (docs/method.md C.2)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pistole.baselines.pcb import Pcb, competition_scores, normalise
from pistole.errors import UserError
from tests.unit.baselines_models import (
    as_params,
    check_rule,
    close,
    few,
    flat,
    same,
    sources,
    unflat,
    vector_lists,
    zeros,
)
from tests.unit.method_models import random_params


def by_rank(values, low, high):
    ordered = values.sort().values
    return ordered[low], ordered[high]


def to_unit(values):
    span = values.max() - values.min()
    return (values - values.min()) / span if span else torch.zeros_like(values)


def literal(vectors, ratio):
    """Whole rows in float64, sorted whole."""
    size = len(vectors[0])
    last = max(0, int(size * (1 - 0.0001) - 1))
    clamped, scales = [], []
    for vector in vectors:
        magnitudes = vector.abs()
        low, high = by_rank(magnitudes, int(size * 0.0001), last)
        magnitudes = magnitudes.clamp(low, high)
        within = torch.exp(len(vectors) * to_unit(magnitudes) ** 2)
        score = within * torch.tanh(vector * sum(vectors))
        floor, top = by_rank(score, min(size - 1, int(size * (1 - ratio))), size - 1)
        clamped.append(vector.sign() * magnitudes)
        scales.append(to_unit(score.clamp(floor, top)))
    merged = sum(c * s for c, s in zip(clamped, scales, strict=True))
    return merged / sum(scales).clamp(min=1e-12)


@pytest.mark.parametrize("weights", [(1,), (1, 1), (0.3, 0.7), (1, 1, 1), (0.2, -0.5, 1.5)])
@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.5, 1])
def test_the_whole_vector_is_merged_as_the_definition_says(ratio, weights):
    base, vectors = sources(len(weights))
    parts = [w * flat(v) for w, v in zip(weights, vectors, strict=True)]
    found = Pcb(ratio=ratio, scaling=1.2)(base, vectors, weights)
    expected = flat(base) + 1.2 * literal(parts, ratio)
    assert close(found, unflat(expected, base), atol=1e-5)


def test_both_tails_are_clamped_in_a_long_vector():
    base = zeros(random_params(0, a=(150, 150), b=(500,)))
    vectors = [random_params(s, a=(150, 150), b=(500,)) for s in (1, 2)]
    expected = literal([flat(v) for v in vectors], 0.1)
    found = Pcb()(base, vectors, (1, 1))
    assert close(found, unflat(expected, base), atol=1e-4)
    # 23000 coordinates: floor(2.3) = 2 from below and floor(22996.7) = the 22997th.
    magnitudes = flat(vectors[0]).abs().sort().values
    survey = Pcb().survey(lambda: iter((k, [v[k] for v in vectors]) for k in ("a", "b")), (1, 1))
    assert survey.magnitudes[0] == (magnitudes[2].item(), magnitudes[22996].item())


def test_one_vector_keeps_its_best_scores():
    base, (tau, _) = sources()
    found = flat(Pcb(ratio=0.25)(zeros(base), [tau], (1,)))
    magnitudes = flat(tau).abs()
    kept = found != 0
    assert int(kept.sum()) == 12  # of 49: ranks 37 to 48, of which the lowest is scaled by 0
    assert magnitudes[kept].min() > magnitudes[~kept].max()


@few
@given(vector_lists(), st.sampled_from([0.1, 0.5, 1]))
def test_ties_zeros_and_equal_values_stay_finite(rows, ratio):
    vectors = [as_params(row) for row in rows]
    base, rule = zeros(vectors[0]), Pcb(ratio=ratio)
    found = rule(base, vectors, (1, 1))
    assert all(torch.isfinite(v).all() for v in found.values())
    assert same(rule(base, vectors[::-1], (1, 1)), found)
    largest = max(row.abs().max() for row in rows)
    assert flat(found).abs().max() <= largest * (1 + 1e-5)  # a weighted mean


def test_equal_magnitudes_have_no_range_and_merge_to_the_base():
    base, _ = sources()
    ones = {k: torch.ones_like(v) for k, v in base.items()}
    assert same(Pcb()(base, [ones, ones], (1, 1)), base)


def test_coordinates_whose_signs_oppose_are_left_to_the_stronger():
    left, right = {"a": torch.tensor([2.0, 1.0, 0.1])}, {"a": torch.tensor([-1.0, 1.0, 0.1])}
    found = Pcb(ratio=1)(zeros(left), [left, right], (1, 1))["a"]
    assert found[0] > 0


def test_a_weight_of_zero_takes_a_vector_out():
    base, vectors = sources()
    found = Pcb()(base, vectors, (0, 1))
    moved = flat(found) - flat(base)
    assert (moved * flat(vectors[1]) >= 0).all()
    assert int((moved != 0).sum()) == 4


def test_the_parts():
    assert normalise(torch.tensor([0.0, 1.0, 2.0, 5.0]), (1.0, 3.0)).tolist() == [0, 0, 0.5, 1]
    assert normalise(torch.tensor([1.0, 2.0]), (2.0, 2.0)).tolist() == [0, 0]
    parts = [torch.tensor([1.0, -2.0]), torch.tensor([0.0, 1.0])]
    first, second = competition_scores(parts, ((1.0, 2.0), (0.0, 1.0)))
    expected = torch.tensor([1.0, torch.e**2]) * torch.tensor([1.0, 2.0]).tanh()
    assert torch.allclose(first, expected)
    assert torch.allclose(second, torch.tensor([0.0, torch.e**2 * -0.761594156]))


def test_pcb_keeps_what_holds_for_every_rule():
    for count in (1, 2, 3):
        check_rule(Pcb, count)


def test_the_defaults_are_the_official_ones():
    assert Pcb() == Pcb(ratio=0.1, scaling=1.0)


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match=r"ratio is 0: give a share in \(0, 1\]"):
        Pcb(ratio=0)
