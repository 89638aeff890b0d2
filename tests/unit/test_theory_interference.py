"""Theorem 1 in numbers (docs/method.md A.6)."""

import itertools
import math

import pytest
import torch

from pistole.errors import UserError
from pistole.method.masks import CAP_MODES, stability_mask
from pistole.theory.interference import (
    contraction,
    interference,
    interference_weights,
    permuted_masks,
)
from tests.unit.method_models import random_params

SHAPES = {"a": (50, 40), "b": (300,), "c": (20, 5, 5)}


def heavy_tailed(seed: int) -> dict:
    scale, sign = random_params(seed, **SHAPES), random_params(seed + 100, **SHAPES)
    return {k: (1.5 * scale[k]).exp() * sign[k] for k in SHAPES}


def masks_of(gradient: dict, **changes: object) -> dict:
    settings = {"gamma": 0.5, "kappa": 2.0, "q": 0.95, "cap_mode": "none"} | changes
    return {k: stability_mask(g.abs(), **settings) for k, g in gradient.items()}


G_NAT, G_ROB = heavy_tailed(0), heavy_tailed(1)
TAU_NAT, TAU_ROB = random_params(2, **SHAPES), random_params(3, **SHAPES)


def test_a_contraction_by_hand():
    g = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([0.0, 4.0])}
    tau = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([5.0, 0.5])}
    mask = {"a": torch.tensor([0.5, 1.0]), "b": torch.tensor([1.0, 0.25])}
    rows = contraction(g, tau, mask)
    a = rows["a"]
    assert (a.signed, a.signed_unmasked) == (-0.5, 1)
    assert (a.envelope, a.envelope_unmasked) == (3.5, 5)
    assert a.rho_w == pytest.approx(0.7)
    assert a.rho_max == 1
    assert a.retention_l1 == pytest.approx(2.5 / 4)
    assert a.retention_l2 == pytest.approx(math.sqrt(3.25 / 10))
    assert a.selectivity == pytest.approx(2.5 / 4 / 0.7)
    b = rows["b"]
    assert b.rho_w == 0.25
    assert b.rho_max == 0.25  # the coordinate without gradient is not in the support
    pooled = rows["all"]
    assert (pooled.envelope, pooled.envelope_unmasked) == (4, 7)
    assert pooled.rho_w == pytest.approx(4 / 7)
    assert pooled.signed == 0
    assert pooled.rho_max == 1


def test_weights_sum_to_one_over_all_layers():
    found = interference_weights(G_ROB, TAU_NAT)
    assert sum(w.sum().item() for w in found.values()) == pytest.approx(1)
    ratio = found["a"] / (G_ROB["a"] * TAU_NAT["a"]).abs().double()
    assert torch.allclose(ratio, ratio.flatten()[0])


@pytest.mark.parametrize("cap_mode", CAP_MODES)
def test_the_envelope_contracts_by_exactly_rho_w(cap_mode):
    for row in contraction(G_ROB, TAU_NAT, masks_of(G_ROB, cap_mode=cap_mode)).values():
        assert row.envelope / row.envelope_unmasked == pytest.approx(row.rho_w)
        assert row.rho_w <= row.rho_max <= 1
        assert abs(row.signed) <= row.envelope * (1 + 1e-12)


@pytest.mark.parametrize("cap_mode", ["none", "score_clip", "renorm", "zero_top"])
def test_rho_w_is_decreasing_and_log_convex_in_kappa(cap_mode):
    kappas = [0.5 * i for i in range(13)]
    rows = [
        contraction(G_ROB, TAU_NAT, masks_of(G_ROB, kappa=k, cap_mode=cap_mode)) for k in kappas
    ]
    for layer in (*SHAPES, "all"):
        logs = [math.log(row[layer].rho_w) for row in rows]
        assert logs[0] == pytest.approx(0)
        assert all(a > b for a, b in itertools.pairwise(logs))
        bends = [a - 2 * b + c for a, b, c in zip(logs, logs[1:], logs[2:], strict=False)]
        assert min(bends) > -1e-6


def test_rho_w_grows_with_gamma():
    found = [
        contraction(G_ROB, TAU_NAT, masks_of(G_ROB, gamma=g))["all"].rho_w for g in (0.25, 0.5, 1)
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]


@pytest.mark.parametrize("cap_mode", CAP_MODES)
@pytest.mark.parametrize("q", [1, 0.99, 0.5])
def test_selectivity_is_at_least_one_per_layer(cap_mode, q):
    rows = contraction(G_ROB, TAU_NAT, masks_of(G_ROB, cap_mode=cap_mode, q=q))
    for layer in SHAPES:
        assert rows[layer].selectivity >= 1 - 1e-9


