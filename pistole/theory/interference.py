"""Theorem 1: how much first-order interference a mask removes (docs/method.md A.6, E.1)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pistole.errors import UserError
from pistole.method.vectors import Params, Real, require_finite, require_same_layout
from pistole.seeds import generator


@dataclass(frozen=True)
class Contraction:
    """What one mask does to one task vector under the other objective's gradient g.

    Ratios are NaN where the denominator is 0: nothing interferes, or nothing is left.

    Attributes:
        signed: <g, M*tau>.
        signed_unmasked: <g, tau>.
        envelope: sum_j |g_j| M_j |tau_j|, never below |signed|.
        envelope_unmasked: the same with M = 1.
        rho_w: sum_j w_j M_j with w_j = |g_j tau_j| / sum: the envelope's ratio, by Theorem 1.
        rho_max: largest M_j where w_j > 0.
        retention_l1: r = ||M*tau||_1 / ||tau||_1.
        retention_l2: ||M*tau||_2 / ||tau||_2.
        selectivity: S = r / rho_w; 1 for uniform shrinkage, more if the mask aims well.
    """

    signed: float
    signed_unmasked: float
    envelope: float
    envelope_unmasked: float
    rho_w: float
    rho_max: float
    retention_l1: float
    retention_l2: float
    selectivity: float


@dataclass(frozen=True)
class Interference:
    """Both directions together, mixed by lambda as the merge mixes them.

    Attributes:
        signed: I(M) = lambda |<g_rob, M_nat*tau_nat>| + (1-lambda) |<g_nat, M_rob*tau_rob>|.
        signed_unmasked: I(1).
        envelope: A(M), the same sums of absolute terms.
        envelope_unmasked: A(1).
        rho_w: A(M) / A(1) as Theorem 1 predicts it from both rho_w; NaN if A(1) = 0.
        rho: max(rho_nat, rho_rob), the theorem's bound on A(M) / A(1).
        rho_max: the looser bound by the largest mask on the support.
    """

    signed: float
    signed_unmasked: float
    envelope: float
    envelope_unmasked: float
    rho_w: float
    rho: float
    rho_max: float


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom else math.nan


def interference_weights(gradient: Params, tau: Params) -> Params:
    """Return w_j = |g_j tau_j| / sum_i |g_i tau_i| over all layers (docs/method.md A.6).

    Args:
        gradient: g of the other objective.
        tau: task vector, same names and shapes.

    Returns:
        Weights in double precision that sum to 1; all 0 if nothing interferes.

    Raises:
        UserError: another layout, or tensors that are not finite.
    """
    require_same_layout(gradient, tau, "task vector")
    require_finite(gradient, "gradient")
    require_finite(tau, "task vector")
    products = {name: (g.double() * tau[name].double()).abs() for name, g in gradient.items()}
    total = sum(value.sum().item() for value in products.values())
    return {name: value / total if total else value for name, value in products.items()}


def contraction(gradient: Params, tau: Params, mask: Params) -> dict[str, Contraction]:
    """Measure Theorem 1 for one task vector, layer by layer and pooled (docs/method.md A.6).

    Args:
        gradient: g of the other objective (g_rob for tau_nat), best from images that the mask
            has not seen.
        tau: task vector, same names and shapes.
        mask: its mask, in [0, 1], same names and shapes.

    Returns:
        layer -> its contraction, and ``all`` over all layers together.

    Raises:
        UserError: another layout, tensors that are not finite, or a mask outside [0, 1].
    """
    weights = interference_weights(gradient, tau)
    require_same_layout(gradient, mask, "mask")
    rows, total, highest = {}, torch.zeros(10, dtype=torch.float64), 0.0
    for name, weight in weights.items():
        m = mask[name].detach().double()
        if not ((m >= 0) & (m <= 1)).all():
            raise UserError(f"mask: tensor {name!r} leaves [0, 1]: run stage masks again")
        sums = _sums(gradient[name].detach().double(), tau[name].detach().double(), m, weight)
        most = m[weight > 0].max().item() if (weight > 0).any() else 0.0
        rows[name] = _contraction(sums, most)
        total, highest = total + sums, max(highest, most)
    return rows | {"all": _contraction(total, highest)}


def _sums(g: Tensor, t: Tensor, m: Tensor, w: Tensor) -> Tensor:
    kept = m * t
    parts = (g * kept, g * t, g.abs() * m * t.abs(), g.abs() * t.abs(), w * m, w)
    parts += (kept.abs(), t.abs(), kept.square(), t.square())
    return torch.stack([part.sum() for part in parts]).cpu()


def _contraction(sums: Tensor, most: float) -> Contraction:
    signed, signed_1, envelope, envelope_1, kept_w, whole_w, *norms = sums.tolist()
    rho_w = _ratio(kept_w, whole_w)
    retention = _ratio(norms[0], norms[1])
    return Contraction(
        signed=signed,
        signed_unmasked=signed_1,
        envelope=envelope,
        envelope_unmasked=envelope_1,
        rho_w=rho_w,
        rho_max=most if whole_w else math.nan,
        retention_l1=retention,
        retention_l2=math.sqrt(_ratio(norms[2], norms[3])),
        selectivity=_ratio(retention, rho_w),
    )


def interference(nat: Contraction, rob: Contraction, *, lam: Real) -> Interference:
    """Mix both directions by lambda (docs/method.md A.6, Theorem 1 (i)).

    Args:
        nat: contraction of tau_nat under g_rob.
        rob: contraction of tau_rob under g_nat.
        lam: weight of the natural vector, in [0, 1].

    Returns:
        Signed interference, envelope and the theorem's bounds.

    Raises:
        UserError: lam outside [0, 1].
    """
    if not 0 <= lam <= 1:
        raise UserError(f"lambda is {lam}: give the weight of the natural vector, in [0, 1]")

    def mix(left: float, right: float) -> float:
        return lam * left + (1 - lam) * right

    before = mix(nat.envelope_unmasked, rob.envelope_unmasked)
    shares = (lam * nat.envelope_unmasked, (1 - lam) * rob.envelope_unmasked)
    active = [(part, share) for part, share in zip((nat, rob), shares, strict=True) if share]
    predicted = math.fsum(share * part.rho_w for part, share in active)
    return Interference(
        signed=mix(abs(nat.signed), abs(rob.signed)),
        signed_unmasked=mix(abs(nat.signed_unmasked), abs(rob.signed_unmasked)),
        envelope=mix(nat.envelope, rob.envelope),
        envelope_unmasked=before,
        rho_w=_ratio(predicted, before),
        rho=max((part.rho_w for part, _ in active), default=math.nan),
        rho_max=max((part.rho_max for part, _ in active), default=math.nan),
    )


def permuted_masks(masks: Params, *, seed: int) -> Params:
    """Shuffle each layer's mask: the same values on the wrong coordinates (docs/method.md E.1).

    The control of the contraction check: its selectivity is near 1.

    Args:
        masks: name -> mask.
        seed: of the permutations, one per layer.

    Returns:
        Masks with the same shapes and, per layer, the same values.
    """
    shuffled = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator(seed, "permuted mask", name))
        shuffled[name] = mask.flatten()[order.to(mask.device)].view(mask.shape)
    return shuffled
