"""Two identities behind PCI, checked to rounding (docs/method.md A.5.1)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pistole.method.vectors import Params
from pistole.theory.curvature import (
    directional_derivatives,
    rademacher,
    second_directional_derivative,
)


@dataclass(frozen=True)
class Error:
    """How far the two sides of an identity are apart.

    Attributes:
        absolute: largest difference.
        relative: largest difference over the size of the terms that cancel in it.
    """

    absolute: float
    relative: float


def chain_rule_error(
    prob: Callable[[Params], Float[Tensor, " n"]],
    loss: Callable[[Params], Float[Tensor, " n"]],
    theta: Params,
    variances: Mapping[str, float],
    *,
    probes: int,
    seed: int,
) -> Error:
    """Check Tr(H_p) / p = ||grad l||^2 - Tr(H_l) with l = -log p (docs/method.md A.5.1).

    It holds for every probe v alone: v^T H_p v / p = (v^T grad l)^2 - v^T H_l v. Both sides take
    the same probes v_l = sigma_l * (+-1), so their means are the weighted traces.

    Args:
        prob: from parameters to p of n samples.
        loss: from parameters to l of the same samples, computed in another way than from p.
        theta: where the derivatives are taken.
        variances: name -> sigma_l^2.
        probes: number of probes.
        seed: of the probes.

    Returns:
        The largest error over probes and samples; relative to (v^T grad l)^2 + |v^T H_l v|.
    """
    with torch.no_grad():
        p = prob(theta)
    absolute = relative = 0.0
    for probe in range(probes):
        v = rademacher(theta, variances, seed=seed, probe=probe)
        left = second_directional_derivative(prob, theta, v) / p
        slope, curvature = directional_derivatives(loss, theta, v)
        error = (left - (slope.square() - curvature)).abs()
        size = slope.square() + curvature.abs()
        absolute = max(absolute, error.max().item())
        relative = max(relative, _largest_ratio(error, size))
    return Error(absolute, relative)


def zero_sum_error(pci: Float[Tensor, "n classes"], p: Float[Tensor, "n classes"]) -> Error:
    """Check sum_c p_c PCI_c = 0 over all classes of a sample (docs/method.md A.5.1).

    Args:
        pci: PCI of every class with the same perturbations.
        p: probability of every class.

    Returns:
        The largest error over the samples; relative to sum_c |p_c PCI_c|.
    """
    changes = p.double() * pci.double()
    error, size = changes.sum(1).abs(), changes.abs().sum(1)
    return Error(error.max().item(), _largest_ratio(error, size))


def _largest_ratio(error: Tensor, size: Tensor) -> float:
    """Largest error over size; 0 where both are 0."""
    return torch.where(size > 0, error / size, error).max().item()
