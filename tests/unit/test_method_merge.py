"""The merge (docs/method.md A.7) and the identities of A.9 that involve it."""

import math

import pytest
import torch

from pistole.baselines.linear import vanilla
from pistole.errors import UserError
from pistole.method.masks import MaskSettings, complementary_masks
from pistole.method.merge import merge
from pistole.method.vectors import task_vector
from tests.unit.method_models import random_params

MASKING = {"gamma": 0.5, "q": 0.99, "cap_mode": "renorm"}


def ingredients() -> tuple[dict, dict, dict, dict]:
    theta_0, theta_nat, theta_rob = (random_params(seed) for seed in range(3))
    return theta_0, theta_nat, task_vector(theta_nat, theta_0), task_vector(theta_rob, theta_0)


def masks(kappa: float = 2, swapped: bool = False) -> tuple[dict, dict]:
    scores = [{k: v.abs() for k, v in random_params(seed).items()} for seed in (5, 6)]
    if swapped:
        scores.reverse()
    return complementary_masks(*scores, MaskSettings(kappa=kappa, **MASKING))


def same(left: dict, right: dict) -> bool:
    return all(torch.allclose(left[k], right[k], rtol=0, atol=1e-6) for k in left)


def test_the_merge_formula():
    theta_0, _, tau_nat, tau_rob = ingredients()
    m_nat, m_rob = masks()
    found = merge(theta_0, tau_nat, tau_rob, (m_nat, m_rob), lam=0.2)
    for k in theta_0:
        expected = theta_0[k] + 0.2 * m_nat[k] * tau_nat[k] + 0.8 * m_rob[k] * tau_rob[k]
        assert torch.allclose(found[k], expected, rtol=0, atol=1e-6)
        assert found[k].dtype == torch.float32


@pytest.mark.parametrize("lam", [0, 0.2, 1])
@pytest.mark.parametrize("rescale", ["none", "norm"])
def test_kappa_zero_is_vanilla(lam, rescale):
    theta_0, _, tau_nat, tau_rob = ingredients()
    found = merge(theta_0, tau_nat, tau_rob, masks(kappa=0), lam=lam, rescale=rescale)
    assert same(found, vanilla(theta_0, tau_nat, tau_rob, lam=lam))


def test_lambda_one_and_kappa_zero_is_theta_nat():
    theta_0, theta_nat, tau_nat, tau_rob = ingredients()
    assert same(merge(theta_0, tau_nat, tau_rob, masks(kappa=0), lam=1), theta_nat)


@pytest.mark.parametrize("lam", [0, 0.25, 0.3, 1])
@pytest.mark.parametrize("rescale", ["none", "norm"])
def test_swapping_the_sources_and_lambda_gives_the_same_model(lam, rescale):
    theta_0, _, tau_nat, tau_rob = ingredients()
    found = merge(theta_0, tau_nat, tau_rob, masks(), lam=lam, rescale=rescale)
    swapped = merge(theta_0, tau_rob, tau_nat, masks(swapped=True), lam=1 - lam, rescale=rescale)
    assert same(found, swapped)


def test_norm_rescaling_gives_each_layer_its_norm_back():
    theta_0, _, tau_nat, tau_rob = ingredients()
    found = merge(theta_0, tau_nat, tau_rob, masks(), lam=1, rescale="norm")
    plain = merge(theta_0, tau_nat, tau_rob, masks(), lam=1)
    for k in theta_0:
        moved = found[k] - theta_0[k]
        assert moved.norm().item() == pytest.approx(tau_nat[k].norm().item(), rel=1e-5)
        unscaled = plain[k] - theta_0[k]
        ratio = (moved * unscaled).sum() / (moved.norm() * unscaled.norm())
        assert ratio.item() == pytest.approx(1, abs=1e-5)


def test_norm_rescaling_of_a_wholly_masked_layer_is_the_base():
    theta_0, _, tau_nat, tau_rob = ingredients()
    nothing = {k: torch.zeros_like(v) for k, v in theta_0.items()}
    found = merge(theta_0, tau_nat, tau_rob, (nothing, nothing), lam=0.5, rescale="norm")
    assert all(torch.equal(found[k], theta_0[k]) for k in theta_0)


def test_inputs_are_not_changed():
    theta_0, _, tau_nat, tau_rob = ingredients()
    merge(theta_0, tau_nat, tau_rob, masks(), lam=0.5, rescale="norm")
    again = ingredients()
    for left, right in ((theta_0, again[0]), (tau_nat, again[2]), (tau_rob, again[3])):
        assert all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("lam", [-0.01, 1.01, math.nan])
def test_lambda_outside_the_unit_interval_is_refused(lam):
    theta_0, _, tau_nat, tau_rob = ingredients()
    with pytest.raises(UserError, match="lambda is"):
        merge(theta_0, tau_nat, tau_rob, masks(), lam=lam)


def test_bad_ingredients_are_refused():
    theta_0, _, tau_nat, tau_rob = ingredients()
    m_nat, m_rob = masks()
    nan = {"bias": torch.full((6,), math.nan)}
    wide = {"bias": torch.zeros(7)}
    other_shape = "^natural task vector: tensor 'bias' has shape"
    for given, words in (
        ((theta_0 | nan, tau_nat, tau_rob, (m_nat, m_rob)), "base: tensor 'bias' is not"),
        ((theta_0, tau_nat | nan, tau_rob, (m_nat, m_rob)), "natural task vector: tensor 'bias'"),
        ((theta_0, tau_nat, tau_rob | nan, (m_nat, m_rob)), "robust task vector: tensor 'bias'"),
        ((theta_0, tau_nat | wide, tau_rob, (m_nat, m_rob)), other_shape),
        ((theta_0, tau_nat, tau_rob, (m_nat | nan, m_rob)), "natural mask: tensor 'bias' leaves"),
        ((theta_0, tau_nat, tau_rob, (m_nat, m_rob | wide)), "robust mask: tensor 'bias' has"),
        ((theta_0, tau_nat, tau_rob, (m_nat, tau_rob)), "robust mask: tensor '.*' leaves"),
    ):
        with pytest.raises(UserError, match=words):
            merge(*given, lam=0.5)


def test_an_unknown_rescale_is_refused():
    theta_0, _, tau_nat, tau_rob = ingredients()
    with pytest.raises(UserError, match="rescale is 'l2'"):
        merge(theta_0, tau_nat, tau_rob, masks(), lam=0.5, rescale="l2")


def test_masks_above_one_or_of_one_vector_alone_are_refused():
    theta = random_params(0)
    ones = {k: torch.ones_like(v) for k, v in theta.items()}
    above = {k: v * 1.5 for k, v in ones.items()}
    with pytest.raises(UserError, match=r"^robust mask: tensor 'weight' leaves"):
        merge(theta, theta, theta, (ones, above), lam=0.5)
    with pytest.raises(UserError, match=r"choose one of none, norm$"):
        merge(theta, theta, theta, (ones, ones), lam=0.5, rescale="x")
