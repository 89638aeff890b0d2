"""Theorem 2: the weighted Hessian trace that PCI estimates (docs/method.md A.5.3, E.2)."""

import contextlib
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from pistole.errors import UserError
from pistole.method.vectors import Params, require_finite, require_same_layout
from pistole.seeds import generator


@dataclass(frozen=True)
class TraceEstimate:
    """Hutchinson's estimate of a weighted trace, per sample.

    Attributes:
        trace: mean over the probes.
        standard_error: of that mean; infinite with one probe.
    """

    trace: Float[Tensor, " n"]
    standard_error: Float[Tensor, " n"]


@contextlib.contextmanager
def twice_differentiable_attention() -> Generator[None]:
    """Use attention kernels that have second and forward-mode derivatives (docs/method.md E.2).

    Flash and memory-efficient attention have no double backward, and the inference path of
    ``nn.MultiheadAttention`` has no forward mode. Both settings are restored.

    Yields:
        Nothing.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def hessian_vector_product(
    function: Callable[[Params], Float[Tensor, ""]], theta: Params, v: Params
) -> Params:
    """Return H v of a scalar function, forward over reverse (docs/method.md E.2).

    Args:
        function: from parameters to a scalar.
        theta: where H is taken.
        v: direction, same names and shapes.

    Returns:
        H v with the names and shapes of theta.
    """
    require_same_layout(theta, v, "direction")
    with twice_differentiable_attention():
        return jvp(grad(function), (theta,), ({name: v[name] for name in theta},))[1]


def second_directional_derivative(
    function: Callable[[Params], Float[Tensor, " n"]], theta: Params, v: Params
) -> Float[Tensor, " n"]:
    """Return v^T H_i v of every component f_i at once: d^2/dt^2 f_i(theta + t v) at t = 0.

    One pass for all n components, where Hessian-vector products need n (docs/method.md E.2).
    With multipliers u, d^2/dt^2 <u, f> is linear in u, and its gradient in u is the answer: three
    reverse sweeps. Two nested forward sweeps would be the obvious way, but PyTorch's second
    forward derivative of LayerNorm is silently wrong (pytorch issue 196700, seen in 2.15).

    Args:
        function: from parameters to n values that are not linear in them, such as p_c of every
            sample; memory grows with n.
        theta: where the Hessians are taken.
        v: direction, same names and shapes.

    Returns:
        n second derivatives, exact to rounding.
    """
    require_same_layout(theta, v, "direction")
    with torch.enable_grad(), twice_differentiable_attention():
        t = next(iter(theta.values())).new_zeros(()).requires_grad_()
        along = function({name: value.detach() + t * v[name] for name, value in theta.items()})
        u = torch.ones_like(along).requires_grad_()
        (first,) = torch.autograd.grad((u * along).sum(), t, create_graph=True)
        (second,) = torch.autograd.grad(first, t, create_graph=True)
        return torch.autograd.grad(second, u)[0]


def rademacher(theta: Params, variances: Mapping[str, float], *, seed: int, probe: int) -> Params:
    """Draw v_l = sigma_l * (+-1), so that E v^T H v = sum_l sigma_l^2 Tr(H_ll).

    Args:
        theta: gives names, shapes, dtype and device.
        variances: name -> sigma_l^2 >= 0.
        seed: of all probes.
        probe: number of the probe.

    Returns:
        v; 0 where sigma_l = 0.
    """
    source = generator(seed, "rademacher", probe)
    drawn = {}
    for name in sorted(theta):
        signs = torch.randint(0, 2, theta[name].shape, generator=source) * 2 - 1
        drawn[name] = signs.to(theta[name]) * math.sqrt(variances[name])
    return drawn


def weighted_hutchinson_trace(
    function: Callable[[Params], Float[Tensor, " n"]],
    theta: Params,
    variances: Mapping[str, float],
    *,
    probes: int,
    seed: int,
) -> TraceEstimate:
    """Estimate Tr_w(H_i) = sum_l sigma_l^2 Tr(H_i,ll) of every component (docs/method.md E.2).

    With f_i = p_c(x_i) and sigma_l^2 of :func:`pistole.method.criticality.layer_variances`,
    Theorem 2 says PCI = Tr_w / (2 p_c) + O(r^4). All components share the probes, so batches of
    samples may be estimated apart with the same seed.

    Args:
        function: from parameters to n values.
        theta: where the Hessians are taken.
        variances: name -> sigma_l^2.
        probes: number of Rademacher probes; the standard error falls with its root.
        seed: of the probes.

    Returns:
        The estimate, unbiased for any indefinite Hessian.

    Raises:
        UserError: probes < 1, or variances that are negative or do not name theta's tensors.
    """
    if probes < 1:
        raise UserError(f"probes is {probes}: give at least 1 Rademacher probe")
    if variances.keys() != theta.keys():
        first = min(variances.keys() ^ theta.keys())
        raise UserError(f"variances and parameters differ in {first!r}: give one per tensor")
    if not all(0 <= value < math.inf for value in variances.values()):
        raise UserError("a variance is negative or not finite: take them from layer_variances")
    require_finite(theta, "parameters")
    forms = torch.stack(
        [
            second_directional_derivative(
                function, theta, rademacher(theta, variances, seed=seed, probe=probe)
            )
            for probe in range(probes)
        ]
    )
    alone = torch.full_like(forms[0], math.inf)
    error = forms.std(0) / math.sqrt(probes) if probes > 1 else alone
    return TraceEstimate(trace=forms.mean(0), standard_error=error)
