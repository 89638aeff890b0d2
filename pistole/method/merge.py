"""The merge itself (docs/method.md A.7)."""

import torch
from torch import Tensor

from pistole.errors import UserError, require_choice
from pistole.method.vectors import Params, Real, require_finite, require_same_layout

RESCALES = ("none", "norm")


def require_ingredients(theta_0: Params, tau_nat: Params, tau_rob: Params, lam: Real) -> None:
    """Refuse what cannot be merged.

    Args:
        theta_0: the base.
        tau_nat: natural task vector.
        tau_rob: robust task vector.
        lam: mixing coefficient.

    Raises:
        UserError: lam outside [0, 1], tensors of another layout or not finite.
    """
    if not 0 <= lam <= 1:
        raise UserError(f"lambda is {lam}: give the weight of the natural vector, in [0, 1]")
    require_finite(theta_0, "base")
    for tau, what in ((tau_nat, "natural task vector"), (tau_rob, "robust task vector")):
        require_same_layout(theta_0, tau, what)
        require_finite(tau, what)


def _masked(tau: Tensor, mask: Tensor, rescale: str) -> Tensor:
    kept = mask * tau
    if rescale == "none":
        return kept
    norms = [torch.linalg.vector_norm(t, dtype=torch.float64).item() for t in (tau, kept)]
    return kept * (norms[0] / norms[1]) if norms[1] else kept


def merge(
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    masks: tuple[Params, Params],
    *,
    lam: Real,
    rescale: str = "none",
) -> Params:
    """Add the masked vectors to the base (docs/method.md A.7).

    theta = theta_0 + lambda M_nat*tau_nat + (1 - lambda) M_rob*tau_rob.

    Args:
        theta_0: the base.
        tau_nat: natural task vector, same names and shapes.
        tau_rob: robust task vector, same names and shapes.
        masks: M_nat and M_rob, in [0, 1], same names and shapes.
        lam: weight of the natural vector, in [0, 1].
        rescale: ``none``, or ``norm`` to give each masked layer its norm before the mask.

    Returns:
        The merged parameters.

    Raises:
        UserError: lam outside [0, 1], unknown rescale, a mask outside [0, 1], or tensors of
            another layout or not finite.
    """
    require_choice("rescale", rescale, RESCALES)
    require_ingredients(theta_0, tau_nat, tau_rob, lam)
    for part, what in zip(masks, ("natural mask", "robust mask"), strict=True):
        require_same_layout(theta_0, part, what)
        for name, mask in part.items():
            if not ((mask >= 0) & (mask <= 1)).all():
                raise UserError(f"{what}: tensor {name!r} leaves [0, 1]: run stage masks again")
    m_nat, m_rob = masks
    # The two terms are added first, so that exchanging the sources exchanges nothing in fp32.
    return {
        name: base
        + (
            lam * _masked(tau_nat[name], m_nat[name], rescale)
            + (1 - lam) * _masked(tau_rob[name], m_rob[name], rescale)
        )
        for name, base in theta_0.items()
    }
