"""Descent and entropy of the methods that learn (docs/method.md C)."""

import math

import pytest
import torch

from pistole.baselines.learning import Descent, descend, mean_entropy
from pistole.errors import UserError


def leaf(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).requires_grad_()


def test_entropy_of_known_distributions():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]], dtype=torch.float64)
    logits = p.clamp(min=1e-300).log() + torch.tensor([[3.0], [-7.0]])
    assert mean_entropy(logits).item() == pytest.approx((math.log(2) + 1.5 * math.log(2)) / 2)
    assert mean_entropy(torch.zeros(4, 8)).item() == pytest.approx(math.log(8))
    assert mean_entropy(torch.tensor([[1000.0, 0.0, -1000.0]])).item() == 0


def test_descent_is_adam_where_nothing_decays():
    x, y = leaf(1.0, -2.0), leaf(1.0, -2.0)
    target = torch.tensor([0.5, 3.0], dtype=torch.float64)
    adam = torch.optim.Adam([y], lr=0.1)
    expected = []
    for _ in range(20):
        loss = (y - target).square().sum()
        expected.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = descend([x], lambda step: (x - target).square().sum(), Descent(20, 0.1))
    assert found == expected
    assert torch.equal(x.detach(), y.detach())


def test_descent_reaches_the_minimum_of_a_parabola():
    x = leaf(1.0, -2.0)
    target = torch.tensor([0.5, 3.0], dtype=torch.float64)
    losses = descend([x], lambda step: (x - target).square().sum(), Descent(2000, 0.02))
    torch.testing.assert_close(x.detach(), target, atol=1e-3, rtol=0)
    assert losses[0] == 25.25
    assert losses[-1] < 1e-6


def test_weight_decay_pulls_to_zero_by_the_rate():
    x = leaf(2.0)
    descend([x], lambda step: (x * 0).sum(), Descent(1, 0.1, weight_decay=0.5))
    assert x.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))


def test_clipping_shortens_the_joint_gradient():
    # Adam forgets the length of a constant gradient, so that only a change of it shows.
    def path(clip: float | None) -> list[float]:
        x, seen = leaf(0.0), []
        scales = (1.0, 100.0)
        descend(
            [x], lambda step: (x * scales[step]).sum(), Descent(2, 0.1, clip=clip),
            on_step=lambda: seen.append(x.item()),
        )  # fmt: skip
        return seen

    assert path(1.0) == pytest.approx([-0.1, -0.2])
    first, second = 0.9 * 0.1 + 0.1 * 100, 0.999 * 0.001 + 0.001 * 100**2  # Adam's moments
    step = 0.1 * (first / (1 - 0.9**2)) / (second / (1 - 0.999**2)) ** 0.5
    assert path(None) == pytest.approx([-0.1, -0.1 - step], abs=1e-6)
    assert step < 0.08


def test_no_steps_learn_nothing():
    x = leaf(1.0)
    assert descend([x], lambda step: x.sum(), Descent(0, 0.1)) == []
    assert x.item() == 1


def test_a_parameter_that_the_loss_does_not_see_stays():
    x, y = leaf(1.0), leaf(5.0)
    descend([x, y], lambda step: x.square().sum(), Descent(3, 0.1))
    assert y.item() == 5
    assert x.item() < 1


def test_the_projection_and_the_report_follow_every_step():
    x, told = leaf(0.95), []
    descend(
        [x], lambda step: -x.sum(), Descent(4, 0.1),
        project=lambda: x.clamp_(0, 1), on_step=lambda: told.append(x.item()),
    )  # fmt: skip
    assert told == [1.0] * 4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(bad):
    x = leaf(1.0)
    with pytest.raises(UserError, match=r"loss is .* at step 2: use a lower lr than 0\.1"):
        descend([x], lambda step: x.sum() * (bad if step == 2 else 1), Descent(5, 0.1))


def test_a_gradient_that_is_not_finite_is_refused():
    x = leaf(0.0)
    with pytest.raises(UserError, match=r"gradient norm inf at step 0"):
        descend([x], lambda step: x.sqrt().sum(), Descent(5, 0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"lr": 0}, "lr is 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1"),
        ({"clip": 0}, "clip is 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Descent(**{"steps": 1, "lr": 0.1, **options})
