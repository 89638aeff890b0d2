"""Controls: masks aimed by something else, and the merges made of them (docs/method.md A.10)."""

import pytest
import torch

from pistole.baselines.registry import METHODS, compose
from pistole.method.controls import (
    magnitude_scores,
    permuted_masks,
    random_scores,
    uniform_masks,
)
from pistole.method.masks import mask_statistics
from pistole.method.merge import merge
from tests.unit.method_models import random_params

Params = dict[str, torch.Tensor]
BASE, NAT, ROB = (random_params(seed) for seed in range(3))
MASKS = tuple({k: v.sigmoid() for k, v in random_params(seed).items()} for seed in (3, 4))


def built(name: str, lam: float = 0.3, **more) -> Params:
    return compose(name, BASE, NAT, ROB, lam=lam, masks=MASKS, **more)


def close(left: Params, right: Params) -> bool:
    return all(torch.allclose(left[k], right[k], rtol=0, atol=1e-6) for k in BASE)


def norm(params: Params) -> float:
    return sum(v.double().square().sum().item() for v in params.values()) ** 0.5


def test_permutation_keeps_each_layers_values_and_moves_them():
    mask = random_params(0, weight=(20, 10), bias=(50,))
    shuffled = permuted_masks(mask, seed=1)
    for name in mask:
        assert shuffled[name].shape == mask[name].shape
        assert torch.equal(shuffled[name].flatten().sort()[0], mask[name].flatten().sort()[0])
        assert not torch.equal(shuffled[name], mask[name])
    again, other = permuted_masks(mask, seed=1), permuted_masks(mask, seed=2)
    assert all(torch.equal(shuffled[k], again[k]) for k in mask)
    assert not any(torch.equal(shuffled[k], other[k]) for k in mask)


def test_uniform_masks_keep_the_norm_of_every_layer():
    constant = uniform_masks(MASKS[0], NAT)
    for name, value in constant.items():
        assert value.unique().numel() == 1
        kept = torch.linalg.vector_norm(MASKS[0][name] * NAT[name])
        assert torch.linalg.vector_norm(value * NAT[name]).item() == pytest.approx(kept.item())


def test_scores_of_the_controls():
    assert all(torch.equal(magnitude_scores(NAT)[k], NAT[k].abs()) for k in NAT)
    drawn = random_scores({"w": torch.zeros(200, 200)}, seed=0)["w"]
    assert (drawn >= 0).all()
    assert drawn.mean().item() == pytest.approx((2 / torch.pi) ** 0.5, abs=0.01)  # half-normal
    assert torch.equal(drawn, random_scores({"w": torch.zeros(200, 200)}, seed=0)["w"])
    assert not torch.equal(drawn, random_scores({"w": torch.zeros(200, 200)}, seed=1)["w"])


@pytest.mark.parametrize("rescale", ["none", "norm"])
def test_uniform_shrink_scales_layers_by_what_the_masks_keep(rescale):
    found = built("uniform_shrink", rescale=rescale)
    a, b = mask_statistics(MASKS[0], NAT), mask_statistics(MASKS[1], ROB)
    kept = (lambda rows, k: rows[k]["l2_retention"]) if rescale == "none" else (lambda *_: 1.0)
    expected = {k: BASE[k] + 0.3 * kept(a, k) * NAT[k] + 0.7 * kept(b, k) * ROB[k] for k in BASE}
    assert close(found, expected)


def test_self_mask_swaps_the_masks():
    expected = merge(BASE, NAT, ROB, (MASKS[1], MASKS[0]), lam=0.3)
    assert all(torch.equal(built("self_mask")[k], expected[k]) for k in BASE)


def test_zero_nat_is_a_masked_wise_ft():
    expected = {k: BASE[k] + 0.7 * MASKS[1][k] * ROB[k] for k in BASE}
    assert close(built("zero_nat"), expected)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_wise_ft_keeps_as_much_of_the_robust_vector_as_the_masked_merge(lam):
    found = built("wise_ft_matched", lam=lam)
    moved = {k: found[k] - BASE[k] for k in BASE}
    masked = {k: (1 - lam) * MASKS[1][k] * ROB[k] for k in BASE}
    assert norm(moved) == pytest.approx(norm(masked), rel=1e-5, abs=1e-6)
    if lam < 1:
        shares = torch.cat([(moved[k] / ROB[k]).flatten() for k in BASE])
        assert shares.std().item() < 1e-4  # one factor for all coordinates
    unmasked = built("wise_ft_matched", lam=lam, rescale="norm")
    assert close(unmasked, {k: BASE[k] + (1 - lam) * ROB[k] for k in BASE})


def test_the_three_permutations_differ_and_repeat_with_the_seed_of_the_run():
    names = [f"permuted_mask_{draw}" for draw in (1, 2, 3)]
    first, second, third = (built(name, seed=5) for name in names)
    assert not torch.equal(first["weight"], second["weight"])
    assert not torch.equal(second["weight"], third["weight"])
    assert torch.equal(first["weight"], built(names[0], seed=5)["weight"])
    assert not torch.equal(first["weight"], built(names[0], seed=6)["weight"])


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.masks is not None])
def test_masks_of_ones_leave_plain_merges(name):
    ones = {k: torch.ones_like(v) for k, v in BASE.items()}
    own = {f"{side}/{k}": t[k] for side, t in (("natural", NAT), ("robust", ROB)) for k in t}
    found = compose(name, BASE, NAT, ROB, lam=0.3, masks=(ones, ones), statistics=own)
    plain = "wise_ft" if name in ("zero_nat", "wise_ft_matched") else "vanilla"
    assert close(found, compose(plain, BASE, NAT, ROB, lam=0.3))


def test_equal_tensors_are_drawn_apart():
    ramp = torch.linspace(0, 1, 50)
    for drawn in (
        permuted_masks({"a": ramp, "b": ramp}, seed=0),
        random_scores({"a": ramp, "b": ramp}, seed=0),
    ):
        assert not torch.equal(drawn["a"], drawn["b"])
    # Permutations and scores of one seed do not share their draws either.
    order = permuted_masks({"a": ramp}, seed=0)["a"].argsort()
    assert not torch.equal(order, random_scores({"a": ramp}, seed=0)["a"].argsort())


def test_scores_are_drawn_in_the_dtype_of_the_parameters():
    assert random_scores({"w": torch.zeros(3, dtype=torch.float64)}, seed=0)["w"].dtype == (
        torch.float64
    )
