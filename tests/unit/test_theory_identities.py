"""Two identities behind PCI, and what breaks them (docs/method.md A.5.1)."""

import pytest
import torch
from torch import Tensor

from pistole.method.criticality import antithetic_pci, layer_variances
from pistole.theory.identities import chain_rule_error, zero_sum_error
from tests.unit.method_models import exact_weighted_traces, log_prob, log_softmax, mlp, samples

# torch.func.hessian imports a part of torch that still calls torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

Params = dict[str, Tensor]
X, Y = samples()
VARIANCES = layer_variances(mlp(), eta=0.1, dist="sphere", ball="layer", perturb_1d=True)


def p_c(theta: Params) -> Tensor:
    return log_softmax(theta, X).exp().gather(1, Y[:, None])[:, 0]


def loss(theta: Params) -> Tensor:
    return -log_prob(X, Y)(theta)


def test_the_trace_of_p_is_squared_gradient_minus_trace_of_the_loss():
    """Tr(H_c) / p_c = ||grad l||^2 - Tr(H_l) with whole Hessians."""
    theta = mlp()
    ones = dict.fromkeys(theta, 1.0)
    left = exact_weighted_traces(p_c, theta, ones) / p_c(theta)
    losses = exact_weighted_traces(loss, theta, ones)
    gradients = torch.func.jacrev(loss)(theta)
    squares = sum(g.square().flatten(1).sum(1) for g in gradients.values())
    assert torch.allclose(left, squares - losses, rtol=1e-11)


def test_the_chain_rule_holds_per_probe_to_rounding():
    found = chain_rule_error(p_c, loss, mlp(), VARIANCES, probes=3, seed=0)
    assert 0 < found.relative < 1e-12
    assert 0 < found.absolute < 1e-12
    single = {k: value.float() for k, value in mlp().items()}
    x = X.float()

    def p32(theta: Params) -> Tensor:
        return log_softmax(theta, x).exp().gather(1, Y[:, None])[:, 0]

    found = chain_rule_error(p32, lambda t: -p32(t).log(), single, VARIANCES, probes=3, seed=0)
    assert 1e-9 < found.relative < 1e-4


@pytest.mark.parametrize(
    "wrong", [lambda t: 2 * loss(t), lambda t: -p_c(t), lambda t: -log_prob(X, (Y + 1) % 4)(t)]
)
def test_another_loss_breaks_the_chain_rule(wrong):
    assert chain_rule_error(p_c, wrong, mlp(), VARIANCES, probes=1, seed=0).relative > 0.1


def test_the_error_is_the_largest_over_probes_and_samples():
    """With a loss that is off by a known square: the error is v'v / 2 of one sample."""
    theta = {"a": torch.zeros(3, dtype=torch.float64)}
    scale = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def prob(t: Params) -> Tensor:
        return torch.exp(t["a"].sum() * torch.ones(2, dtype=torch.float64))

    def off(t: Params) -> Tensor:
        return -t["a"].sum() + scale * t["a"].square().sum() / 2

    found = chain_rule_error(prob, off, theta, {"a": 4.0}, probes=2, seed=0)
    assert found.absolute == pytest.approx(12)  # 3 coordinates of variance 4
    one = chain_rule_error(prob, off, theta, {"a": 4.0}, probes=1, seed=0)
    assert one.relative <= found.relative < 1


def test_pci_of_all_classes_sums_to_zero():
    theta = mlp()
    found = antithetic_pci(
        lambda t: log_softmax(t, X).flatten(), theta, eta=0.05, pairs=2, dist="sphere",
        ball="layer", perturb_1d=True, seed=0,
    )  # fmt: skip
    p = log_softmax(theta, X).exp()
    error = zero_sum_error(found.pci.view_as(p), p)
    assert error.absolute < 1e-14
    assert error.relative < 1e-10


def test_the_zero_sum_error_by_hand():
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    pci = torch.tensor([[0.2, -0.2], [0.4, 0.4]])
    found = zero_sum_error(pci, p)
    assert found.absolute == pytest.approx(0.4)
    assert found.relative == pytest.approx(1)
    assert zero_sum_error(torch.zeros(2, 2), p).relative == 0
