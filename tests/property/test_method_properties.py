"""What holds for all scores, masks and vectors (docs/method.md A.3 to A.7)."""

import hypothesis.extra.numpy as arrays
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pistole.method.ball import group_norm, perturbation
from pistole.method.criticality import PciEstimate, pci_weights
from pistole.method.masks import (
    CAP_MODES,
    MaskSettings,
    complementary_masks,
    quantile,
    stability_mask,
)
from pistole.method.merge import merge
from pistole.method.trajectory import ascend_and_project
from pistole.theory.interference import contraction

few = settings(max_examples=25, deadline=None, derandomize=True)
levels = st.floats(1e-3, 1)
kappas = st.floats(0, 20)


def tensors(low: float, high: float, size: int = 12) -> st.SearchStrategy[torch.Tensor]:
    """Single precision, of up to ``size`` coordinates; subnormal numbers are left out."""
    elements = st.floats(low, high, width=32, allow_subnormal=False)
    shapes = arrays.array_shapes(min_dims=1, max_dims=2, max_side=size)
    return arrays.arrays("float32", shapes, elements=elements).map(torch.from_numpy)


def triples(*bounds: tuple[float, float]) -> st.SearchStrategy[tuple[torch.Tensor, ...]]:
    """Tensors of one shape, each between its own bounds."""

    def of(shape: tuple[int, ...]) -> st.SearchStrategy:
        elements = (st.floats(*b, width=32, allow_subnormal=False) for b in bounds)
        return st.tuples(
            *(arrays.arrays("float32", shape, elements=e).map(torch.from_numpy) for e in elements)
        )

    return arrays.array_shapes(min_dims=1, max_dims=2, max_side=12).flatmap(of)


@few
@given(tensors(0, 1e6), levels, kappas, levels, st.sampled_from(CAP_MODES))
def test_masks_stay_in_the_unit_interval(scores, gamma, kappa, q, cap_mode):
    mask = stability_mask(scores, MaskSettings(gamma=gamma, kappa=kappa, q=q, cap_mode=cap_mode))
    assert mask.shape == scores.shape
    assert ((mask >= 0) & (mask <= 1)).all()


@few
@given(tensors(0, 1e6), levels, kappas, levels, st.sampled_from(CAP_MODES))
def test_masks_never_rise_with_the_score(scores, gamma, kappa, q, cap_mode):
    mask = stability_mask(scores, MaskSettings(gamma=gamma, kappa=kappa, q=q, cap_mode=cap_mode))
    ordered = mask.flatten()[scores.flatten().sort(stable=True).indices]
    assert (ordered.diff() <= 1e-6).all()  # vectorised powers of equal scores may differ by a bit


@few
@given(tensors(0, 1e6), levels, kappas, st.sampled_from(CAP_MODES))
def test_masks_do_not_depend_on_the_unit_of_the_scores(scores, gamma, kappa, cap_mode):
    settings_ = {"gamma": gamma, "kappa": kappa, "q": 0.9, "cap_mode": cap_mode}
    left, right = (
        stability_mask(scores, MaskSettings(**settings_)),
        stability_mask(scores * 2**7, MaskSettings(**settings_)),
    )
    assert torch.allclose(left, right, atol=1e-5)


@few
@given(tensors(0, 1e6), levels, kappas, levels, levels)
def test_a_tighter_cap_moves_each_reading_its_way(scores, gamma, kappa, q, other):
    tight, loose = sorted((q, other))

    def mask(level: float, cap_mode: str) -> torch.Tensor:
        return stability_mask(
            scores, MaskSettings(gamma=gamma, kappa=kappa, q=level, cap_mode=cap_mode)
        )

    assert (mask(tight, "score_clip") >= mask(loose, "score_clip")).all()  # R1: looser
    for cap_mode in ("renorm", "mask_cap", "zero_top"):  # R2, R3, R4: tighter
        assert (mask(tight, cap_mode) <= mask(loose, cap_mode) + 1e-6).all()


