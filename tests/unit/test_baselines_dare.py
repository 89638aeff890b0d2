"""DARE: drop, rescale, merge (docs/method.md C)."""

import pytest
import torch

from pistole.baselines.arithmetic import TaskArithmetic
from pistole.baselines.dare import Dare
from pistole.baselines.ties import Ties
from pistole.errors import UserError
from pistole.seeds import generator
from tests.unit.baselines_models import check_rule, close, flat, same, sources, unflat, zeros

PARAMS = {"a": torch.ones(40, 50), "b": torch.linspace(-1, 1, 2000)}


def literal(vectors, drop, seed):
    """Drop and rescale, in float64, from the documented draws."""
    left = []
    for number, vector in enumerate(vectors):
        kept = {}
        for name, value in vector.items():
            drawn = torch.rand(value.shape, generator=generator(seed, "dare", number, name))
            kept[name] = torch.where(drawn >= drop, value.double() / (1 - drop), 0.0)
        left.append(kept)
    return left


@pytest.mark.parametrize("weights", [(1,), (1, 1), (0.3, 0.7), (1, 1, 1)])
@pytest.mark.parametrize("drop", [0, 0.5, 0.9])
def test_arithmetic_adds_what_the_drop_leaves(drop, weights):
    base, vectors = sources(len(weights))
    left = literal(vectors, drop, 3)
    delta = sum(w * flat(v) for w, v in zip(weights, left, strict=True))
    found = Dare(drop=drop, seed=3, scaling=0.7)(base, vectors, weights)
    assert close(found, unflat(flat(base) + 0.7 * delta, base))


@pytest.mark.parametrize("density", [0.2, 1])
def test_ties_trims_what_has_been_rescaled(density):
    base, vectors = sources()
    left = [{k: v.float() for k, v in p.items()} for p in literal(vectors, 0.5, 0)]
    rule = Dare(drop=0.5, then="ties", density=density, reduce="sum", scaling=0.3)
    expected = Ties(density=density, reduce="sum", scaling=0.3)(base, left, (0.4, 0.6))
    assert close(rule(base, vectors, (0.4, 0.6)), expected)


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_the_share_that_stays_and_the_mean_are_those_of_the_bernoulli(drop):
    merged = Dare(drop=drop)(zeros(PARAMS), [PARAMS], (1,))["a"]
    kept = (merged != 0).double().mean().item()
    deviation = (drop * (1 - drop) / merged.numel()) ** 0.5
    assert abs(kept - (1 - drop)) < 5 * deviation
    assert merged[merged != 0].unique().tolist() == pytest.approx([1 / (1 - drop)])
    draws = [Dare(drop=drop, seed=s)(zeros(PARAMS), [PARAMS], (1,))["a"] for s in range(30)]
    mean = torch.stack(draws).double().mean().item()
    assert abs(mean - 1) < 5 * deviation / (1 - drop) / 30**0.5


def test_dropping_nothing_is_the_merge_itself():
    base, vectors = sources()
    found = Dare(drop=0, scaling=0.4)(base, vectors, (1, 1))
    assert same(found, TaskArithmetic()(base, vectors, (1, 1)))
    assert same(Dare(drop=0, then="ties")(base, vectors, (1, 1)), Ties()(base, vectors, (1, 1)))


def test_draws_belong_to_seed_vector_and_tensor():
    base = zeros(PARAMS)
    rule = Dare(drop=0.5)
    alone = rule(base, [PARAMS], (1,))
    assert same(alone, Dare(drop=0.5)(base, [PARAMS], (1,)))
    assert not same(alone, Dare(drop=0.5, seed=1)(base, [PARAMS], (1,)))
    second = rule(base, [zeros(PARAMS), PARAMS], (1, 1))
    assert not same(alone, second)
    only = rule({"b": base["b"]}, [{"b": PARAMS["b"]}], (1,))
    assert torch.equal(only["b"], alone["b"])  # whatever other tensors there are
    square = dict.fromkeys(("a", "c"), PARAMS["a"])
    both = rule(zeros(square), [square], (1,))
    assert not torch.equal(both["a"], both["c"])


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Dare()(zeros(PARAMS), [PARAMS], (1,))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("then", ["arithmetic", "ties"])
def test_dare_keeps_what_holds_for_every_rule(then):
    for count in (1, 2, 3):
        check_rule(lambda: Dare(drop=0.5, then=then), count)


def test_the_defaults_are_the_official_ones():
    official = {"drop": 0.9, "density": 0.2, "reduce": "mean", "scaling": 1.0}
    assert Dare() == Dare(then="arithmetic", seed=0, **official)


def test_options_that_mean_nothing_are_refused():
    for drop in (1, -0.1, float("nan")):
        with pytest.raises(UserError, match=r"drop is .*: give a share in \[0, 1\)"):
            Dare(drop=drop)
    with pytest.raises(UserError, match="then is 'slerp': choose one of arithmetic, ties"):
        Dare(then="slerp")
    with pytest.raises(UserError, match="density is 2"):
        Dare(density=2)
    with pytest.raises(UserError, match=r"seed is 0\.5"):
        Dare(seed=0.5)
