"""Normalisation, masks and the four readings of the cap (docs/method.md A.3)."""

import itertools

import numpy as np
import pytest
import torch

from pistole.errors import UserError
from pistole.method.masks import (
    CAP_MODES,
    MaskSettings,
    complementary_masks,
    mask_statistics,
    normalise_scores,
    quantile,
    stability_mask,
)
from tests.unit.method_models import random_params

DEFAULTS = {"gamma": 0.5, "kappa": 2, "q": 0.9, "cap_mode": "renorm"}
RAW = torch.tensor([0.0, 1.0, 4.0, 16.0])


def scores(seed: int = 0) -> dict[str, torch.Tensor]:
    return {k: v.exp() for k, v in random_params(seed, weight=(40, 30), bias=(40,)).items()}


def heavy_tailed(size: int = 2000) -> torch.Tensor:
    source = torch.Generator().manual_seed(3)
    shape = torch.randn(size, generator=source, dtype=torch.float64)
    return (2 * shape).exp() * torch.randn(size, generator=source, dtype=torch.float64).abs()


def rho_w(q: float, cap_mode: str, kappa: float = 2) -> float:
    g = heavy_tailed()
    mask = stability_mask(g, MaskSettings(gamma=0.5, kappa=kappa, q=q, cap_mode=cap_mode))
    return ((g * mask).sum() / g.sum()).item()


def test_scores_are_divided_by_the_layer_maximum_and_compressed():
    assert normalise_scores(RAW, gamma=0.5).tolist() == [0, 0.25, 0.5, 1]
    assert normalise_scores(RAW, gamma=1).tolist() == [0, 1 / 16, 0.25, 1]


def test_mask_formula():
    mask = stability_mask(RAW, MaskSettings(gamma=0.5, kappa=2, q=1, cap_mode="none"))
    assert mask.tolist() == [1, 0.75**2, 0.5**2, 0]


@pytest.mark.parametrize("cap_mode", CAP_MODES)
def test_mask_of_a_zero_gradient_layer_is_all_ones(cap_mode):
    mask = stability_mask(
        torch.zeros(3, 4), MaskSettings(gamma=0.5, kappa=2, q=0.9, cap_mode=cap_mode)
    )
    assert torch.equal(mask, torch.ones(3, 4))


@pytest.mark.parametrize("cap_mode", CAP_MODES)
def test_kappa_zero_gives_all_ones(cap_mode):
    mask = stability_mask(
        heavy_tailed(), MaskSettings(gamma=0.5, kappa=0, q=0.9, cap_mode=cap_mode)
    )
    assert (mask == 1).all()


@pytest.mark.parametrize("cap_mode", [mode for mode in CAP_MODES if mode != "none"])
def test_q_one_equals_uncapped(cap_mode):
    s = heavy_tailed()
    capped = stability_mask(s, MaskSettings(gamma=0.5, kappa=2, q=1, cap_mode=cap_mode))
    plain = stability_mask(s, MaskSettings(gamma=0.5, kappa=2, q=1, cap_mode="none"))
    assert torch.equal(capped, plain)


def test_r1_clips_the_normalised_scores_and_so_leaves_a_floor():
    s = heavy_tailed()
    g = normalise_scores(s, gamma=0.5)
    cap = np.quantile(g.numpy(), 0.9)
    mask = stability_mask(s, MaskSettings(gamma=0.5, kappa=2, q=0.9, cap_mode="score_clip"))
    assert mask.min().item() == pytest.approx((1 - cap) ** 2)
    below = g <= cap
    assert torch.equal(mask[below], ((1 - g) ** 2)[below])


def test_r2_divides_by_the_quantile_and_zeroes_the_top():
    s = heavy_tailed()
    cap = np.quantile(s.numpy(), 0.9)
    mask = stability_mask(s, MaskSettings(gamma=0.5, kappa=2, q=0.9, cap_mode="renorm"))
    expected = (1 - (s.clamp(max=cap) / cap) ** 0.5) ** 2
    assert torch.allclose(mask, expected)
    assert (mask[s >= cap] == 0).all()
    assert (mask == 0).double().mean().item() == pytest.approx(0.1, abs=1e-3)


