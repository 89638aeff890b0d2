"""Hours from a named rate and from a measured one."""

import math

import pytest
from params_text import TEXT
from ruamel.yaml import YAML

from pistole.errors import UserError
from pistole.params import Params
from pistole.plan.rates import CARDS, REACHED, Calibrated, calibrate, named_rate
from pistole.plan.tower import read_tower
from pistole.plan.work import FORWARD, IMAGE, SECOND, WEIGHT, Work


@pytest.fixture(scope="module")
def params() -> Params:
    return Params.model_validate(YAML(typ="safe", pure=True).load(TEXT) | {"device": "cpu"})


@pytest.fixture(scope="module")
def tower(params):
    return read_tower(params)


def test_a_given_rate_is_operations_per_second(tower):
    works = [Work(FORWARD, 1000, 8), Work(IMAGE, 10, 8)]
    flops = 1000 * tower.flops[FORWARD] + 10 * tower.flops[IMAGE]
    assert named_rate("2.5").seconds(works, tower) == pytest.approx(flops / 2.5e12)


def test_a_card_counts_with_the_share_of_its_peak_that_is_assumed():
    rate = named_rate("H100")
    assert rate.tflops == pytest.approx(REACHED * CARDS["h100"])
    assert "assumed" in rate.about


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "h1000"])
def test_no_rate_is_a_user_error(text: str):
    with pytest.raises(UserError, match="give TFLOP/s above 0, or a card: t4"):
        named_rate(text)


def test_a_pass_takes_the_time_of_the_nearest_batch_size(tower):
    measured = {(FORWARD, 1): 3.0, (FORWARD, 64): 1.0, (IMAGE, 1): 9.0, (WEIGHT, 1): 12.0}
    rate = Calibrated(measured, "here")
    assert rate.seconds([Work(FORWARD, 10, 50)], tower) == 10
    assert rate.seconds([Work(FORWARD, 10, 2)], tower) == 30
    assert rate.seconds([Work(IMAGE, 2, 50), Work(FORWARD, 0, 1)], tower) == 18
    second = tower.flops[SECOND] / tower.flops[WEIGHT] * 12
    assert rate.seconds([Work(SECOND, 1, 1)], tower) == pytest.approx(second)


def test_calibration_times_each_kind_at_each_batch_size(params, tower):
    ticks = iter(range(10**6))
    rate, notes = calibrate(params, tower, [4, 2], clock=lambda: next(ticks) / 1000)
    kinds = (FORWARD, IMAGE, WEIGHT)
    assert set(rate.per_image) == {(kind, batch) for kind in kinds for batch in (1, 2, 4)}
    # Every pass lasts one tick of this clock, whatever its batch size.
    assert all(math.isclose(t, 0.001 / batch) for (_, batch), t in rate.per_image.items())
    assert notes == []


def test_a_slow_device_is_timed_at_smaller_batches(params, tower):
    ticks = iter(range(10**6))
    rate, _ = calibrate(params, tower, [8], clock=lambda: float(next(ticks)))
    assert {batch for _, batch in rate.per_image} == {1, 2}  # a second per image, two at most
