"""What adding a vector does to a loss, against its first-order term (docs/method.md A.6, E.1)."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pistole.errors import UserError
from pistole.method.controls import uniform_masks
from pistole.method.vectors import Params, Real, require_same_layout
from pistole.theory.selectivity import Estimate, normal_interval

CHANGES = ("masked", "unmasked", "uniform")


@dataclass(frozen=True)
class LossChange:
    """A change of the mean loss.

    Attributes:
        true: L(theta + v) - L(theta), with its interval over images.
        first_order: <g, v>, what Theorem 1 speaks of.
        second_order_share: 1 - first_order / true: the part that the first order misses; NaN if
            the loss does not change.
    """

    true: Estimate
    first_order: float
    second_order_share: float


def displacement(kind: str, tau: Params, mask: Params) -> Params:
    """Return the masked vector or one of its two controls (docs/method.md A.10, E.1).

    Args:
        kind: ``masked``: M*tau; ``unmasked``: tau; ``uniform``: tau shrunk in every tensor to the
            l2 norm of M*tau.
        tau: task vector.
        mask: its mask, same names and shapes.

    Returns:
        The displacement.
    """
    if kind == "unmasked":
        return tau
    even = uniform_masks(mask, tau) if kind == "uniform" else mask
    return {name: even[name] * value for name, value in tau.items()}


def own_weight(source: str, lam: Real) -> Real:
    """Return the weight of a source's own vector in the merge (docs/method.md A.7).

    Args:
        source: ``natural`` or ``robust``.
        lam: lambda, the weight of the natural vector.

    Returns:
        lambda or 1 - lambda.
    """
    return lam if source == "natural" else 1 - lam


def self_displacement(tau: Params, mask: Params, *, share: Real) -> Params:
    """Return what the merge takes away from a source's own vector (docs/method.md A.6, remark 5).

    theta - theta_s = (cross term) - (1 - share M_s)*tau_s, share the weight of tau_s in the merge.

    Args:
        tau: the source's own task vector.
        mask: its mask, same names and shapes.
        share: of :func:`own_weight`.

    Returns:
        -(1 - share M)*tau.
    """
    require_same_layout(tau, mask, "mask")
    return {name: (share * mask[name] - 1) * value for name, value in tau.items()}


def moved(theta: Params, v: Params) -> Params:
    """Return theta + v on theta's device.

    Args:
        theta: a point.
        v: a displacement, same names and shapes.

    Returns:
        The other point.
    """
    return {name: value + v[name].to(value.device) for name, value in theta.items()}


def inner_product(gradient: Params, v: Params) -> float:
    """Return <g, v> over all tensors, summed in double precision.

    Args:
        gradient: g.
        v: a displacement, same names and shapes.

    Returns:
        The first-order change of the loss.
    """
    require_same_layout(gradient, v, "displacement")
    return math.fsum(
        (g.double() * v[name].to(g.device).double()).sum().item() for name, g in gradient.items()
    )


def mean_difference(before: Float[Tensor, " n"], after: Float[Tensor, " n"]) -> Estimate:
    """Estimate the change of a mean over images, image by image.

    Args:
        before: one value per image, at least 2 images.
        after: the values of the same images.

    Returns:
        Mean of the differences with its interval by the normal approximation.

    Raises:
        UserError: fewer than 2 images.
    """
    if len(before) < 2:
        raise UserError(f"{len(before)} images: an interval needs at least 2, raise slices.measure")
    change = after.double() - before.double()
    return normal_interval(change.mean().item(), (change.std() / len(change) ** 0.5).item())


def loss_change(
    before: Float[Tensor, " n"], after: Float[Tensor, " n"], first_order: Real
) -> LossChange:
    """Compare the true change of a loss with its first-order term (docs/method.md E.1).

    Args:
        before: loss per image at theta.
        after: loss of the same images at theta + v.
        first_order: <g, v> with the mean gradient at theta.

    Returns:
        The change.
    """
    true = mean_difference(before, after)
    share = 1 - first_order / true.value if true.value else math.nan
    return LossChange(true=true, first_order=float(first_order), second_order_share=share)
