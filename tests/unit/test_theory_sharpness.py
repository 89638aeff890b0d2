"""Trace and sharpness of a mean loss by parts of its images (docs/method.md E.3)."""

import math

import pytest
import torch

from pistole.errors import UserError
from pistole.method.ball import layer_variances
from pistole.theory.sharpness import average_sharpness, standard_error, weighted_traces

Params = dict[str, torch.Tensor]
PLACE = {"eta": 0.1, "dist": "sphere", "ball": "layer", "perturb_1d": True}
THETA = {
    "a": torch.tensor([[3.0, -1.0], [0.5, 2.0]], dtype=torch.float64),
    "b": torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64),
}
VARIANCES = layer_variances(THETA, **PLACE)


def matrix(seed: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    m = torch.randn(7, 7, generator=source, dtype=torch.float64)
    return m + m.T


def quadratic(h: torch.Tensor, cubic: float = 0.0):
    """g'x + x'Hx / 2 + cubic sum x^3, x the flattened tensors."""

    def loss(theta: Params) -> torch.Tensor:
        x = torch.cat([theta["a"].flatten(), theta["b"]])
        return 3 * x.sum() + x @ h @ x / 2 + cubic * x.pow(3).sum()

    return loss


def weighted_trace(h: torch.Tensor) -> float:
    weights = torch.tensor([VARIANCES["a"]] * 4 + [VARIANCES["b"]] * 3, dtype=torch.float64)
    return (h.diagonal() * weights).sum().item()


def test_a_diagonal_hessian_has_its_trace_from_one_probe():
    h = torch.diag(torch.arange(1.0, 8.0, dtype=torch.float64) - 3)
    found = weighted_traces([quadratic(h)], THETA, VARIANCES, probes=1, seed=0)
    assert found.dtype == torch.float64
    assert found.tolist() == [pytest.approx(weighted_trace(h))]


def test_the_sharpness_of_an_isotropic_quadratic_is_half_its_weighted_trace():
    """sum_l sigma_l^2 Tr(H_ll) / 2 for every Delta on the sphere; slope and cubic cancel."""
    h = torch.eye(7, dtype=torch.float64) * 5
    found = average_sharpness([quadratic(h)], THETA, pairs=2, seed=0, **PLACE)
    expected = 5 * 0.1**2 * sum(t.square().sum().item() for t in THETA.values()) / 2
    assert weighted_trace(h) / 2 == pytest.approx(expected)
    assert found.tolist() == [pytest.approx(expected, rel=1e-9)]


def test_both_are_unbiased_and_agree():
    h = matrix(0)
    parts = [quadratic(h)] * 300
    traces = weighted_traces(parts, THETA, VARIANCES, probes=1, seed=0)
    sharp = average_sharpness(parts, THETA, pairs=1, seed=0, **PLACE)
    for found, expected in ((traces, weighted_trace(h)), (sharp, weighted_trace(h) / 2)):
        error = standard_error(found)
        assert error < 0.5 * abs(expected)
        assert abs(found.mean().item() - expected) < 3.5 * error


def test_a_cubic_term_cancels_in_a_pair():
    h = torch.eye(7, dtype=torch.float64)
    straight, bent = (quadratic(h, cubic) for cubic in (0.0, 2.0))
    ours, theirs = (
        average_sharpness([loss], THETA, pairs=1, seed=0, **PLACE) for loss in (straight, bent)
    )
    # x^3 still adds 3 x delta^2 to the second order: 6 x on the Hessian's diagonal.
    x = torch.cat([t.flatten() for t in THETA.values()])
    second = average_sharpness([quadratic(h + torch.diag(12 * x))], THETA, pairs=1, seed=0, **PLACE)
    assert theirs.item() == pytest.approx(second.item(), rel=1e-9)
    assert theirs.item() != pytest.approx(ours.item(), rel=1e-3)


def test_every_part_has_its_own_loss_and_directions_and_averages_them():
    h = matrix(1)
    traces = weighted_traces([quadratic(h)] * 2, THETA, VARIANCES, probes=2, seed=0)
    assert traces[0] != traces[1]
    singly = weighted_traces([quadratic(h)] * 4, THETA, VARIANCES, probes=1, seed=0)
    assert torch.allclose(traces, singly.view(2, 2).mean(1))
    sharp = average_sharpness([quadratic(h)] * 2, THETA, pairs=2, seed=0, **PLACE)
    assert sharp[0] != sharp[1]
    singly = average_sharpness([quadratic(h)] * 4, THETA, pairs=1, seed=0, **PLACE)
    assert torch.allclose(sharp, singly.view(2, 2).mean(1))
    other = weighted_traces([quadratic(h), quadratic(3 * h)], THETA, VARIANCES, probes=2, seed=0)
    assert torch.allclose(other, traces * torch.tensor([1.0, 3.0]))


def test_the_same_seed_gives_two_models_the_same_directions():
    h = matrix(2)
    moved = {name: value * 2 for name, value in THETA.items()}
    variances = layer_variances(moved, **PLACE)
    ours = weighted_traces([quadratic(h)] * 3, THETA, VARIANCES, probes=1, seed=5)
    theirs = weighted_traces([quadratic(h)] * 3, moved, variances, probes=1, seed=5)
    assert torch.allclose(theirs, 4 * ours)  # sigma^2 alone has changed
    ours = average_sharpness([quadratic(h)] * 3, THETA, pairs=1, seed=5, **PLACE)
    theirs = average_sharpness([quadratic(h)] * 3, moved, pairs=1, seed=5, **PLACE)
    assert torch.allclose(theirs, 4 * ours)


def test_tensors_that_do_not_move_count_in_neither():
    place = PLACE | {"perturb_1d": False}
    h = torch.diag(torch.tensor([1.0] * 4 + [100.0] * 3, dtype=torch.float64))
    variances = layer_variances(THETA, **place)
    trace = weighted_traces([quadratic(h)], THETA, variances, probes=1, seed=0)
    sharp = average_sharpness([quadratic(h)], THETA, pairs=1, seed=0, **place)
    expected = 0.1**2 * THETA["a"].square().sum().item()
    assert trace.item() == pytest.approx(expected)
    assert sharp.item() == pytest.approx(expected / 2)


def test_the_standard_error_is_that_of_the_mean():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    assert standard_error(values) == pytest.approx(values.std().item() / 2)
    assert standard_error(values[:1]) == math.inf


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: weighted_traces([], THETA, VARIANCES, probes=1, seed=0), "no images"),
        (lambda: average_sharpness([], THETA, pairs=1, seed=0, **PLACE), "no images"),
        (
            lambda: weighted_traces([quadratic(matrix(0))], THETA, VARIANCES, probes=0, seed=0),
            "probes is 0",
        ),
        (
            lambda: average_sharpness([quadratic(matrix(0))], THETA, pairs=0, seed=0, **PLACE),
            "pairs is 0",
        ),
        (
            lambda: average_sharpness(
                [quadratic(matrix(0))], THETA | {"b": THETA["b"] * math.nan}, pairs=1, seed=0,
                **PLACE,
            ),
            "'b' is not finite",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()
