"""RegMean: the least-squares optimum, exactly."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pistole.baselines.regmean import RegMean, regression
from pistole.errors import UserError
from tests.unit.method_models import random_params

SHAPES = {"linear": (4, 3), "proj": (3, 4), "conv": (4, 3, 1, 1), "table": (5, 3), "bias": (4,)}
AXES = {"linear": 1, "proj": 0, "conv": 1, "table": -1, "bias": -1}
BASE, NAT, ROB = (random_params(seed, **SHAPES) for seed in range(3))
INPUTS = {
    source: random_params(seed, torch.float64, linear=(20, 3), proj=(20, 3), conv=(20, 3))
    for seed, source in enumerate(("natural", "robust"), 10)
}
STATISTICS = {f"axis/{name}": torch.tensor(axis) for name, axis in AXES.items()} | {
    f"{source}/{name}": x.T @ x / len(x)
    for source, inputs in INPUTS.items()
    for name, x in inputs.items()
}


def as_layer(name: str, value: Tensor) -> Tensor:
    """The matrix [out, in]."""
    matrix = value.double().flatten(1)
    return matrix.T if AXES[name] == 0 else matrix


@pytest.mark.parametrize("name", ["linear", "proj", "conv"])
@pytest.mark.parametrize("weights", [(1, 1), (0.2, 0.8), (1, 0)])
def test_the_optimum_of_the_outputs_is_found(name, weights):
    """The normal equations against torch's least squares on the stacked, weighted inputs."""
    rule = RegMean(statistics=STATISTICS, off_diagonal=1, damping=0, convolutions="patches")
    found = as_layer(name, rule(BASE, (NAT, ROB), weights)[name])
    rows, outputs = [], []
    for source, tau, weight in zip(INPUTS, (NAT, ROB), weights, strict=True):
        x = INPUTS[source][name] * math.sqrt(weight)
        rows.append(x)
        outputs.append(x @ as_layer(name, BASE[name] + tau[name]).T)
    expected = torch.linalg.lstsq(torch.cat(rows), torch.cat(outputs)).solution.T
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def literal(name: str, weights, rule: RegMean) -> Tensor:
    """The formula with explicit loops and an explicit inverse, fp64."""
    total = sum(weights)
    if AXES[name] == -1 or (name == "conv" and rule.convolutions == "mean"):
        mean = (weights[0] * NAT[name].double() + weights[1] * ROB[name].double()) / total
        return BASE[name] + rule.scaling * mean
    grams = []
    for source, weight in zip(INPUTS, weights, strict=True):
        gram = STATISTICS[f"{source}/{name}"].clone()
        for i in range(3):
            for j in range(3):
                gram[i, j] *= 1 if i == j else rule.off_diagonal
        grams.append((weight / total, gram))
    scale = sum(w * gram[i, i] for w, gram in grams for i in range(3)) / 3
    damped = [w * (gram + rule.damping * scale * torch.eye(3)) for w, gram in grams]
    right = sum(
        as_layer(name, tau[name]) @ gram for tau, gram in zip((NAT, ROB), damped, strict=True)
    )
    moved = right @ torch.linalg.inv(sum(damped))
    moved = moved.T if AXES[name] == 0 else moved
    return BASE[name] + rule.scaling * moved.reshape(BASE[name].shape)


@pytest.mark.parametrize("weights", [(1, 1), (0.3, 0.7)])
@pytest.mark.parametrize(
    "options", [{}, {"convolutions": "patches", "damping": 0.1}, {"off_diagonal": 0, "scaling": 2}]
)
def test_the_rule_is_its_formula(weights, options):
    rule = RegMean(statistics=STATISTICS, **options)
    found = rule(BASE, (NAT, ROB), weights)
    for name, value in found.items():
        assert value.dtype == torch.float32
        expected = literal(name, weights, rule).float()
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


@given(st.floats(0, 1), st.integers(0, 99))
def test_identical_models_give_the_model_back(share, seed):
    own = random_params(seed, **SHAPES)
    rule = RegMean(statistics=STATISTICS, convolutions="patches")
    for name, value in rule(BASE, (own, own), (share, 1 - share)).items():
        torch.testing.assert_close(value, BASE[name] + own[name], rtol=1e-5, atol=1e-5)
    for name, value in rule(BASE, (own,), (5,)).items():
        torch.testing.assert_close(value, BASE[name] + own[name], rtol=1e-5, atol=1e-5)


@given(st.permutations(range(3)), st.integers(0, 99))
def test_the_order_of_the_inputs_does_not_matter(order, seed):
    matrices = [value.double() for value in random_params(seed, a=(2, 3), b=(2, 3)).values()]
    grams = [STATISTICS[f"{source}/linear"] for source in INPUTS]
    one = regression(matrices, grams, [0.4, 0.6], 1e-6)
    order = list(order)
    moved = [matrix[:, order] for matrix in matrices]
    other = regression(moved, [gram[order][:, order] for gram in grams], [0.4, 0.6], 1e-6)
    torch.testing.assert_close(one[:, order], other)


def test_inputs_that_leave_a_direction_open_give_the_mean_there():
    x = torch.tensor([[1.0, 0, 0], [0, 2, 0]], dtype=torch.float64)  # the third input is dead
    gram = x.T @ x
    matrices = [value.double() for value in random_params(0, a=(2, 3), b=(2, 3)).values()]
    found = regression(matrices, [gram, gram], [0.25, 0.75], 1e-6)
    torch.testing.assert_close(found, 0.25 * matrices[0] + 0.75 * matrices[1])
    nothing = torch.zeros_like(gram)
    found = regression(matrices, [nothing, nothing], [0.25, 0.75], 1e-6)
    torch.testing.assert_close(found, 0.25 * matrices[0] + 0.75 * matrices[1])
    with pytest.raises(UserError, match="3 inputs have no inverse with regmean damping 0: give"):
        regression(matrices, [gram, gram], [0.5, 0.5], 0)


def test_what_cannot_be_merged_is_refused():
    for key in ("axis/bias", "robust/proj"):
        rest = {k: value for k, value in STATISTICS.items() if k != key}
        with pytest.raises(UserError, match=f"lack '{key}': run 'pistole prepare regmean'"):
            RegMean(statistics=rest)(BASE, (NAT, ROB), (1, 1))
    with pytest.raises(UserError, match="weights are 0, 0"):
        RegMean(statistics=STATISTICS)(BASE, (NAT, ROB), (0, 0))
    with pytest.raises(UserError, match="convolutions is 'im2col': choose one of mean, patches"):
        RegMean(convolutions="im2col")
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match="off_diagonal is"):
            RegMean(off_diagonal=bad)
        with pytest.raises(UserError, match="damping is"):
            RegMean(damping=bad)