@few
@given(triples((-100, 100), (-100, 100)), levels, kappas, levels, st.sampled_from(CAP_MODES))
def test_selectivity_is_at_least_one_in_a_layer(pair, gamma, kappa, q, cap_mode):
    g, tau = pair
    mask = stability_mask(g.abs(), MaskSettings(gamma=gamma, kappa=kappa, q=q, cap_mode=cap_mode))
    row = contraction({"w": g}, {"w": tau}, {"w": mask})["w"]
    if row.rho_w > 1e-9:
        assert row.retention_l1 >= row.rho_w * (1 - 1e-6)
        assert row.selectivity >= 1 - 1e-6


@few
@given(triples((-100, 100), (-100, 100), (0, 1)))
def test_the_envelope_contracts_by_rho_w_for_any_mask(triple):
    g, tau, mask = ({"w": part} for part in triple)
    row = contraction(g, tau, mask)["w"]
    assert abs(row.signed) <= row.envelope * (1 + 1e-9)
    if row.envelope_unmasked > 0:
        assert row.envelope == pytest.approx(row.rho_w * row.envelope_unmasked, rel=1e-9)
        assert row.rho_w <= row.rho_max * (1 + 1e-9)


@few
@given(triples((-9, 9), (-9, 9), (-9, 9), (0, 9), (0, 9)), st.floats(0, 1), kappas)
def test_swapping_the_sources_and_lambda_gives_the_same_model(parts, lam, kappa):
    base, nat, rob, s_nat, s_rob = ({"w": part} for part in parts)
    how = {"gamma": 0.5, "kappa": kappa, "q": 0.9, "cap_mode": "renorm"}
    left = merge(base, nat, rob, complementary_masks(s_nat, s_rob, MaskSettings(**how)), lam=lam)
    right = merge(
        base, rob, nat, complementary_masks(s_rob, s_nat, MaskSettings(**how)), lam=1 - lam
    )
    assert torch.allclose(left["w"], right["w"], atol=1e-5)


@few
@given(
    triples((-9, 9), (-9, 9)),
    st.floats(1e-3, 1),
    st.floats(1e-4, 10),
    st.sampled_from(["layer", "global"]),
    st.booleans(),
)
def test_projection_never_leaves_the_ball(pair, eta, beta, ball, perturb_1d):
    centre = {"a": pair[0].double(), "b": pair[0].double().flatten() + 1}
    uphill = {"a": pair[1].double(), "b": pair[1].double().flatten()}
    theta = centre
    for _ in range(3):
        theta = ascend_and_project(
            theta, centre, uphill, eta=eta, beta=beta, ball=ball, perturb_1d=perturb_1d
        )
        offset = {k: theta[k] - centre[k] for k in theta}
        for names in [["a"], ["b"]] if ball == "layer" else [["a", "b"]]:
            assert group_norm(offset, names) <= eta * group_norm(centre, names) * (1 + 1e-9) + 1e-12


@few
@given(tensors(-9, 9), st.sampled_from(["sphere", "ball"]), st.integers(0, 2**31))
def test_perturbations_stay_in_their_ball(theta, dist, seed):
    params = {"w": theta.double()}
    delta = perturbation(
        params, 0.1, dist=dist, ball="layer", perturb_1d=True,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    assert group_norm(delta, ["w"]) <= 0.1 * group_norm(params, ["w"]) * (1 + 1e-9)


@few
@given(
    arrays.arrays("float32", st.integers(1, 40), elements=st.floats(-1, 100, width=32)),
    st.sampled_from(["abs", "neg", "pos", "softplus", "rms", "one"]),
    st.floats(50, 100),
    st.floats(0, 1),
)
def test_weights_have_mean_one_and_drop_no_sample(values, kind, clip_pct, floor):
    pci = torch.from_numpy(values)
    estimate = PciEstimate(pci=pci, rms=pci.abs(), first_half=pci, second_half=pci)
    weights = pci_weights(estimate, kind, clip_pct=clip_pct, floor=floor)
    assert weights.mean().item() == pytest.approx(1, rel=1e-3)
    assert (weights >= floor - 1e-6).all()


@few
@given(tensors(-1e6, 1e6), st.floats(0, 1))
def test_quantiles_lie_between_the_extremes(values, q):
    assert values.min().item() <= quantile(values, q) <= values.max().item()
