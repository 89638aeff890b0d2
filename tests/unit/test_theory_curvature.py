"""Hessian traces of probabilities against exact Hessians (docs/method.md A.5.1, E.2)."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from pistole.errors import UserError
from pistole.method.criticality import antithetic_pci, layer_variances
from pistole.theory.curvature import (
    TraceEstimate,
    directional_derivatives,
    hessian_operator,
    rademacher,
    second_directional_derivative,
    weighted_hutchinson_trace,
)
from tests.unit.method_models import exact_weighted_traces, log_prob, mlp, samples

# torch.func.hessian and open_clip import parts of torch that still call torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

Params = dict[str, Tensor]
X, Y = samples()
VARIANCES = layer_variances(mlp(), eta=0.1, dist="sphere", ball="layer", perturb_1d=True)


def p_c(theta: Params) -> Tensor:
    return log_prob(X, Y)(theta).exp()


def inner(left: Params, right: Params) -> Tensor:
    return sum((left[k] * right[k]).sum() for k in left)


@pytest.fixture(scope="module")
def oracle():
    """The Hessian of the mean cross-entropy over the samples, by curvlinops."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import curvlinops
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6), torch.nn.Tanh(),
        torch.nn.Linear(6, 4),
    ).double()  # fmt: skip
    for parameter, value in zip(model.parameters(), mlp().values(), strict=True):
        parameter.data.copy_(value)
    params = list(model.parameters())
    loss = torch.nn.CrossEntropyLoss()
    return curvlinops, curvlinops.HessianLinearOperator(model, loss, params, [(X, Y)])


def mean_loss(theta: Params) -> Tensor:
    return -log_prob(X, Y)(theta).mean()


def flat(theta: Params) -> Tensor:
    return torch.cat([value.flatten() for value in theta.values()])


def test_the_second_derivative_is_the_hvp_form():
    theta, v = mlp(), mlp(3)
    found = second_directional_derivative(p_c, theta, v)
    for i in range(len(X)):
        product = hessian_operator(lambda point, i=i: p_c(point)[i], theta)(v)
        assert found[i].item() == pytest.approx(inner(product, v).item(), rel=1e-10)


def test_both_derivatives_along_a_direction():
    theta, v = mlp(), mlp(3)
    first, second = directional_derivatives(p_c, theta, v)
    gradients = torch.func.jacrev(p_c)(theta)
    for i in range(len(X)):
        expected = inner({k: g[i] for k, g in gradients.items()}, v)
        assert first[i].item() == pytest.approx(expected.item(), rel=1e-10)
    assert torch.allclose(second, second_directional_derivative(p_c, theta, v), rtol=1e-12)


def test_the_operator_is_the_exact_hessian_and_may_be_used_again():
    theta = mlp()
    blocks = torch.func.hessian(lambda point: p_c(point)[0])(theta)
    operator = hessian_operator(lambda point: p_c(point)[0], theta)
    for seed in (3, 4):
        v = dict(reversed(mlp(seed).items()))
        product = operator(v)
        assert list(product) == list(theta)
        for row in theta:
            expected = sum(torch.tensordot(blocks[row][k], v[k], dims=v[k].ndim) for k in theta)
            assert torch.allclose(product[row], expected, rtol=1e-9, atol=1e-12)


def test_the_operator_of_a_function_that_is_linear_in_some_tensors():
    theta = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    v = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 1.0])}
    partly = hessian_operator(lambda p: p["a"].square().sum() + p["b"].sum(), theta)(v)
    assert (partly["a"].tolist(), partly["b"].tolist()) == ([2.0, 0.0], [0.0, 0.0])
    nowhere = hessian_operator(lambda p: p["a"].sum() + p["b"].sum(), theta)(v)
    assert (nowhere["a"].tolist(), nowhere["b"].tolist()) == ([0.0, 0.0], [0.0, 0.0])


def test_the_operator_agrees_with_curvlinops(oracle):
    v = mlp(3)
    expected = (oracle[1] @ flat(v)).detach()
    assert torch.allclose(flat(hessian_operator(mean_loss, mlp())(v)), expected, rtol=1e-8)


def test_the_trace_agrees_with_that_of_curvlinops(oracle):
    """The exact trace of the oracle's matrix, and both Hutchinson estimates of it."""
    curvlinops, hessian = oracle
    theta = mlp()
    matrix = (hessian @ torch.eye(hessian.shape[0], dtype=torch.float64)).detach()
    scale = flat({k: torch.full_like(t, VARIANCES[k] ** 0.5) for k, t in theta.items()})
    weighted = scale[:, None] * matrix * scale  # its trace weighs H_ll by sigma_l^2
    exact = weighted.trace().item()
    found = weighted_hutchinson_trace(
        lambda point: mean_loss(point)[None], theta, VARIANCES, probes=400, seed=0
    )
    error = found.standard_error.item()
    assert error < 0.1 * abs(exact)
    assert abs(found.trace.item() - exact) < 3.5 * error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = curvlinops.hutchinson_trace(weighted, num_matvecs=len(matrix) - 1).item()
    spread = found.forms.std().item() * (1 / 400 + 1 / (len(matrix) - 1)) ** 0.5
    assert abs(found.trace.item() - theirs) < 3.5 * spread


