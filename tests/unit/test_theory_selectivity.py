"""Intervals of the selectivity (docs/method.md A.6, E.1)."""

import math

import pytest
import torch

from pistole.errors import UserError
from pistole.method.controls import permuted_masks
from pistole.method.masks import MaskSettings, masks_from_scores
from pistole.theory.interference import contraction
from pistole.theory.selectivity import (
    Aim,
    bootstrap_counts,
    normal_interval,
    resampled_gradients,
    resampled_selectivity,
    selectivity_intervals,
)
from tests.unit.method_models import random_params

SHAPES = {"a": (30, 20), "b": (50,)}
SETTING = MaskSettings(gamma=0.5, kappa=2, q=1, cap_mode="none")
TAU = random_params(0, **SHAPES)


def masks_of(gradient: dict) -> dict:
    return masks_from_scores({k: g.abs() for k, g in gradient.items()}, SETTING)


def micro(images: int, size: int, seed: int = 7) -> list:
    """Mean gradients of blocks of images, the last one smaller."""
    each = [random_params(seed + i, **SHAPES) for i in range(images)]
    blocks = [each[i : i + size] for i in range(0, images, size)]
    return [
        (len(block), {k: torch.stack([g[k] for g in block]).mean(0) for k in SHAPES})
        for block in blocks
    ]


def test_counts_are_samples_with_replacement():
    counts = bootstrap_counts(16, 4000, seed=0)
    assert (counts.sum(1) == 16).all()
    assert ((counts >= 0) & (counts == counts.round())).all()
    assert counts.mean(0).tolist() == pytest.approx([1] * 16, abs=0.08)
    assert counts.var(0).mean().item() == pytest.approx(1 - 1 / 16, rel=0.05)
    covariance = torch.cov(counts.T)
    assert covariance.fill_diagonal_(0).sum().item() / 240 == pytest.approx(-1 / 16, rel=0.1)
    assert torch.equal(counts, bootstrap_counts(16, 4000, seed=0))
    assert not torch.equal(counts, bootstrap_counts(16, 4000, seed=1))


@pytest.mark.parametrize(("parts", "resamples"), [(0, 5), (4, 1)])
def test_too_few_resamples_are_refused(parts, resamples):
    with pytest.raises(UserError, match=f"{resamples} resamples of {parts} parts"):
        bootstrap_counts(parts, resamples, seed=0)


