"""True against first-order loss change, on a loss whose Hessian is known (docs/method.md E.1)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pistole.errors import UserError
from pistole.method.merge import merge
from pistole.theory.loss_change import (
    displacement,
    inner_product,
    loss_change,
    mean_difference,
    moved,
    own_weight,
    self_displacement,
)
from tests.unit.method_models import random_params

SHAPES = {"a": (4, 3), "b": (5,)}
IMAGES = 9


def flat(params: dict) -> torch.Tensor:
    return torch.cat([params[name].flatten() for name in SHAPES])


class Quadratic:
    """L_i(theta) = <a_i, theta> + theta^T H theta / 2: the Hessian is H for every image."""

    def __init__(self, seed: int) -> None:
        drawn = random_params(seed, torch.float64, slopes=(IMAGES, 17), root=(17, 17))
        self.slopes, self.hessian = drawn["slopes"], drawn["root"] @ drawn["root"].T / 17

    def losses(self, theta: dict) -> torch.Tensor:
        x = flat(theta)
        return self.slopes @ x + x @ self.hessian @ x / 2

    def gradient(self, theta: dict) -> dict:
        leaves = {k: v.clone().requires_grad_() for k, v in theta.items()}
        found = torch.autograd.grad(self.losses(leaves).mean(), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))


def parts(seed: int) -> tuple[Quadratic, dict, dict, dict]:
    """Loss, point, task vector, mask."""
    theta, tau, scores = (random_params(seed + i, torch.float64, **SHAPES) for i in range(3))
    return Quadratic(seed + 3), theta, tau, {k: v.sigmoid() for k, v in scores.items()}


@pytest.mark.parametrize("kind", ["masked", "unmasked", "uniform"])
def test_the_second_order_share_of_a_quadratic_is_known(kind):
    loss, theta, tau, mask = parts(0)
    v = displacement(kind, tau, mask)
    g = loss.gradient(theta)
    found = loss_change(loss.losses(theta), loss.losses(moved(theta, v)), inner_product(g, v))
    x, step = flat(theta), flat(v)
    first = (loss.slopes.mean(0) + loss.hessian @ x) @ step
    second = step @ loss.hessian @ step / 2
    assert found.first_order == pytest.approx(first.item(), rel=1e-12)
    assert found.true.value == pytest.approx((first + second).item(), rel=1e-9)
    assert found.second_order_share == pytest.approx((second / (first + second)).item(), rel=1e-9)
    # Images differ in their slopes alone.
    spread = (loss.slopes @ step).std().item() / math.sqrt(IMAGES)
    assert found.true.standard_error == pytest.approx(spread, rel=1e-9)
    assert found.true.low == pytest.approx(found.true.value - 1.959964 * spread, rel=1e-6)
    assert found.true.high == pytest.approx(found.true.value + 1.959964 * spread, rel=1e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_the_remainder_is_bounded_by_the_largest_mask(seed):
    """Theorem 1 (iv): |change - first order| <= L/2 ||M*tau||^2 <= L/2 rho_max^2 ||tau||^2."""
    loss, theta, tau, mask = parts(seed)
    v = displacement("masked", tau, mask)
    first = inner_product(loss.gradient(theta), v)
    found = loss_change(loss.losses(theta), loss.losses(moved(theta, v)), first)
    steepest = torch.linalg.eigvalsh(loss.hessian).max().item() / 2
    remainder = abs(found.true.value - first)
    assert remainder <= steepest * flat(v).square().sum().item() + 1e-9
    rho_max = max(m.max().item() for m in mask.values())
    assert remainder <= steepest * rho_max**2 * flat(tau).square().sum().item() + 1e-9


def test_the_controls_by_hand():
    tau = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([-2.0])}
    mask = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.5])}
    assert displacement("unmasked", tau, mask) is tau
    masked, uniform = (displacement(kind, tau, mask) for kind in ("masked", "uniform"))
    assert masked["a"].tolist() == [3, 0]
    assert masked["b"].tolist() == uniform["b"].tolist() == [-1]
    assert uniform["a"].tolist() == pytest.approx([1.8, 2.4])  # 3 / 5 of the vector


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_merge_is_the_source_plus_cross_term_and_self_loss(lam):
    """Remark 5 of A.6, for both sources."""
    base, *taus = (random_params(i, torch.float64, **SHAPES) for i in range(3))
    masks = [{k: v.sigmoid() for k, v in random_params(i, **SHAPES).items()} for i in (3, 4)]
    merged = flat(merge(base, *taus, tuple(masks), lam=lam))
    weights = [own_weight(name, lam) for name in ("natural", "robust")]
    assert weights == [lam, 1 - lam]
    for own, other in ((0, 1), (1, 0)):
        source = flat(base) + flat(taus[own])
        lost = flat(self_displacement(taus[own], masks[own], share=weights[own]))
        cross = weights[other] * flat(displacement("masked", taus[other], masks[other]))
        assert torch.allclose(source + cross + lost, merged, atol=1e-12)


def test_differences_are_taken_image_by_image():
    before, change = torch.tensor([100.0, -5.0, 7.0]), torch.tensor([1.0, 1.0, 1.0])
    same = mean_difference(before, before + change)
    assert (same.value, same.standard_error, same.low, same.high) == (1, 0, 1, 1)
    spread = mean_difference(before, before + torch.tensor([0.0, 1.0, 2.0]))
    assert spread.standard_error == pytest.approx(1 / math.sqrt(3))
    with pytest.raises(UserError, match="1 images: an interval needs at least 2"):
        mean_difference(before[:1], before[:1])


def test_no_change_has_no_second_order_share():
    found = loss_change(torch.ones(3), torch.ones(3), 0.0)
    assert found.true.value == 0
    assert math.isnan(found.second_order_share)


def test_a_displacement_of_another_layout_is_refused():
    tau, mask = random_params(0, **SHAPES), random_params(1, a=(4, 3))
    with pytest.raises(UserError, match="mask: tensor 'b' is missing"):
        self_displacement(tau, mask, share=0.5)
    with pytest.raises(UserError, match="displacement: tensor 'b' is missing"):
        inner_product(tau, mask)
