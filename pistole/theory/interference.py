"""Theorem 1: how much first-order interference a mask removes (docs/method.md A.6, E.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pistole.errors import UserError
from pistole.method.controls import permuted_masks
from pistole.method.layers import Part, gather
from pistole.method.masks import MaskSettings, stability_mask
from pistole.method.vectors import Params, Real, require_finite, require_same_layout


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


@dataclass(frozen=True)
class Sums:
    """The sums behind a contraction; those of disjoint layers add up to those of all of them.

    Attributes:
        terms: per gradient <g, M*tau>, <g, tau>, A(M), A(1), A(1) rho_w, ||M*tau||_1, ||tau||_1,
            ||M*tau||_2^2, ||tau||_2^2.
        highest: per gradient the largest M_j where g_j tau_j != 0; 0 if it is 0 everywhere.
    """

    terms: Float[Tensor, "gradients 9"]
    highest: Float[Tensor, " gradients"]

    def __add__(self, other: "Sums") -> "Sums":
        """Pool with the sums of other layers."""
        return Sums(self.terms + other.terms, torch.maximum(self.highest, other.highest))

    def contractions(self) -> list[Contraction]:
        """Return one contraction per gradient."""
        return [
            _contraction(terms, highest)
            for terms, highest in zip(self.terms.tolist(), self.highest.tolist(), strict=True)
        ]


class Exposure:
    """One layer of a task vector under the gradients of several points, before any mask.

    All in double precision; what no mask changes is computed once.
    """

    def __init__(self, gradients: Float[Tensor, "gradients d"], tau: Float[Tensor, " d"]) -> None:
        """Weigh the coordinates: w_j = |g_j tau_j| / sum_i |g_i tau_i| (docs/method.md A.6).

        Args:
            gradients: one row per point.
            tau: the layer of the task vector.
        """
        self.gradients, self.tau = gradients.double(), tau.double()
        products = (self.gradients * self.tau).abs()
        self.envelope = products.sum(1)
        self.weights = products / torch.where(self.envelope > 0, self.envelope, 1)[:, None]
        self.magnitudes = self.gradients.abs()
        self.signed = self.gradients @ self.tau
        self.norms = self.tau.abs().sum(), self.tau.square().sum()

    def under(self, mask: Float[Tensor, " d"]) -> Sums:
        """Sum what is left under a mask.

        Args:
            mask: M in [0, 1].

        Returns:
            One row of sums per gradient.
        """
        m = mask.double()
        kept = m * self.tau
        ours = (
            self.gradients @ kept,
            self.signed,
            self.magnitudes @ kept.abs(),
            self.envelope,
            self.envelope * (self.weights @ m),
        )
        shared = (kept.abs().sum(), self.norms[0], kept.square().sum(), self.norms[1])
        norms = torch.stack(shared).expand(len(self.gradients), -1)
        highest = (
            torch.where(self.weights > 0, m, 0).amax(1) if len(m) else torch.zeros_like(ours[0])
        )
        return Sums(torch.cat((torch.stack(ours, 1), norms), 1).cpu(), highest.cpu())


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom else math.nan


def _contraction(terms: list[float], highest: float) -> Contraction:
    signed, signed_1, envelope, envelope_1, weighted, kept_1, whole_1, kept_2, whole_2 = terms
    rho_w, retention = _ratio(weighted, envelope_1), _ratio(kept_1, whole_1)
    return Contraction(
        signed=signed,
        signed_unmasked=signed_1,
        envelope=envelope,
        envelope_unmasked=envelope_1,
        rho_w=rho_w,
        rho_max=highest if envelope_1 else math.nan,
        retention_l1=retention,
        retention_l2=math.sqrt(_ratio(kept_2, whole_2)),
        selectivity=_ratio(retention, rho_w),
    )


def contraction(gradient: Params, tau: Params, mask: Params) -> dict[str, Contraction]:
    """Measure Theorem 1 for one task vector, tensor by tensor and pooled (docs/method.md A.6).

    Args:
        gradient: g of the other objective (g_rob for tau_nat), best from images that the mask
            has not seen.
        tau: task vector, same names and shapes.
        mask: its mask, in [0, 1], same names and shapes.

    Returns:
        tensor -> its contraction, and ``all`` over all tensors together.

    Raises:
        UserError: another layout, tensors that are not finite, or a mask outside [0, 1].
    """
    require_same_layout(gradient, tau, "task vector")
    require_same_layout(gradient, mask, "mask")
    require_finite(gradient, "gradient")
    require_finite(tau, "task vector")
    found = {}
    for name, g in gradient.items():
        if not ((mask[name] >= 0) & (mask[name] <= 1)).all():
            raise UserError(f"mask: tensor {name!r} leaves [0, 1]: run stage masks again")
        exposure = Exposure(g.detach().flatten()[None], tau[name].detach().flatten())
        found[name] = exposure.under(mask[name].detach().flatten())
    return {name: sums.contractions()[0] for name, sums in pooled(found).items()}


def pooled(layers: dict[str, Sums]) -> dict[str, Sums]:
    """Add the entry ``all``: the sums over all layers.

    Args:
        layers: layer -> its sums; at least one.

    Returns:
        The layers and ``all``.
    """
    total, *rest = layers.values()
    for sums in rest:
        total += sums
    return layers | {"all": total}


def layer_sums(
    gradients: Sequence[Params],
    tau: Params,
    scores: Params,
    layer: tuple[str, list[Part]],
    settings: Sequence[MaskSettings],
    *,
    seed: int,
) -> list[tuple[Sums, Sums]]:
    """Hold one layer under the masks of many settings (docs/method.md E.1).

    The mask is made from the scores once per setting, for all gradients. The permuted mask of
    docs/method.md A.10 is had by shuffling the pairs (g_j, tau_j) once, in place of every mask: a
    shuffle is as likely as its inverse.

    Args:
        gradients: of the other objective, one per point.
        tau: task vector, same names and shapes.
        scores: sensitivity of the other objective, from which its mask is made.
        layer: its name and parts, see :func:`pistole.method.layers.layers`.
        settings: how the scores become masks.
        seed: of the shuffle.

    Returns:
        Per setting the sums under the mask and under the permuted mask, a row per gradient.
    """
    name, parts = layer
    s = gather(scores, parts)
    rows = [gather(part, parts) for part in (*gradients, tau)]
    shuffled = [permuted_masks({name: row}, seed=seed)[name] for row in rows]
    aimed, aimless = (Exposure(torch.stack(r[:-1]), r[-1]) for r in (rows, shuffled))
    masks = (stability_mask(s, setting) for setting in settings)
    return [(aimed.under(mask), aimless.under(mask)) for mask in masks]


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