@pytest.mark.parametrize("held", [1, 3, 100])
def test_resampled_gradients_weigh_every_image_as_often_as_it_was_drawn(held):
    parts = micro(11, 4)
    counts = torch.tensor([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0], [2.0, 0.0, 1.0]])
    found = resampled_gradients(parts, counts, held)
    singles = micro(11, 1)
    for row, weights in zip(range(3), counts.tolist(), strict=True):
        for k, shape in SHAPES.items():
            by_hand = sum(weights[i // 4] * g[k] for i, (_, g) in enumerate(singles))
            assert found[k].shape == (3, *shape)
            assert torch.allclose(found[k][row], by_hand, atol=1e-5)


def test_selectivity_is_that_of_the_contraction():
    points = [random_params(s, **SHAPES) for s in (1, 2)]
    masks = [
        masks_of(points[0]),
        masks_of(points[1]),
        {k: torch.ones(s) for k, s in SHAPES.items()},
    ]
    aim = Aim(TAU, masks)
    found = aim.selectivity({k: torch.stack([g[k] for g in points]) for k in SHAPES})
    for i, g in enumerate(points):
        for j, mask in enumerate(masks):
            whole = contraction(g, TAU, mask)["all"]
            assert found[i, j].item() == pytest.approx(whole.selectivity, rel=1e-6)
            assert aim.retention[j].item() == pytest.approx(whole.retention_l1, rel=1e-6)


def test_permuted_masks_have_the_selectivity_of_the_mean_mask_of_each_layer():
    """What is left of S above 1 is owed to layers: E over permutations of a mask is its mean."""
    g = {"a": random_params(1, **SHAPES)["a"], "b": 9 * random_params(1, **SHAPES)["b"]}
    mask = masks_of(g) | {"b": 0.2 * masks_of(g)["b"]}  # the loud layer is masked more
    means = {k: torch.full_like(m, m.mean()) for k, m in mask.items()}
    many = [permuted_masks(mask, seed=s) for s in range(60)]
    found = Aim(TAU, [means, *many]).selectivity({k: v[None] for k, v in g.items()})[0]
    assert found[0] > 1.3
    assert found[1:].mean().item() == pytest.approx(found[0].item(), rel=0.02)
    alone = [contraction(g, TAU, m)["a"].selectivity for m in many]
    assert sum(alone) / len(alone) == pytest.approx(1, abs=0.02)


def test_intervals_by_hand():
    resampled = torch.tensor([[1.9, 1.1, 1.3], [2.1, 1.0, 1.2]], dtype=torch.float64)
    values = torch.tensor([2.0, 1.0, 1.4], dtype=torch.float64)
    found = selectivity_intervals(0.5, values, resampled)
    spread = math.sqrt(2) / 10
    assert (found.own.value, found.own.standard_error) == pytest.approx((2, spread))
    assert (found.own.low, found.own.high) == pytest.approx(
        (2 - 1.96 * spread, 2 + 1.96 * spread), rel=1e-4
    )
    # Two permutations, 0.4 apart: their mean has the standard error 0.2.
    drawn = 0.2
    again = math.sqrt(2) / 20
    assert found.permuted.value == pytest.approx(1.2)
    assert found.permuted.standard_error == pytest.approx(math.hypot(again, drawn))
    gains = (1.9 / 1.2, 2.1 / 1.1)
    assert found.gain.value == pytest.approx(2 / 1.2)
    assert found.gain.standard_error == pytest.approx(
        math.hypot(abs(gains[0] - gains[1]) / math.sqrt(2), 2 / 1.2 * drawn / 1.2)
    )
    assert found.rho_w.value == pytest.approx(0.25)
    assert found.rho_w.standard_error == pytest.approx((0.5 / 1.9 - 0.5 / 2.1) / math.sqrt(2))


def test_nothing_to_interfere_with_has_no_interval():
    aim = Aim(TAU, [masks_of(TAU), masks_of(TAU), masks_of(TAU)])
    zero = {k: torch.zeros(1, *s) for k, s in SHAPES.items()}
    values = aim.selectivity(zero)[0]
    found = selectivity_intervals(0.5, values, values.expand(4, -1))
    assert math.isnan(found.own.value)
    assert math.isnan(found.gain.low)


def test_the_bootstrap_tells_how_much_s_varies_from_sample_to_sample():
    """And why percentiles would not do: resamples are noisier, so their S lies nearer to 1."""
    signal = random_params(1, **SHAPES)
    mask = masks_of(signal)
    aim = Aim(TAU, [mask])
    estimates, errors, shifts = [], [], []
    for sample in range(60):
        source = torch.Generator().manual_seed(100 + sample)
        images = {k: torch.randn(24, *s, generator=source) + signal[k] for k, s in SHAPES.items()}
        parts = [(1, {k: v[i] for k, v in images.items()}) for i in range(24)]
        counts = bootstrap_counts(24, 20, seed=sample)
        again = resampled_selectivity(aim, lambda p=parts: p, counts, 9)[:, 0]
        own = aim.selectivity({k: v.mean(0)[None] for k, v in images.items()})[0, 0]
        estimates.append(own)
        errors.append(again.std())
        shifts.append(again.mean() - own)
    spread, told = torch.stack(estimates).std(), torch.stack(errors).mean()
    assert told.item() == pytest.approx(spread.item(), rel=0.3)
    shift = torch.stack(shifts)
    assert shift.mean() < -2 * shift.std() / len(shift) ** 0.5
    assert (shift.abs() > told / 2).float().mean() > 0.5  # as large as the interval itself


def test_a_normal_interval():
    found = normal_interval(3, 0.5)
    assert (found.low, found.high) == pytest.approx((3 - 0.97998, 3 + 0.97998), abs=1e-5)