def test_r3_caps_the_mask_from_above():
    s = heavy_tailed()
    plain = stability_mask(s, MaskSettings(gamma=0.5, kappa=2, q=1, cap_mode="none"))
    mask = stability_mask(s, MaskSettings(gamma=0.5, kappa=2, q=0.9, cap_mode="mask_cap"))
    assert torch.equal(mask, plain.clamp(max=np.quantile(plain.numpy(), 0.9)))
    assert mask.max() < 1


def test_r4_zeroes_the_top_and_leaves_the_rest():
    s = heavy_tailed()
    top = s > np.quantile(s.numpy(), 0.9)
    plain = stability_mask(s, MaskSettings(gamma=0.5, kappa=2, q=1, cap_mode="none"))
    mask = stability_mask(s, MaskSettings(gamma=0.5, kappa=2, q=0.9, cap_mode="zero_top"))
    assert (mask[top] == 0).all()
    assert torch.equal(mask[~top], plain[~top])


def test_r1_loosens_rho_as_the_cap_tightens():
    """The literal reading of the published text contradicts the theorem's claim (A.3.4)."""
    found = [rho_w(q, "score_clip") for q in (1, 0.999, 0.99, 0.95, 0.9)]
    assert all(a < b for a, b in itertools.pairwise(found))


def test_r2_tightens_rho_as_the_cap_tightens():
    found = [rho_w(q, "renorm") for q in (1, 0.999, 0.99, 0.95, 0.9)]
    assert all(a > b for a, b in itertools.pairwise(found))


def test_r3_never_loosens_rho_and_lowers_rho_max_as_the_cap_tightens():
    found = [rho_w(q, "mask_cap") for q in (1, 0.99, 0.9, 0.5)]
    assert all(a >= b for a, b in itertools.pairwise(found))
    assert found[0] > found[-1]
    highest = [
        stability_mask(
            heavy_tailed(), MaskSettings(gamma=0.5, kappa=2, q=q, cap_mode="mask_cap")
        ).max()
        for q in (1, 0.99, 0.9)
    ]
    assert highest[0] > highest[1] > highest[2]


def test_a_layer_that_is_mostly_dead_keeps_its_live_coordinates_suppressed():
    s = torch.tensor([0.0] * 99 + [1.0])
    mask = stability_mask(s, MaskSettings(gamma=0.5, kappa=2, q=0.9, cap_mode="renorm"))
    assert mask.tolist() == [1.0] * 99 + [0.0]


def test_rounding_above_one_cannot_make_a_mask_nan():
    s = torch.tensor([0.1, 0.3, 0.7]) * 1e-30
    mask = stability_mask(s, MaskSettings(gamma=1, kappa=0.5, q=0.5, cap_mode="renorm"))
    assert torch.isfinite(mask).all()


def test_masks_are_complementary():
    nat, rob = scores(0), scores(1)
    m_nat, m_rob = complementary_masks(nat, rob, MaskSettings(**DEFAULTS))
    for name in nat:
        assert torch.equal(m_nat[name], stability_mask(rob[name], MaskSettings(**DEFAULTS)))
        assert torch.equal(m_rob[name], stability_mask(nat[name], MaskSettings(**DEFAULTS)))


def test_normalisation_is_per_layer():
    nat = scores(0)
    scaled = nat | {"bias": nat["bias"] * 2**10}
    _, before = complementary_masks(nat, scores(1), MaskSettings(**DEFAULTS))
    _, after = complementary_masks(scaled, scores(1), MaskSettings(**DEFAULTS))
    for name in nat:
        assert torch.allclose(before[name], after[name])


@pytest.mark.parametrize("q", [0.001, 0.25, 0.5, 0.9, 0.999, 1])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_quantile_is_numpys(q, size):
    values = heavy_tailed(size)
    assert quantile(values, q) == pytest.approx(np.quantile(values.numpy(), q), rel=1e-12)


