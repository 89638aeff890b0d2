"""PCI: how a prediction's probability moves under weight noise (docs/method.md A.5)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pistole.errors import UserError, require_choice
from pistole.method.ball import layer_variances, perturbation
from pistole.method.vectors import Params, Real, require_finite
from pistole.seeds import generator

__all__ = ["PciEstimate", "antithetic_pci", "layer_variances", "pci_weights", "perturbation"]

KINDS = ("abs", "neg", "pos", "softplus", "rms", "one")


@dataclass(frozen=True)
class PciEstimate:
    """PCI of n samples.

    Attributes:
        pci: mean over the pairs of [p(+) + p(-) - 2p] / (2p), >= -1, signed.
        rms: sqrt of the mean of ((p(+-) - p) / p)^2 over all perturbations.
        first_half: PCI from the first half of the pairs (the larger one).
        second_half: PCI from the other pairs; 0 if there is only one pair.
    """

    pci: Float[Tensor, " n"]
    rms: Float[Tensor, " n"]
    first_half: Float[Tensor, " n"]
    second_half: Float[Tensor, " n"]


@torch.no_grad()
def antithetic_pci(
    log_prob: Callable[[Params], Float[Tensor, " n"]],
    theta: Params,
    *,
    eta: Real,
    pairs: int,
    dist: str,
    ball: str,
    perturb_1d: bool,
    seed: int,
) -> PciEstimate:
    """Estimate PCI(x, c, theta) = E[p_c(theta + Delta) - p_c(theta)] / p_c(theta).

    Antithetic pairs +Delta, -Delta (docs/method.md A.5.4): the odd terms of the expansion, which
    carry most of the variance and none of the mean, cancel exactly. All samples share the
    Deltas, so a pair costs two forward passes.

    Args:
        log_prob: from parameters to log p_c of every sample's class, fp32 without autocast: the
            signal is of the order of sigma^2.
        theta: the point.
        eta: relative radius of V_theta.
        pairs: number of antithetic pairs.
        dist: ``sphere``, ``ball`` or ``gaussian``.
        ball: ``layer`` or ``global``.
        perturb_1d: whether tensors of fewer than 2 dimensions move.
        seed: of the Deltas.

    Returns:
        The estimate; the same seed gives every class the same Deltas, so that
        sum_c p_c PCI_c = 0 holds exactly (docs/method.md A.5.1).

    Raises:
        UserError: pairs < 1, a bad ball or radius, or a relative change that is not finite.
    """
    if pairs < 1:
        raise UserError(f"pairs is {pairs}: give at least 1 antithetic pair")
    require_finite(theta, "parameters")
    before = log_prob(theta)
    halves = [torch.zeros_like(before), torch.zeros_like(before)]
    squares, first = torch.zeros_like(before), (pairs + 1) // 2
    for pair in range(pairs):
        delta = perturbation(
            theta,
            eta,
            dist=dist,
            ball=ball,
            perturb_1d=perturb_1d,
            generator=generator(seed, "pci", pair),
        )
        for sign in (1, -1):
            point = {name: value + sign * delta[name] for name, value in theta.items()}
            change = torch.expm1(log_prob(point) - before)
            halves[pair >= first] += change / 2
            squares += change.square() / 2
    if not torch.isfinite(squares).all():
        broken = int((~torch.isfinite(squares)).sum())
        raise UserError(f"PCI is not finite for {broken} samples: lower eta (now {eta})")
    return PciEstimate(
        pci=(halves[0] + halves[1]) / pairs,
        rms=(squares / pairs).sqrt(),
        first_half=halves[0] / first,
        second_half=halves[1] / max(pairs - first, 1),
    )


def _phi(estimate: PciEstimate, kind: str) -> Tensor:
    pci = estimate.pci
    if kind == "abs":
        return pci.abs()
    if kind == "neg":
        return torch.relu(-pci)
    if kind == "pos":
        return torch.relu(pci)
    if kind == "rms":
        return estimate.rms
    if kind == "softplus":
        # |PCI| << 1, so a fixed temperature would give every sample the weight ln 2.
        deviation = pci.std(correction=0)
        return torch.nn.functional.softplus(pci / deviation) if deviation > 0 else pci * 0
    return torch.ones_like(pci)


def pci_weights(
    estimate: PciEstimate, kind: str, *, clip_pct: Real, floor: Real
) -> Float[Tensor, " n"]:
    """Turn PCI into sample weights of mean 1 (docs/method.md A.5.2).

    w = phi(PCI) is clipped at a percentile, divided by its mean, then w <- floor + (1 - floor) w,
    so that no sample is dropped and none owns the gradient.

    Args:
        estimate: PCI of the whole calibration set.
        kind: phi: ``abs`` |PCI|, ``neg`` relu(-PCI), ``pos`` relu(PCI), ``softplus`` of PCI over
            its standard deviation, ``rms``, or ``one``.
        clip_pct: percentile in (0, 100].
        floor: least weight, in [0, 1].

    Returns:
        Weights of mean 1; all ones where phi is 0 for every sample.

    Raises:
        UserError: unknown kind, or a percentile or floor out of range.
    """
    require_choice("pci weight", kind, KINDS)
    if not 0 < clip_pct <= 100:
        raise UserError(f"clip_pct is {clip_pct}: give a percentile in (0, 100]")
    if not 0 <= floor <= 1:
        raise UserError(f"floor is {floor}: give a number in [0, 1]")
    phi = _phi(estimate, kind)
    phi = phi.clamp(max=torch.quantile(phi, clip_pct / 100).item())
    mean = phi.mean()
    if mean == 0:
        return torch.ones_like(phi)
    return floor + (1 - floor) * phi / mean
