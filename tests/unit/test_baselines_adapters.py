"""How rules, soups and conditioned vectors take what all methods share (docs/method.md C)."""

import pytest

from pistole.baselines.arithmetic import TaskArithmetic
from pistole.baselines.catalogue import CATALOGUE
from pistole.baselines.registry import METHODS, compose
from pistole.errors import UserError
from pistole.params.methods import BASELINES, POINTS, need_of
from tests.unit.method_models import random_params
from tests.unit.test_baselines_registry import BASE, MASKS, NAT, ROB, same


def plane(a: float, b: float) -> dict:
    return {k: BASE[k] + a * NAT[k] + b * ROB[k] for k in BASE}


def test_the_official_point_takes_the_vectors_as_they_are():
    found = compose("task_arithmetic_official", BASE, NAT, ROB, lam=None)
    assert same(found, plane(0.4, 0.4))
    assert same(found, TaskArithmetic()(BASE, (NAT, ROB), (1, 1)))


@pytest.mark.parametrize("name", ["task_arithmetic_official", "uniform_soup"])
def test_a_lambda_for_a_point_is_refused(name):
    with pytest.raises(UserError, match=f"lambda is 0.9, but method '{name}' has none"):
        compose(name, BASE, NAT, ROB, lam=0.9)


def test_half_way_at_the_official_options_is_the_official_point():
    found = compose("task_arithmetic", BASE, NAT, ROB, lam=0.5)
    assert same(found, compose("task_arithmetic_official", BASE, NAT, ROB, lam=None))


def test_tuned_options_reach_the_rule():
    found = compose("task_arithmetic", BASE, NAT, ROB, lam=0.2, options={"scaling": 0.5})
    assert same(found, compose("vanilla", BASE, NAT, ROB, lam=0.2))


@pytest.mark.parametrize("name", ["uniform_soup", "greedy_soup", "robustness_soup"])
def test_a_soup_is_a_point_of_the_plane(name):
    assert same(compose(name, BASE, NAT, ROB, lam=None), plane(0.5, 0.5))
    weights = {"natural": -0.2, "robust": 1.2}
    assert same(compose(name, BASE, NAT, ROB, lam=None, options=weights), plane(-0.2, 1.2))


def test_pistole_scaled_is_pistole_further_from_the_base():
    near = compose("pistole", BASE, NAT, ROB, lam=0.3, masks=MASKS)
    assert same(compose("pistole_scaled", BASE, NAT, ROB, lam=0.3, masks=MASKS), near)
    far = compose("pistole_scaled", BASE, NAT, ROB, lam=0.3, masks=MASKS, options={"scaling": 2.0})
    assert same(far, {k: BASE[k] + 2 * (near[k] - BASE[k]) for k in BASE})


@pytest.mark.parametrize("name", ["vanilla", "task_arithmetic", "pistole"])
def test_conditioned_vectors_take_the_place_of_the_given_ones(name):
    made = [random_params(seed) for seed in (5, 6)]
    statistics = {
        f"{side}/{key}": value
        for side, vector in zip(("natural", "robust"), made, strict=True)
        for key, value in vector.items()
    }
    more = {"masks": MASKS, "lam": 0.3}
    found = compose(f"distac_{name}", BASE, NAT, ROB, statistics=statistics, **more)
    assert same(found, compose(name, BASE, *made, **more))
    assert not same(found, compose(name, BASE, NAT, ROB, **more))


def test_a_missing_conditioned_tensor_is_named():
    with pytest.raises(UserError, match="'distac' lacks 'natural/"):
        compose("distac_vanilla", BASE, NAT, ROB, lam=0.5, statistics={})


def test_a_missing_preparation_is_named():
    with pytest.raises(UserError, match=r"needs --prepared.*add 'distac' to prepare.run"):
        compose("distac_vanilla", BASE, NAT, ROB, lam=0.5)


def test_names_and_needs_are_those_that_params_know():
    assert set(BASELINES) <= set(METHODS)
    assert {name: need_of(name) for name in METHODS} == {n: m.needs for n, m in METHODS.items()}
    assert {name for name, m in METHODS.items() if not m.has_axis} == set(POINTS)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.tuned and m.has_axis])
def test_tuning_tries_the_official_options(name):
    entry = CATALOGUE.get(name.removeprefix("distac_"))
    for option, values in METHODS[name].tuned.items():
        official = getattr(entry.rule(**entry.fixed), option) if entry else 1.0
        assert official in values
