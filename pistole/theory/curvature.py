"""Theorem 2: the weighted Hessian trace that PCI estimates (docs/method.md A.5.3, E.2)."""

import contextlib
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pistole.errors import UserError
from pistole.method.vectors import Params, require_finite, require_same_layout, zeros_like
from pistole.seeds import generator


@dataclass(frozen=True)
class TraceEstimate:
    """Hutchinson's estimate of a weighted trace, per sample.

    Attributes:
        forms: v^T H_i v of every probe v; their mean estimates the trace.
    """

    forms: Float[Tensor, "probes n"]

    @property
    def trace(self) -> Float[Tensor, " n"]:
        """The mean over the probes."""
        return self.forms.mean(0)

    @property
    def standard_error(self) -> Float[Tensor, " n"]:
        """The standard error of that mean; infinite with one probe."""
        probes = len(self.forms)
        if probes == 1:
            return torch.full_like(self.forms[0], math.inf)
        return self.forms.std(0) / math.sqrt(probes)


@contextlib.contextmanager
def twice_differentiable_attention() -> Generator[None]:
    """Use attention kernels that have second derivatives (docs/method.md E.2).

    Flash and memory-efficient attention have no double backward, and the inference path of
    ``nn.MultiheadAttention`` has no derivative. Both settings are restored.

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


def hessian_operator(
    function: Callable[[Params], Float[Tensor, ""]], theta: Params
) -> Callable[[Params], Params]:
    """Return v -> H v of a scalar function, reverse over reverse (docs/method.md E.2, E.3).

    The graph of the gradient is made once and kept as long as the operator is, so that each
    further product costs one reverse sweep through it.

    Args:
        function: from parameters to a scalar.
        theta: where H is taken.

    Returns:
        From a direction with theta's names and shapes to H v with the same.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
    inputs = list(leaves.values())
    with torch.enable_grad(), twice_differentiable_attention():
        gradient = torch.autograd.grad(function(leaves), inputs, create_graph=True)

    # Where the function is linear in a tensor, its gradient is a constant without a graph.
    curved = {name: g for name, g in zip(leaves, gradient, strict=True) if g.requires_grad}

    def product(v: Params) -> Params:
        require_same_layout(theta, v, "direction")
        if not curved:
            return zeros_like(theta)
        found = torch.autograd.grad(
            list(curved.values()),
            inputs,
            [v[name] for name in curved],
            retain_graph=True,
            materialize_grads=True,  # 0 where no gradient depends on a tensor
        )
        return dict(zip(leaves, found, strict=True))

    return product


def directional_derivatives(
    function: Callable[[Params], Float[Tensor, " n"]], theta: Params, v: Params
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return v^T grad f_i and v^T H_i v of every component at once (docs/method.md E.2).

    Args:
        function: as :func:`second_directional_derivative` takes it.
        theta: where the derivatives are taken.
        v: direction, same names and shapes.

    Returns:
        n first and n second derivatives along v, exact to rounding.
    """
    with torch.enable_grad(), twice_differentiable_attention():
        t, u, first = _along(function, theta, v)
        (slopes,) = torch.autograd.grad(first, u, retain_graph=True)
        (second,) = torch.autograd.grad(first, t, create_graph=True)
        return slopes, torch.autograd.grad(second, u)[0]


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
    with torch.enable_grad(), twice_differentiable_attention():
        t, u, first = _along(function, theta, v)
        (second,) = torch.autograd.grad(first, t, create_graph=True)
        return torch.autograd.grad(second, u)[0]


def _along(
    function: Callable[[Params], Tensor], theta: Params, v: Params
) -> tuple[Tensor, Tensor, Tensor]:
    """Return t = 0, multipliers u = 1, and d/dt <u, f(theta + t v)> with its graph."""
    require_same_layout(theta, v, "direction")
    t = next(iter(theta.values())).new_zeros(()).requires_grad_()
    along = function({name: value.detach() + t * v[name] for name, value in theta.items()})
    u = torch.ones_like(along).requires_grad_()
    (first,) = torch.autograd.grad((u * along).sum(), t, create_graph=True)
    return t, u, first


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
    return TraceEstimate(forms)
