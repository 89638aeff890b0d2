"""Theorem 1 in numbers (docs/method.md A.6)."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pistole.errors import UserError
from pistole.method.controls import permuted_masks
from pistole.method.layers import GRANULARITIES, gather, layers
from pistole.method.masks import CAP_MODES, MaskSettings, complementary_masks, masks_from_scores
from pistole.theory.interference import (
    Exposure,
    contraction,
    interference,
    layer_sums,
    pooled,
)
from tests.unit.method_models import random_params

SHAPES = {"a": (50, 40), "b": (300,), "c": (20, 5, 5)}
ATTENTION = {
    "blocks.0.attn.in_proj_weight": (12, 4),
    "blocks.0.mlp.weight": (5, 6),
    "blocks.1.attn.in_proj_weight": (12, 4),
    "head": (7,),
}
few = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
levels = st.sampled_from([0.05, 0.25, 0.5, 0.9, 0.99, 1])


def heavy_tailed(seed: int) -> dict:
    scale, sign = random_params(seed, **SHAPES), random_params(seed + 100, **SHAPES)
    return {k: (1.5 * scale[k]).exp() * sign[k] for k in SHAPES}


def masks_of(gradient: dict, **changes: object) -> dict:
    given_ = {"gamma": 0.5, "kappa": 2.0, "q": 0.95, "cap_mode": "none"} | changes
    return masks_from_scores({k: g.abs() for k, g in gradient.items()}, MaskSettings(**given_))


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


def test_weights_sum_to_one_in_a_layer_and_are_zero_where_nothing_interferes():
    g = torch.stack([G_ROB["a"].flatten(), torch.zeros(2000), G_NAT["a"].flatten()])
    weights = Exposure(g, TAU_NAT["a"].flatten()).weights
    assert weights.sum(1).tolist() == pytest.approx([1, 0, 1])
    ratio = weights[2] / (g[2] * TAU_NAT["a"].flatten()).abs().double()
    assert torch.allclose(ratio, ratio[0])


def test_layers_add_up_to_the_whole():
    mask = masks_of(G_ROB)
    rows = contraction(G_ROB, TAU_NAT, mask)
    whole = contraction(
        *({"x": torch.cat([p[k].flatten() for k in SHAPES])} for p in (G_ROB, TAU_NAT, mask))
    )["x"]
    for name in whole.__dataclass_fields__:
        assert getattr(rows["all"], name) == pytest.approx(getattr(whole, name), rel=1e-12)


@pytest.mark.parametrize("cap_mode", CAP_MODES)
def test_the_envelope_contracts_by_exactly_rho_w(cap_mode):
    for row in contraction(G_ROB, TAU_NAT, masks_of(G_ROB, cap_mode=cap_mode)).values():
        assert row.envelope / row.envelope_unmasked == pytest.approx(row.rho_w)
        assert row.rho_w <= row.rho_max <= 1
        assert abs(row.signed) <= row.envelope * (1 + 1e-12)


@pytest.mark.parametrize("cap_mode", CAP_MODES)
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


@few
@given(seeds, st.sampled_from(CAP_MODES), levels, st.sampled_from([0.25, 0.5, 1]))
def test_rho_w_never_rises_and_is_log_convex_whatever_makes_the_mask(seed, cap_mode, q, gamma):
    g, tau = random_params(seed, **SHAPES), random_params(seed + 1, **SHAPES)
    kappas = [0, 0.5, 1, 2, 4, 8]
    found = [
        contraction(g, tau, masks_of(g, kappa=k, q=q, gamma=gamma, cap_mode=cap_mode))
        for k in kappas
    ]
    for layer in (*SHAPES, "all"):
        rho = [row[layer].rho_w for row in found]
        assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(rho))
        points = [(k, math.log(r)) for k, r in zip(kappas, rho, strict=True) if r > 0]
        for (x, a), (y, b), (z, c) in zip(points, points[1:], points[2:], strict=False):
            assert b <= a + (c - a) * (y - x) / (z - x) + 1e-6


@few
@given(seeds, st.sampled_from(CAP_MODES), levels, st.sampled_from([0.5, 2, 8]))
def test_rho_w_never_falls_as_gamma_rises(seed, cap_mode, q, kappa):
    g, tau = random_params(seed, **SHAPES), random_params(seed + 1, **SHAPES)
    found = [
        contraction(g, tau, masks_of(g, kappa=kappa, q=q, gamma=gamma, cap_mode=cap_mode))["all"]
        for gamma in (0.1, 0.25, 0.5, 1)
    ]
    assert all(b.rho_w >= a.rho_w * (1 - 1e-6) for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("cap_mode", "sign"), [("score_clip", -1), ("renorm", 1), ("mask_cap", 1), ("zero_top", 1)]
)
def test_only_the_literal_cap_loosens_as_it_tightens(cap_mode, sign):
    """A.3.4: rho_w falls with q, but rises under R1."""
    found = [
        contraction(G_ROB, TAU_NAT, masks_of(G_ROB, q=q, cap_mode=cap_mode))["all"].rho_w
        for q in (0.5, 0.9, 0.99, 1)
    ]
    assert all(sign * b > sign * a for a, b in itertools.pairwise(found))


@few
@given(seeds, st.sampled_from(CAP_MODES), levels, st.sampled_from(GRANULARITIES))
def test_every_layer_is_selective_under_its_own_scores(seed, cap_mode, q, granularity):
    """The proposition of A.6, for what the granularity calls a layer and for its tensors."""
    g, tau = random_params(seed, **ATTENTION), random_params(seed + 1, **ATTENTION)
    scores = {k: v.abs() for k, v in g.items()}
    how = MaskSettings(gamma=0.5, kappa=2, q=q, cap_mode=cap_mode, granularity=granularity)
    found = [
        part.selectivity
        for layer in layers(g, granularity).items()
        for part in layer_sums([g], tau, scores, layer, [how], seed=0)[0][0].contractions()
    ]
    rows = contraction(g, tau, masks_from_scores(scores, how))
    found += [rows[name].selectivity for name in ATTENTION]
    assert min(s for s in found if not math.isnan(s)) >= 1 - 1e-6


def test_a_mask_that_grows_with_the_gradient_is_not_selective():
    against = {k: 1 - m for k, m in masks_of(G_ROB).items()}
    rows = contraction(G_ROB, TAU_NAT, against)
    assert max(rows[layer].selectivity for layer in SHAPES) < 1


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_many_settings_and_points_give_what_one_mask_and_one_gradient_give(granularity):
    points = [random_params(s, **ATTENTION) for s in (0, 1)]
    tau, scores = random_params(2, **ATTENTION), random_params(3, **ATTENTION)
    scores = {k: v.abs() for k, v in scores.items()}
    how = [
        MaskSettings(gamma=0.5, kappa=k, q=0.9, cap_mode=mode, granularity=granularity)
        for k, mode in ((1, "renorm"), (3, "mask_cap"))
    ]
    found = {
        layer[0]: layer_sums(points, tau, scores, layer, how, seed=5)
        for layer in layers(scores, granularity).items()
    }
    for number, setting in enumerate(how):
        mask = masks_from_scores(scores, setting)
        for side in (0, 1):
            sums = pooled({name: each[number][side] for name, each in found.items()})
            if side:  # the pairs (g, tau) were shuffled: undo it on the mask
                for name, parts in layers(scores, granularity).items():
                    place = torch.arange(gather(scores, parts).numel())
                    order = permuted_masks({name: place}, seed=5)[name]
                    flat = gather(mask, parts).clone()
                    restored = torch.empty_like(flat)
                    restored[order] = flat
                    sizes = [part.of(mask).numel() for part in parts]
                    for part, piece in zip(parts, restored.split(sizes), strict=True):
                        part.of(mask).copy_(piece.view_as(part.of(mask)))
            for g, own in zip(points, sums["all"].contractions(), strict=True):
                whole = contraction(g, tau, mask)["all"]
                for name in whole.__dataclass_fields__:
                    assert getattr(own, name) == pytest.approx(getattr(whole, name), rel=1e-9)


def test_permuted_masks_lose_the_aim():
    masks = masks_of(G_ROB)
    aimed = contraction(G_ROB, TAU_NAT, masks)["all"].selectivity
    lost = contraction(G_ROB, TAU_NAT, permuted_masks(masks, seed=0))["all"].selectivity
    assert aimed > 1.2
    assert lost == pytest.approx(1, abs=0.1)


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


@few
@given(seeds, st.integers(0, 64).map(lambda i: i / 64))
def test_swapping_the_sources_and_lambda_gives_the_same_interference(seed, lam):
    g, tau = ([random_params(seed + i, **SHAPES) for i in pair] for pair in ((0, 1), (2, 3)))
    how = MaskSettings(gamma=0.5, kappa=2, q=0.9, cap_mode="renorm")
    scores = [{k: v.abs() for k, v in part.items()} for part in g]
    m_nat, m_rob = complementary_masks(*scores, how)
    swapped = complementary_masks(*scores[::-1], how)
    assert all(torch.equal(m_nat[k], swapped[1][k]) for k in SHAPES)
    nat = contraction(g[1], tau[0], m_nat)["all"]
    rob = contraction(g[0], tau[1], m_rob)["all"]
    left, right = interference(nat, rob, lam=lam), interference(rob, nat, lam=1 - lam)
    for name in left.__dataclass_fields__:
        assert getattr(left, name) == pytest.approx(getattr(right, name), rel=1e-9)


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
    for bad, words in (
        ((G_ROB | nan, TAU_NAT, masks), "gradient: tensor 'b' is not finite"),
        ((G_ROB, TAU_NAT | nan, masks), "task vector: tensor 'b' is not finite"),
        ((G_ROB, TAU_NAT, masks | nan), r"mask: tensor 'b' leaves \[0, 1\]"),
        ((G_ROB, TAU_NAT, {"a": masks["a"]}), "mask: tensor 'b' is missing"),
        ((G_ROB, TAU_NAT | {"b": torch.zeros(3)}, masks), "task vector: tensor 'b' has shape"),
    ):
        with pytest.raises(UserError, match=words):
            contraction(*bad)
    row = contraction(G_ROB, TAU_NAT, masks)["all"]
    with pytest.raises(UserError, match=r"lambda is 1\.5"):
        interference(row, row, lam=1.5)
