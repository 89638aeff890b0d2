"""Checks before a robust accuracy counts."""

import pytest
import torch
from torch import nn

from pistole.errors import UserError
from pistole.robust.checks import (
    check_adversarial,
    check_deterministic,
    check_images,
    looks_like_logits,
)
from tests.unit.robust_models import fresh_net, pictures, trained_net


def with_pixel(value: float) -> torch.Tensor:
    """Pictures whose other pixels span [0, 1] exactly."""
    x, _ = pictures(3)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0, 1
    x[1, 0, 2, 2] = value
    return x


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (with_pixel(1.5), r"pixels span \[0, 1.5\]"),
        (with_pixel(-0.5), r"pixels span \[-0.5, 1\]"),
        (with_pixel(float("nan")), "NaN"),
        (with_pixel(float("inf")), "infinity"),
        (pictures(3)[0].double(), "float64"),
        (pictures(3)[0].half(), "float16"),
        ((pictures(3)[0] * 255).byte(), "uint8"),
        (pictures(3)[0][0], r"shape \(3, 6, 6\)"),
        (pictures(3)[0][:0], r"shape \(0, 3, 6, 6\)"),
    ],
)
def test_unfit_images_are_refused(images, message):
    with pytest.raises(UserError, match=message):
        check_images(images)


def test_fit_images_pass_up_to_the_ends_of_the_range():
    check_images(with_pixel(0.0))
    check_images(with_pixel(1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x + 0.11,
            r"moved a pixel by 0\.1099\d+, more than eps 0\.1000|moved a pixel by 0\.11",
        ),
        (lambda x: x * float("nan"), "NaN"),
        (lambda x: x.double(), "float64"),
        (lambda x: x[:1], "not torch.float32"),
        (lambda x: x - 0.05, r"outside \[0, 1\]"),
    ],
)
def test_an_attack_outside_its_threat_model_stops_the_run(change, message):
    x, _ = pictures(3)
    x = x.clamp(0, 0.8)
    with pytest.raises(RuntimeError, match=message):
        check_adversarial(x, change(x), 0.1)


def test_round_off_at_the_border_of_the_ball_passes():
    x, _ = pictures(3)
    check_adversarial(x, (x + 8 / 255).clamp(0, 1), 8 / 255)


def test_a_random_model_is_refused():
    net, (x, _) = fresh_net(), pictures(4)
    check_deterministic(net, x)
    net.dropout.train()
    with (
        torch.random.fork_rng(devices=[]),
        pytest.raises(UserError, match="two forward passes differ by"),
    ):
        check_deterministic(net, x)


def test_probabilities_are_told_from_logits():
    net, (x, _) = trained_net(), pictures(4)
    assert looks_like_logits(net(x))
    assert not looks_like_logits(nn.functional.softmax(net(x), dim=1))
    assert looks_like_logits(torch.tensor([[2.0, -1.0]]))