def test_quantile_is_exact_beyond_two_to_the_24_values():
    """A single-precision rank is off by more than one place here."""
    count = 2**24 + 3
    values = torch.arange(count, dtype=torch.float64)
    for q in (0.3, 0.999, 1 - 3 / (count - 1)):
        assert quantile(values, q) == pytest.approx(q * (count - 1), abs=1e-6)
    single = torch.zeros(count)
    single[:3] = torch.tensor([3.0, 2.0, 1.0])
    assert quantile(single, 1) == 3
    assert quantile(single, 1 - 1 / (count - 1)) == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        {"gamma": 0},
        {"gamma": 1.5},
        {"gamma": float("nan")},
        {"kappa": -1},
        {"kappa": float("inf")},
        {"q": 0},
        {"q": 1.01},
        {"cap_mode": "renormalise"},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    (name,) = bad
    with pytest.raises(UserError, match=f"^{name} is"):
        complementary_masks(scores(0), scores(1), MaskSettings(**(DEFAULTS | bad)))
    with pytest.raises(UserError, match=f"^{name} is"):
        stability_mask(RAW, MaskSettings(**(DEFAULTS | bad)))


def test_bad_scores_are_refused():
    nan = scores(1) | {"bias": torch.full((40,), float("nan"))}
    with pytest.raises(UserError, match="robust scores: tensor 'bias' is not finite"):
        complementary_masks(scores(0), nan, MaskSettings(**DEFAULTS))
    with pytest.raises(UserError, match="natural scores: tensor 'bias' is not finite"):
        complementary_masks(nan, scores(0), MaskSettings(**DEFAULTS))
    with pytest.raises(UserError, match="'bias' is missing"):
        complementary_masks(scores(0), {"weight": scores(1)["weight"]}, MaskSettings(**DEFAULTS))
    with pytest.raises(UserError, match="negative"):
        stability_mask(-RAW, MaskSettings(**DEFAULTS))


def test_mask_statistics():
    masks = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.5, 0.5, 0.5])}
    tau = {"a": torch.tensor([3.0, -4.0]), "b": torch.zeros(3)}
    rows = mask_statistics(masks, tau)
    assert rows["a"] == pytest.approx(
        {"mean_mask": 0.5, "l1_retention": 3 / 7, "l2_retention": 0.6}
    )
    assert rows["b"] == {"mean_mask": 0.5, "l1_retention": 1, "l2_retention": 1}
    assert rows["all"] == pytest.approx(rows["a"])
    with pytest.raises(UserError, match="'b' is missing"):
        mask_statistics(masks, {"a": tau["a"]})


def test_the_statistics_of_all_layers_are_over_all_coordinates():
    masks = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.5, 0.5, 0.5, 0.5])}
    tau = {"a": torch.tensor([3.0, -4.0]), "b": torch.tensor([2.0, 2.0, -2.0, 2.0])}
    found = mask_statistics(masks, tau)["all"]
    assert found["mean_mask"] == pytest.approx(3 / 6)
    assert found["l1_retention"] == pytest.approx((3 + 4) / (7 + 8))
    assert found["l2_retention"] == pytest.approx(((9 + 4) / (25 + 16)) ** 0.5)


def test_an_empty_layer_is_kept_whole():
    empty = {"a": torch.zeros(0)}
    assert stability_mask(empty["a"], MaskSettings(**DEFAULTS)).numel() == 0
    assert mask_statistics(empty, empty)["a"] == {
        "mean_mask": 1.0,
        "l1_retention": 1.0,
        "l2_retention": 1.0,
    }


def test_a_score_at_the_cap_is_not_above_it():
    s = torch.tensor([1.0, 2.0, 3.0])  # the median is 2 itself
    mask = stability_mask(s, MaskSettings(gamma=1, kappa=1, q=0.5, cap_mode="zero_top"))
    assert mask.tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert mask[1] > 0


def test_messages_name_the_side_and_the_remedy():
    short = {"weight": scores(1)["weight"]}
    with pytest.raises(
        UserError, match=r"^robust scores: tensor 'bias' is missing: give tensors of"
    ):
        complementary_masks(scores(0), short, MaskSettings(**DEFAULTS))
    with pytest.raises(UserError, match=r"^task vector: tensor 'bias' is missing"):
        mask_statistics(scores(0), short)
    with pytest.raises(UserError, match=r"^a stability score .*: run stage stability again$"):
        stability_mask(-RAW, MaskSettings(**DEFAULTS))
    with pytest.raises(UserError, match=r"one of none, score_clip, renorm, mask_cap, zero_top$"):
        MaskSettings(**(DEFAULTS | {"cap_mode": "x"}))