def test_a_linear_softmax_has_its_analytic_hessian():
    """With z = W x, u = V x and e = 1_c: v^T H_c v = p_c [((e - p) u)^2 - u diag(p) u + (p u)^2].

    So Tr(H_c) = p_c |x|^2 (|e - p|^2 - 1 + |p|^2).
    """
    source = torch.Generator().manual_seed(0)
    theta = {"w": torch.randn(4, 5, generator=source, dtype=torch.float64)}
    v = {"w": torch.randn(4, 5, generator=source, dtype=torch.float64)}

    def log_p(point: Params) -> Tensor:
        return (X @ point["w"].T).log_softmax(-1).gather(1, Y[:, None])[:, 0]

    p = (X @ theta["w"].T).softmax(-1)
    away, u = torch.eye(4).double()[Y] - p, X @ v["w"].T
    own = p.gather(1, Y[:, None])[:, 0]
    form = own * ((away * u).sum(1) ** 2 - (p * u**2).sum(1) + (p * u).sum(1) ** 2)
    found = second_directional_derivative(lambda point: log_p(point).exp(), theta, v)
    assert torch.allclose(found, form, rtol=1e-10)
    exact = 0.25 * own * (X**2).sum(1) * ((away**2).sum(1) - 1 + (p**2).sum(1))
    trace = weighted_hutchinson_trace(
        lambda point: log_p(point).exp(), theta, {"w": 0.25}, probes=300, seed=0
    )
    assert ((trace.trace - exact) / trace.standard_error).abs().max() < 3.5
    settings = {"eta": 1e-3, "dist": "sphere", "ball": "layer", "perturb_1d": True}
    pci = antithetic_pci(log_p, theta, pairs=400, seed=0, **settings)
    scale = layer_variances(theta, **settings)["w"] / 0.25
    spread = (pci.first_half - pci.second_half).abs().max()
    assert torch.allclose(pci.pci, scale * exact / own / 2, atol=4 * spread.item(), rtol=0.2)


def test_the_weighted_trace_is_unbiased():
    theta = mlp()
    exact = exact_weighted_traces(p_c, theta, VARIANCES)
    found = weighted_hutchinson_trace(p_c, theta, VARIANCES, probes=300, seed=0)
    z = (found.trace - exact) / found.standard_error
    assert z.abs().max() < 3.5
    assert found.standard_error.norm() < 0.2 * exact.norm()


def test_the_weighted_trace_leaves_layers_that_do_not_move_out():
    theta = mlp()
    only = VARIANCES | {k: 0.0 for k in theta if k != "2.weight"}
    exact = exact_weighted_traces(p_c, theta, only)
    found = weighted_hutchinson_trace(p_c, theta, only, probes=150, seed=0)
    assert ((found.trace - exact) / found.standard_error).abs().max() < 3.5


def test_samples_may_be_estimated_in_batches():
    theta = mlp()
    whole = weighted_hutchinson_trace(p_c, theta, VARIANCES, probes=3, seed=4)
    first = weighted_hutchinson_trace(
        lambda point: log_prob(X[:2], Y[:2])(point).exp(), theta, VARIANCES, probes=3, seed=4
    )
    assert torch.allclose(whole.trace[:2], first.trace)
    assert torch.allclose(whole.standard_error[:2], first.standard_error)


def test_the_standard_error_is_that_of_the_mean():
    theta = mlp()
    forms = torch.stack(
        [
            second_directional_derivative(p_c, theta, rademacher(theta, VARIANCES, seed=0, probe=i))
            for i in range(6)
        ]
    )
    found = weighted_hutchinson_trace(p_c, theta, VARIANCES, probes=6, seed=0)
    assert torch.equal(found.forms, forms)
    assert torch.allclose(found.trace, forms.mean(0))
    assert torch.allclose(found.standard_error, forms.std(0) / math.sqrt(6))
    assert TraceEstimate(forms[:1]).standard_error.isinf().all()


def test_probes_are_signs_scaled_by_layer_and_seeded():
    theta = mlp()
    v = rademacher(theta, VARIANCES, seed=0, probe=0)
    for name, value in v.items():
        assert torch.allclose(value.abs(), torch.full_like(value, VARIANCES[name] ** 0.5))
    assert 0 < (v["0.weight"] > 0).sum() < 30
    again = rademacher(dict(reversed(theta.items())), VARIANCES, seed=0, probe=0)
    assert all(torch.equal(v[k], again[k]) for k in v)
    other = rademacher(theta, VARIANCES, seed=0, probe=1)
    assert not torch.equal(v["0.weight"], other["0.weight"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"probes": 0}, "probes is 0"),
        ({"variances": {"0.weight": 1.0}}, "variances and parameters differ in '0.bias'"),
        ({"variances": VARIANCES | {"0.bias": -1.0}}, "a variance is negative"),
        ({"theta": mlp() | {"0.bias": torch.full((6,), math.nan)}}, "'0.bias' is not finite"),
    ],
)
def test_bad_input_is_refused(changes, words):
    settings = {"theta": mlp(), "variances": VARIANCES, "probes": 2, "seed": 0} | changes
    with pytest.raises(UserError, match=words):
        weighted_hutchinson_trace(p_c, **settings)


def test_a_direction_of_another_layout_is_refused():
    theta = mlp()
    short = {k: v for k, v in mlp(3).items() if k != "0.bias"}
    with pytest.raises(UserError, match=r"direction: tensor '0\.bias' is missing"):
        second_directional_derivative(p_c, theta, short)
    with pytest.raises(UserError, match=r"direction: tensor '0\.bias' is missing"):
        hessian_operator(lambda point: p_c(point)[0], theta)(short)
