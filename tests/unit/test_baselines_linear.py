"""Straight lines as rules, and what every rule refuses (docs/method.md C.1)."""

import math

import pytest
import torch

from pistole.baselines.linear import Linear, vanilla
from pistole.errors import UserError
from tests.unit.baselines_models import check_rule, close, flat, same, sources, unflat


def test_linear_keeps_what_holds_for_every_rule():
    for count in (1, 2, 3):
        check_rule(Linear, count)


def test_weights_that_sum_to_one_give_the_mean_of_the_models():
    base, vectors = sources(3)
    models = [flat(base) + flat(v) for v in vectors]
    expected = 0.2 * models[0] + 0.3 * models[1] + 0.5 * models[2]
    found = Linear()(base, vectors, (0.2, 0.3, 0.5))
    assert close(found, unflat(expected, base))


def test_two_weights_give_vanilla():
    base, (nat, rob) = sources()
    found = Linear()(base, [nat, rob], (0.25, 0.75))
    assert same(found, vanilla(base, nat, rob, lam=0.25))


def test_unit_weights_add_both_vectors_and_scaling_shrinks_the_sum():
    base, vectors = sources()
    expected = flat(base) + 0.3 * (flat(vectors[0]) + flat(vectors[1]))
    assert close(Linear(scaling=0.3)(base, vectors, (1, 1)), unflat(expected, base))


def test_every_rule_refuses_what_cannot_be_merged():
    base, vectors = sources()
    with pytest.raises(UserError, match="1 weights for 2 task vectors"):
        Linear()(base, vectors, (1,))
    with pytest.raises(UserError, match="0 weights for 0 task vectors"):
        Linear()(base, [], ())
    with pytest.raises(UserError, match="weight 2 is nan"):
        Linear()(base, vectors, (1, math.nan))
    with pytest.raises(UserError, match="scaling is inf"):
        Linear(scaling=math.inf)
    nan = vectors[1] | {"bias": torch.full((6,), math.nan)}
    with pytest.raises(UserError, match="task vector 2: tensor 'bias' is not finite"):
        Linear()(base, [vectors[0], nan], (1, 1))
    with pytest.raises(UserError, match="base: tensor 'bias' is not finite"):
        Linear()(nan, vectors, (1, 1))
    with pytest.raises(UserError, match="task vector 1: tensor 'bias' has shape"):
        Linear()(base, [vectors[0] | {"bias": torch.ones(5)}, vectors[1]], (1, 1))
