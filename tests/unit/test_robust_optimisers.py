"""Optimisers: the schedule and the settings' bounds."""

import math

import pytest

from pistole.errors import UserError
from pistole.robust.optimisers import Settings, learning_rate, optimiser_of


def test_learning_rate_rises_linearly_then_falls_to_zero_as_a_cosine():
    settings = Settings(steps=100, batch_size=1, lr=2.0, weight_decay=0, warmup=0.1)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(1 + math.cos(math.pi * 89 / 90))
    assert learning_rate(100, settings) == 0
    flat = Settings(steps=3, batch_size=1, lr=2.0, weight_decay=0, warmup=0)
    assert learning_rate(0, flat) == 2.0


def test_warm_up_is_a_part_of_the_steps_or_their_number():
    part = Settings(steps=20_000, batch_size=128, lr=1e-5, weight_decay=1e-4, warmup=0.07)
    number = Settings(steps=20_000, batch_size=128, lr=1e-5, weight_decay=1e-4, warmup=1400)
    for step in (0, 1, 1399, 1400, 1401, 10_700, 19_999):
        assert learning_rate(step, part) == learning_rate(step, number)
    assert learning_rate(1399, number) == learning_rate(1400, number) == 1e-5
    one = Settings(steps=20, batch_size=1, lr=1.0, weight_decay=0, warmup=1)
    assert [learning_rate(step, one) for step in (0, 1)] == [1, 1]


def test_optimisers_are_those_of_the_released_recipes():
    # FARE's paper says betas (.9, .95); its code, which made the checkpoints, PyTorch's default.
    from torch import nn

    parameters = [nn.Parameter(nn.init.zeros_(nn.Linear(1, 1).weight))]
    adamw = optimiser_of(parameters, Settings(9, 1, 0.1, 0.2, 0)).param_groups[0]
    assert (adamw["betas"], adamw["weight_decay"]) == ((0.9, 0.999), 0.2)
    sgd = optimiser_of(parameters, Settings(9, 1, 0.1, 0.2, 0, optimiser="sgd")).param_groups[0]
    assert (sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (0.9, 0.2, False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 0.1, 0, 0), "steps is 0"),
        ((1, 0, 0.1, 0, 0), "batch_size is 0"),
        ((1, 1, 0.0, 0, 0), "lr is 0.0"),
        ((1, 1, float("nan"), 0, 0), "lr is nan"),
        ((1, 1, 0.1, -1, 0), "weight_decay is -1"),
        ((1, 1, 0.1, 0, 1.0), "warmup is 1.0: give a fraction .* or a whole number .* below 1"),
        ((9, 1, 0.1, 0, 2.5), "warmup is 2.5"),
        ((9, 1, 0.1, 0, -1), "warmup is -1"),
        ((20_000, 1, 0.1, 0, 20_000), "warmup is 20000"),
        ((1, 1, 0.1, 0, 0, 0), "save_every is 0"),
        ((1, 1, 0.1, 0, 0, 50, "adam"), "optimizer is 'adam': choose one of adamw, sgd"),
        ((1, 1, 0.1, 0, 0, 50, "sgd", 0), "accumulate is 0"),
        ((1, 1, 0.1, 0, 0, 50, "sgd", 1, "fp16"), "precision is 'fp16': choose one of fp32, bf16"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(UserError, match=message):
        Settings(*values)
