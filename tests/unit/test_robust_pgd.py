"""PGD: the ball, the start, the iterate, and what it must leave alone."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from pistole.errors import UserError
from pistole.robust.pgd import INITS, Budget, draw_noise, pgd, pgd_by_id, start_noise
from pistole.seeds import generator
from tests.unit.robust_models import linear_task, names, pictures, trained_net

BUDGET = Budget(eps=0.05, alpha=0.02, steps=4, init="uniform_eps")


def test_a_gradient_that_is_not_finite_is_refused_not_taken_for_robustness():
    x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    budget = Budget(eps=0.1, alpha=0.05, steps=2, init="zero")

    def broken(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :3] * torch.tensor([1.0, float("nan"), 1.0])

    with pytest.raises(UserError, match="gradient of the loss on the images is not finite"):
        pgd(broken, x, y, budget, generator=torch.Generator())


def with_init(init: str, eps: float = 0.05) -> Budget:
    return Budget(eps=eps, alpha=0.02, steps=4, init=init)


def test_eps_zero_returns_the_images_themselves():
    x, y = pictures(4)
    attacked = pgd(trained_net(), x, y, with_init("gaussian_0.001", 0), generator=generator(0))
    assert torch.equal(attacked, x)
    assert attacked.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("init", INITS)
def test_result_is_in_the_ball_and_in_the_pixel_range(init):
    x, y = pictures(20)
    assert x.min() == 0
    assert x.max() == 1
    attacked = pgd(trained_net(), x, y, with_init(init), generator=generator(1))
    assert (attacked - x).abs().max() <= 0.05 + 1e-6
    assert (attacked - x).abs().max() > 0.04
    assert attacked.min() >= 0
    assert attacked.max() <= 1


def test_returns_the_last_iterate_of_projected_sign_ascent():
    net, (x, y) = trained_net(), pictures(6)
    noise = start_noise(names(6), 3, x.shape[1:], BUDGET)
    expected = (x + noise).clamp(0, 1)
    for _ in range(BUDGET.steps):
        expected = expected.detach().requires_grad_()
        cross_entropy(net(expected), y).backward()
        moved = expected.detach() + BUDGET.alpha * expected.grad.sign()
        expected = (x + (moved - x).clamp(-BUDGET.eps, BUDGET.eps)).clamp(0, 1)
    assert torch.allclose(pgd(net, x, y, BUDGET, noise=noise), expected, atol=1e-6)


def test_raises_the_loss():
    net, (x, y) = trained_net(), pictures(20)
    attacked = pgd(net, x, y, BUDGET, generator=generator(0))
    assert cross_entropy(net(attacked), y) > 1.5 * cross_entropy(net(x), y)


def test_leaves_parameter_gradients_and_the_global_generator_alone():
    net, (x, y) = trained_net(), pictures(4)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    before = torch.random.get_rng_state()
    attacked = pgd(net, x, y, BUDGET, generator=generator(0))
    assert net.conv.weight.grad is None
    assert torch.equal(net.head.weight.grad, torch.ones_like(net.head.weight))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not attacked.requires_grad


def test_autocast_and_no_grad_around_it_change_nothing():
    net, (x, y) = trained_net(), pictures(4)
    noise = start_noise(names(4), 0, x.shape[1:], BUDGET)
    plain = pgd(net, x, y, BUDGET, noise=noise)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert torch.equal(pgd(net, x, y, BUDGET, noise=noise), plain)


def test_start_belongs_to_the_sample_not_to_the_batch():
    net, (x, y) = trained_net(), pictures(9)
    noise = start_noise(names(9), 7, x.shape[1:], BUDGET)
    some = [7, 2, 5]
    assert torch.equal(
        start_noise([names(9)[i] for i in some], 7, x.shape[1:], BUDGET), noise[some]
    )
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(start_noise(names(9), 8, x.shape[1:], BUDGET), noise)
    whole = pgd_by_id(net, x, y, names(9), BUDGET, 7)
    assert torch.equal(whole, pgd(net, x, y, BUDGET, noise=noise))
    part = pgd_by_id(net, x[some], y[some], [names(9)[i] for i in some], BUDGET, 7)
    assert torch.allclose(part, whole[some], atol=1e-6)


def test_laws_of_the_start():
    shape = (20, 3, 16, 16)
    gaussian = draw_noise(shape, with_init("gaussian_0.001"), generator(0))
    assert gaussian.std().item() == pytest.approx(0.001, rel=0.03)
    assert gaussian.mean().abs() < 1e-4
    uniform = draw_noise(shape, with_init("uniform_eps"), generator(0))
    assert -0.05 <= uniform.min() < -0.0499
    assert 0.0499 < uniform.max() <= 0.05
    assert uniform.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.03)
    assert not draw_noise(shape, with_init("zero"), generator(0)).any()


@pytest.mark.parametrize("init", INITS)
def test_reaches_the_exact_robust_accuracy_of_a_linear_classifier(init):
    model, x, y, robust = linear_task(classes=2, eps=0.01)
    assert 0.2 < robust.float().mean() < 0.8
    budget = Budget(eps=0.01, alpha=0.004, steps=10, init=init)
    attacked = pgd(model, x, y, budget, generator=generator(0))
    assert torch.equal(model(attacked).argmax(1) == y, robust)


def test_refuses_other_precisions_and_unclear_starts():
    net, (x, y) = trained_net(), pictures(2)
    with pytest.raises(UserError, match="float64"):
        pgd(net, x.double(), y, BUDGET, generator=generator(0))
    with pytest.raises(ValueError, match="either noise or a generator"):
        pgd(net, x, y, BUDGET)
    with pytest.raises(ValueError, match="either noise or a generator"):
        pgd(net, x, y, BUDGET, noise=torch.zeros_like(x), generator=generator(0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": 2}, "eps is 2: give pixel units"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"steps": 0}, "steps is 0"),
        ({"init": "random"}, "init is 'random': choose one of gaussian_0.001"),
    ],
)
def test_budget_is_checked(changed, message):
    with pytest.raises(UserError, match=message):
        Budget(**{"eps": 0.1, "alpha": 0.1, "steps": 1, "init": "zero"} | changed)


def test_the_l2_loss_needs_a_start_away_from_the_clean_image():
    with pytest.raises(UserError, match="init is 'zero' with loss 'l2', which has no gradient"):
        Budget(eps=0.1, alpha=0.1, steps=1, init="zero", loss="l2")
    with pytest.raises(UserError, match="attack loss is 'dlr': choose one of ce, l2"):
        Budget(eps=0.1, alpha=0.1, steps=1, init="zero", loss="dlr")


def test_momentum_changes_nothing_in_l_infinity():
    # RobustVLM's PGD has momentum 0.9; with steps of signs in [-1, 1] the newest sign decides.
    source = generator(0)
    for _ in range(50):
        velocity = 2 * torch.rand(99, generator=source) - 1
        sign = torch.randn(99, generator=source).sign()
        assert torch.equal((0.9 * velocity + sign).sign(), sign)
