"""Merging methods behind one signature (docs/method.md C)."""

import math
from typing import get_args

import pytest
import torch

from pistole.baselines.registry import METHODS, compose
from pistole.errors import UserError
from pistole.method.merge import merge
from pistole.params.fields import Method
from pistole.params.methods import OWN
from tests.unit.method_models import random_params

BASE, NAT, ROB = (random_params(seed) for seed in range(3))
MASKS = tuple({k: v.sigmoid() for k, v in random_params(seed).items()} for seed in (3, 4))

VECTORS = {f"{side}/{k}": t[k] for side, t in (("natural", NAT), ("robust", ROB)) for k in t}
GIVEN = {"masks": MASKS, "statistics": VECTORS}


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(
        torch.allclose(left[k], right[k], rtol=0, atol=1e-6) for k in left
    )


def test_the_methods_of_the_table_are_there():
    assert set(METHODS) == set(get_args(Method))
    own = {name: METHODS[name] for name in OWN}
    assert [name for name, method in own.items() if method.masks is None] == ["wise_ft", "vanilla"]
    assert [name for name, method in own.items() if not method.matched] == [
        "wise_ft",
        "vanilla",
        "gism",
        "gism_pci",
        "gism_apt",
        "pistole",
    ]
    assert not [name for name, method in METHODS.items() if method.matched and name not in OWN]


def test_vanilla_mixes_both_vectors():
    found = compose("vanilla", BASE, NAT, ROB, lam=0.2)
    assert same(found, {k: BASE[k] + 0.2 * NAT[k] + 0.8 * ROB[k] for k in BASE})


def test_wise_ft_draws_the_robust_model_to_the_base():
    assert same(compose("wise_ft", BASE, NAT, ROB, lam=0), {k: BASE[k] + ROB[k] for k in BASE})
    assert same(compose("wise_ft", BASE, NAT, ROB, lam=1), BASE)
    half = {k: BASE[k] + 0.75 * ROB[k] for k in BASE}
    assert same(compose("wise_ft", BASE, NAT, ROB, lam=0.25), half)


def test_wise_ft_is_vanilla_without_a_natural_vector():
    zero = {k: torch.zeros_like(v) for k, v in NAT.items()}
    left = compose("wise_ft", BASE, NAT, ROB, lam=0.3)
    assert same(left, compose("vanilla", BASE, zero, ROB, lam=0.3))


@pytest.mark.parametrize("rescale", ["none", "norm"])
def test_pistole_delegates_to_the_method(rescale):
    found = compose("pistole", BASE, NAT, ROB, lam=0.4, masks=MASKS, rescale=rescale)
    expected = merge(BASE, NAT, ROB, MASKS, lam=0.4, rescale=rescale)
    assert all(torch.equal(found[k], expected[k]) for k in BASE)


def test_pistole_without_masks_is_refused():
    with pytest.raises(UserError, match="'pistole' needs masks"):
        compose("pistole", BASE, NAT, ROB, lam=0.4)


@pytest.mark.parametrize(
    ("name", "near"), [("pistol", "pistole"), ("wiseft", "wise_ft"), ("vanila", "vanilla")]
)
def test_an_unknown_method_names_the_nearest(name, near):
    with pytest.raises(UserError, match=f"'{name}': did you mean '{near}'"):
        compose(name, BASE, NAT, ROB, lam=0.4)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_what_cannot_be_merged(name):
    for lam in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match="lambda is"):
            compose(name, BASE, NAT, ROB, lam=lam, **GIVEN)
    lam = 0.5 if METHODS[name].has_axis else None
    nan = ROB | {"bias": torch.full((6,), math.nan)}
    with pytest.raises(UserError, match="robust task vector: tensor 'bias' is not finite"):
        compose(name, BASE, NAT, nan, lam=lam, **GIVEN)
    with pytest.raises(UserError, match="natural task vector: tensor 'bias' is missing"):
        compose(name, BASE, {k: NAT[k] for k in ("weight", "conv")}, ROB, lam=lam, **GIVEN)
