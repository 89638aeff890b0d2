"""Second derivatives through attention and LayerNorm (docs/method.md E.2)."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends
from torch.utils._python_dispatch import TorchDispatchMode

from pistole.method.criticality import antithetic_pci, layer_variances
from pistole.models.zeroshot import ZeroShotClassifier, functional_logits, parameters_of
from pistole.theory.curvature import (
    directional_derivatives,
    hessian_operator,
    rademacher,
    second_directional_derivative,
    twice_differentiable_attention,
    weighted_hutchinson_trace,
)
from tests.unit.method_models import mlp

# open_clip imports parts of torch that still call torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

Params = dict[str, Tensor]


def inner(left: Params, right: Params) -> Tensor:
    return sum((left[k] * right[k]).sum() for k in left)


@pytest.fixture
def vit(tiny_clip: torch.nn.Module) -> tuple[ZeroShotClassifier, Tensor]:
    source = torch.Generator().manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(4, 16, generator=source), dim=-1)
    clf = ZeroShotClassifier(tiny_clip.visual, text, [0.5] * 3, [0.25] * 3, 16, 10.0)
    return clf, torch.rand(3, 3, 16, 16, generator=source)


def test_the_second_derivative_of_a_vit_by_differences_and_by_hvp(vit):
    """Two nested torch.func.jvp fail this: LayerNorm's is wrong (pytorch issue 196700)."""
    clf, images = vit
    clf, images = clf.double(), images.double()
    theta = parameters_of(clf)
    v = rademacher(theta, dict.fromkeys(theta, 0.05**2), seed=0, probe=0)

    def p(point: Params) -> Tensor:
        return functional_logits(clf, point, images).softmax(-1)[:, 1]

    def moved(step: float) -> Tensor:
        return p({k: theta[k] + step * v[k] for k in theta})

    found = second_directional_derivative(p, theta, v)
    differences = (moved(1e-4) - 2 * moved(0) + moved(-1e-4)) / 1e-8
    assert torch.allclose(found, differences, rtol=1e-5, atol=1e-6)
    for i in range(len(images)):
        product = hessian_operator(lambda point, i=i: p(point)[i], theta)(v)
        assert found[i].item() == pytest.approx(inner(product, v).item(), rel=1e-9)


def test_pci_of_a_vit_is_its_trace(vit):
    """Theorem 2 through attention and LayerNorm: same number from values and from derivatives."""
    clf, images = vit
    clf = clf.double()
    theta, images = parameters_of(clf), images.double()

    def log_p(point: Params) -> Tensor:
        return functional_logits(clf, point, images).log_softmax(-1)[:, 1]

    settings = {"eta": 1e-3, "dist": "sphere", "ball": "layer", "perturb_1d": False}
    pci = antithetic_pci(log_p, theta, pairs=60, seed=0, **settings)
    variances = layer_variances(theta, **settings)
    trace = weighted_hutchinson_trace(
        lambda point: log_p(point).exp(), theta, variances, probes=60, seed=0
    )
    predicted, error = (t / 2 / log_p(theta).exp() for t in (trace.trace, trace.standard_error))
    spread = (error**2 + ((pci.first_half - pci.second_half) / 2) ** 2).sqrt()
    assert ((pci.pci - predicted).abs() < 4 * spread).all()


class Operators(TorchDispatchMode):
    """Names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))

    def fused(self) -> set[str]:
        kinds = ("flash", "efficient", "cudnn", "overrideable")
        return {
            name
            for name in self.names
            if "attention" in name and any(kind in name for kind in kinds)
        }


def derivatives(function, theta: Params, v: Params):
    """Everything in the module that takes a second derivative."""
    second_directional_derivative(function, theta, v)
    directional_derivatives(function, theta, v)
    hessian_operator(lambda point: function(point).sum(), theta)(v)
    weighted_hutchinson_trace(function, theta, dict.fromkeys(theta, 1.0), probes=1, seed=0)


def test_no_fused_attention_kernel_runs_under_a_second_derivative(vit):
    clf, images = vit
    theta = parameters_of(clf)

    def p(point: Params) -> Tensor:
        return functional_logits(clf, point, images).softmax(-1)[:, 1]

    v = rademacher(theta, dict.fromkeys(theta, 1.0), seed=0, probe=0)
    with Operators() as plain:
        p(theta)
    assert plain.fused()  # the test would see one, and by default there is one
    with Operators() as ours:
        derivatives(p, theta, v)
    assert ours.fused() == set()


def test_a_second_derivative_through_a_fused_kernel_is_an_error(vit):
    clf, images = vit
    leaves = {k: value.requires_grad_() for k, value in parameters_of(clf).items()}
    values = list(leaves.values())

    def second() -> None:
        loss = functional_logits(clf, leaves, images).square().sum()
        first = torch.autograd.grad(loss, values, create_graph=True)
        torch.autograd.grad(sum(g.sum() for g in first), values, materialize_grads=True)

    with pytest.raises(RuntimeError, match="is not implemented"):
        second()
    with twice_differentiable_attention():
        second()


def attention_settings() -> tuple[bool, list[SDPBackend]]:
    return torch.backends.mha.get_fastpath_enabled(), _cur_sdpa_kernel_backends()


def test_attention_settings_are_restored_even_after_an_error():
    before = attention_settings()
    within = []

    def failing(theta: Params) -> Tensor:
        within.append(attention_settings())
        raise ZeroDivisionError

    calls = (
        lambda: second_directional_derivative(failing, mlp(), mlp(3)),
        lambda: directional_derivatives(failing, mlp(), mlp(3)),
        lambda: hessian_operator(failing, mlp()),
    )
    for call in calls:
        with pytest.raises(ZeroDivisionError):
            call()
    assert within == [(False, [SDPBackend.MATH])] * 3
    assert attention_settings() == before
    assert before[0]
    assert len(before[1]) > 1
