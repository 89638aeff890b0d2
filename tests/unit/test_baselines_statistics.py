"""What all rules that read statistics have in common."""

import math

import pytest
import torch
from torch import Tensor

from pistole.baselines.fisher import Fisher, norm_of
from pistole.baselines.led import Led
from pistole.baselines.obm import Obm, curvatures
from pistole.baselines.regmean import RegMean
from pistole.errors import UserError
from tests.unit.method_models import random_params

SHAPES = {"linear": (4, 3), "proj": (3, 4), "table": (2, 2), "bias": (4,), "scale": (1,)}
AXES = {"linear": 1, "proj": 0, "table": -1, "bias": -1, "scale": -1}
BASE, NAT, ROB = (random_params(seed, **SHAPES) for seed in range(3))


def measured() -> dict[str, dict[str, Tensor]]:
    """Method -> statistics, drawn."""
    axes = {f"axis/{name}": torch.tensor(axis) for name, axis in AXES.items()}
    found = {"fisher": {}, "led": {}, "regmean": dict(axes), "obm": dict(axes)}
    for seed, source in enumerate(("natural", "robust"), 20):
        squares = {name: v.square() for name, v in random_params(seed, **SHAPES).items()}
        found["fisher"] |= {f"{source}/{name}": value for name, value in squares.items()}
        found["fisher"][f"norm/{source}"] = norm_of(squares)
        for key in (source, f"base {source}"):
            found["led"] |= {f"{key}/{name}": value for name, value in squares.items()}
        inputs = random_params(seed, torch.float64, linear=(9, 3), proj=(9, 3))
        for name, x in inputs.items():
            found["regmean"][f"{source}/{name}"] = x.T @ x / 9
            obd, obs = curvatures(x.T @ x / 9)
            found["obm"] |= {f"{source} obd/{name}": obd, f"{source} obs/{name}": obs}
    return found


STATISTICS = measured()
RULES = {
    rule.needs: rule(statistics=STATISTICS[rule.needs]) for rule in (Fisher, RegMean, Led, Obm)
}
every_rule = pytest.mark.parametrize("need", RULES)


@every_rule
def test_tensor_by_tensor_gives_the_bytes_of_the_whole(need):
    rule, weights = RULES[need], (0.3, 0.7)
    whole = rule(BASE, (NAT, ROB), weights)
    survey = rule.survey(lambda: iter([(n, [NAT[n], ROB[n]]) for n in sorted(BASE)]), weights)
    for name, value in whole.items():
        one = rule.tensor(name, BASE[name], [NAT[name], ROB[name]], weights, survey)
        assert torch.equal(one, value)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_to_fp32(need, dtype):
    halves = [{n: v.to(dtype) for n, v in part.items()} for part in (BASE, NAT, ROB)]
    wide = [{n: v.float() for n, v in part.items()} for part in halves]
    found = RULES[need](halves[0], halves[1:], (1, 1))
    expected = RULES[need](wide[0], wide[1:], (1, 1))
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])


@every_rule
def test_zero_vectors_give_the_base_and_no_argument_is_changed(need):
    parts = [{name: value.clone() for name, value in part.items()} for part in (BASE, NAT, ROB)]
    zero = {name: torch.zeros_like(value) for name, value in BASE.items()}
    found = RULES[need](parts[0], (zero, zero), (1, 1))
    assert all(torch.equal(found[name], BASE[name]) for name in BASE)
    RULES[need](parts[0], parts[1:], (0.5, 0.5))
    for part, before in zip(parts, (BASE, NAT, ROB), strict=True):
        assert all(torch.equal(part[name], before[name]) for name in BASE)


@every_rule
def test_scaling_multiplies_what_is_added(need):
    rule = type(RULES[need])
    one, three = (rule(statistics=STATISTICS[need], scaling=s) for s in (1.0, 3.0))
    zero = {name: torch.zeros_like(value) for name, value in BASE.items()}
    small, large = (r(zero, (NAT, ROB), (0.4, 0.6)) for r in (one, three))
    for name in BASE:
        torch.testing.assert_close(3 * small[name], large[name])


@every_rule
def test_nan_is_refused(need):
    bad = ROB | {"scale": torch.tensor([math.nan])}
    with pytest.raises(UserError, match="task vector 2: tensor 'scale' is not finite"):
        RULES[need](BASE, (NAT, bad), (1, 1))


@every_rule
def test_a_scaling_that_is_no_number_is_refused(need):
    with pytest.raises(UserError, match="scaling is nan"):
        type(RULES[need])(scaling=math.nan)


@every_rule
def test_missing_statistics_name_their_preparation(need):
    rule = type(RULES[need])()
    with pytest.raises(UserError, match=f"'{need}' lack .*: run 'pistole prepare {need}'"):
        rule(BASE, (NAT, ROB), (1, 1))