def test_uniform_shrinkage_has_selectivity_one():
    half = {k: torch.full(s, 0.5) for k, s in SHAPES.items()}
    for row in contraction(G_ROB, TAU_NAT, half).values():
        assert row.selectivity == pytest.approx(1)
        assert row.rho_w == pytest.approx(0.5)


def test_permuted_masks_keep_the_values_and_lose_the_aim():
    masks = masks_of(G_ROB)
    shuffled = permuted_masks(masks, seed=0)
    for k in SHAPES:
        assert shuffled[k].shape == masks[k].shape
        assert torch.equal(shuffled[k].flatten().sort().values, masks[k].flatten().sort().values)
        assert not torch.equal(shuffled[k], masks[k])
    aimed = contraction(G_ROB, TAU_NAT, masks)["all"].selectivity
    lost = contraction(G_ROB, TAU_NAT, shuffled)["all"].selectivity
    assert aimed > 1.2
    assert lost == pytest.approx(1, abs=0.1)
    again, other = permuted_masks(masks, seed=0), permuted_masks(masks, seed=1)
    assert all(torch.equal(shuffled[k], again[k]) for k in SHAPES)
    assert not torch.equal(shuffled["a"], other["a"])


def test_the_signed_interference_need_not_contract():
    """Remark 1 of A.6: g*tau = (1, -1) with the masks (.9, 0)."""
    one = torch.ones(2)
    row = contraction(
        {"a": one}, {"a": torch.tensor([1.0, -1.0])}, {"a": torch.tensor([0.9, 0.0])}
    )["all"]
    assert row.signed_unmasked == 0
    assert row.signed == pytest.approx(0.9)
    assert row.rho_w == pytest.approx(0.45)


@pytest.mark.parametrize("lam", [0, 0.2, 1])
def test_both_directions_are_mixed_by_lambda(lam):
    nat = contraction(G_ROB, TAU_NAT, masks_of(G_ROB))["all"]
    rob = contraction(G_NAT, TAU_ROB, masks_of(G_NAT, kappa=4))["all"]
    both = interference(nat, rob, lam=lam)
    assert both.signed == pytest.approx(lam * abs(nat.signed) + (1 - lam) * abs(rob.signed))
    assert both.signed_unmasked == pytest.approx(
        lam * abs(nat.signed_unmasked) + (1 - lam) * abs(rob.signed_unmasked)
    )
    assert both.envelope == pytest.approx(lam * nat.envelope + (1 - lam) * rob.envelope)
    assert both.envelope / both.envelope_unmasked == pytest.approx(both.rho_w)
    assert both.signed <= both.envelope <= both.rho * both.envelope_unmasked * (1 + 1e-12)
    assert both.rho <= both.rho_max
    expected = {0: rob.rho_w, 0.2: max(nat.rho_w, rob.rho_w), 1: nat.rho_w}[lam]
    assert both.rho == expected


def test_nothing_to_interfere_with_is_undefined_not_zero():
    zero = {k: torch.zeros(s) for k, s in SHAPES.items()}
    quiet = contraction(zero, TAU_NAT, masks_of(G_ROB))["all"]
    for value in (quiet.rho_w, quiet.rho_max, quiet.selectivity):
        assert math.isnan(value)
    assert 0 < quiet.retention_l1 < 1
    still = contraction(G_ROB, zero, masks_of(G_ROB))["all"]
    assert math.isnan(still.retention_l1)
    both = interference(quiet, contraction(G_NAT, TAU_ROB, masks_of(G_NAT))["all"], lam=0.5)
    assert both.rho_w == pytest.approx(both.rho)
    assert math.isnan(interference(quiet, quiet, lam=0.5).rho_w)


def test_bad_input_is_refused():
    masks = masks_of(G_ROB)
    nan = {"b": torch.full((300,), math.nan)}
    for given, words in (
        ((G_ROB | nan, TAU_NAT, masks), "gradient: tensor 'b' is not finite"),
        ((G_ROB, TAU_NAT | nan, masks), "task vector: tensor 'b' is not finite"),
        ((G_ROB, TAU_NAT, masks | nan), r"mask: tensor 'b' leaves \[0, 1\]"),
        ((G_ROB, TAU_NAT, {"a": masks["a"]}), "mask: tensor 'b' is missing"),
        ((G_ROB, TAU_NAT | {"b": torch.zeros(3)}, masks), "task vector: tensor 'b' has shape"),
    ):
        with pytest.raises(UserError, match=words):
            contraction(*given)
    row = contraction(G_ROB, TAU_NAT, masks)["all"]
    with pytest.raises(UserError, match=r"lambda is 1\.5"):
        interference(row, row, lam=1.5)
