"""LED-Merging: which coordinates are elected, and what is left of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pistole.baselines.largest import largest
from pistole.baselines.led import Led, disjoint, importance
from pistole.errors import UserError
from tests.unit.method_models import log_prob, mlp, random_params, samples

BASE, NAT, ROB = (random_params(seed) for seed in range(3))
KEYS = ("natural", "robust", "base natural", "base robust")
STATISTICS = {
    f"{key}/{name}": value.abs()
    for seed, key in enumerate(KEYS, 5)
    for name, value in random_params(seed).items()
}
# Coordinates count on both sides, so that masks of two tasks overlap and differ.
AGREEING = STATISTICS | {
    f"base {s}/{n}": STATISTICS[f"{s}/{n}"] for s in ("natural", "robust") for n in BASE
}


def ranked(values: Tensor, rate: float) -> set[int]:
    """Positions of the largest values."""
    flat = values.flatten().tolist()
    return set(sorted(range(len(flat)), key=lambda j: -flat[j])[: max(1, int(rate * len(flat)))])


def literal(statistics: dict, weights, rates, scaling: float) -> dict[str, Tensor]:
    """The formula, coordinate by coordinate in fp64."""
    merged = {}
    for name, base in BASE.items():
        elected = [
            ranked(statistics[f"{s}/{name}"], rate) & ranked(statistics[f"base {s}/{name}"], rate)
            for s, rate in zip(("natural", "robust"), rates, strict=True)
        ]
        values = base.double().flatten().clone()
        for task, (tau, weight) in enumerate(zip((NAT, ROB), weights, strict=True)):
            for j in elected[task] - elected[1 - task]:
                values[j] += scaling * weight * float(tau[name].flatten()[j])
        merged[name] = values.reshape(base.shape)
    return merged


@pytest.mark.parametrize("statistics", [STATISTICS, AGREEING])
@pytest.mark.parametrize("weights", [(1, 1), (0.2, 0.8), (0, 0)])
@pytest.mark.parametrize("options", [{}, {"rates": (0.5, 0.6), "scaling": 1.0}])
def test_the_rule_is_its_formula(statistics, weights, options):
    rule = Led(statistics=statistics, **options)
    found = rule(BASE, (NAT, ROB), weights)
    expected = literal(statistics, weights, rule.rates, rule.scaling)
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=1e-6)


def test_the_official_point():
    rule = Led(statistics=AGREEING)
    assert (rule.rates, rule.scaling, rule.needs) == ((0.4, 0.1), 0.9, "led")


def test_one_vector_has_no_other_to_be_disjoint_from():
    rule = Led(statistics=AGREEING, rates=(0.5,), scaling=1.0)
    for name, value in rule(BASE, (NAT,), (1,)).items():
        mask = largest(STATISTICS[f"natural/{name}"], 0.5)
        torch.testing.assert_close(value, BASE[name] + mask * NAT[name])


def test_what_two_tasks_elect_neither_keeps():
    masks = [torch.tensor(m, dtype=torch.bool) for m in ([1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0])]
    assert [m.int().tolist() for m in disjoint(masks)] == [[1, 0, 0, 0], [0, 0, 1, 0], [0] * 4]
    assert disjoint(masks[:1])[0].equal(masks[0])


def test_equal_importances_leave_the_base():
    same = {key: STATISTICS[f"natural/{key.partition('/')[2]}"] for key in STATISTICS}
    rule = Led(statistics=same, rates=(0.3, 0.3))
    for name, value in rule(BASE, (NAT, ROB), (1, 1)).items():
        assert torch.equal(value, BASE[name])


@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 3))
def test_the_number_of_entries_is_exact(count, share, kinds):
    scores = torch.arange(count).float() if not kinds else (torch.arange(count) % kinds).float()
    mask = largest(scores, share)
    assert int(mask.sum()) == (max(1, int(share * count)) if share else 0)
    if mask.any() and not mask.all():
        assert scores[mask].min() >= scores[~mask].max()
        ties = (scores == scores[mask].min()).nonzero()[:, 0].tolist()
        kept = [j for j in ties if mask[j]]
        assert kept == ties[: len(kept)]  # of equal entries the first
    assert torch.equal(largest(3 * scores, share), mask)


def test_the_largest_of_edge_cases():
    assert largest(torch.zeros(0), 0.5).tolist() == []
    assert largest(torch.tensor(2.0), 0.1).tolist() is True
    assert largest(torch.zeros(2, 2), 0.5).tolist() == [[True, True], [False, False]]
    assert largest(torch.ones(3), 0).tolist() == [False] * 3
    assert largest(torch.arange(4.0), 1).all()


@pytest.mark.parametrize("together", [1, 3])
def test_importance_is_the_mean_absolute_product(together):
    (x, y), theta = samples(), mlp()

    def loss(point: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        return -log_prob(sample[None], label[None])(point)[0]

    found = importance(loss, theta, (x, y), together=together)
    expected = {name: torch.zeros_like(value) for name, value in theta.items()}
    for i in range(len(x)):
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
        (-log_prob(x[i : i + 1], y[i : i + 1])(leaves)[0]).backward()
        for name, leaf in leaves.items():
            expected[name] += (theta[name] * leaf.grad).abs() / len(x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_what_cannot_be_merged_is_refused():
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match="led rates has"):
            Led(rates=(0.4, bad))
    with pytest.raises(UserError, match="led rates has 2 entries for 3 task vectors: give one per"):
        Led(statistics=STATISTICS)(BASE, (NAT, ROB, NAT), (1, 1, 1))
    rest = {key: value for key, value in STATISTICS.items() if key != "base robust/bias"}
    with pytest.raises(UserError, match="lack 'base robust/bias': run 'pistole prepare led'"):
        Led(statistics=rest)(BASE, (NAT, ROB), (1, 1))
