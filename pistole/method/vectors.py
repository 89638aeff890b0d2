"""Task vectors and the checks that every function on named tensors shares (docs/method.md A.2)."""

import torch
from torch import Tensor

from pistole.errors import UserError

Params = dict[str, Tensor]
Real = float | int  # the runtime type checker takes an int for no float


def zeros_like(params: Params) -> Params:
    """Return zeros of the same names, shapes, dtype and device.

    Args:
        params: name -> tensor.

    Returns:
        New tensors.
    """
    return {name: torch.zeros_like(value) for name, value in params.items()}


def require_same_layout(reference: Params, other: Params, what: str) -> None:
    """Refuse named tensors that differ from the reference in a name or a shape.

    Args:
        reference: name -> tensor.
        other: what should have the same names and shapes.
        what: what ``other`` is, for the message.

    Raises:
        UserError: a tensor is missing, extra, or of another shape; names the first.
    """
    remedy = "give tensors of one and the same architecture"
    missing = sorted(reference.keys() - other.keys())
    extra = sorted(other.keys() - reference.keys())
    if missing:
        raise UserError(f"{what}: tensor {missing[0]!r} is missing: {remedy}")
    if extra:
        raise UserError(f"{what}: tensor {extra[0]!r} is not in the other model: {remedy}")
    for name in sorted(reference):
        ours, theirs = tuple(reference[name].shape), tuple(other[name].shape)
        if ours != theirs:
            raise UserError(f"{what}: tensor {name!r} has shape {theirs}, not {ours}: {remedy}")


def require_finite(params: Params, what: str) -> None:
    """Refuse NaN and infinity.

    Args:
        params: name -> tensor.
        what: what they are, for the message.

    Raises:
        UserError: a tensor is not finite; names the first.
    """
    for name in sorted(params):
        if not torch.isfinite(params[name]).all():
            raise UserError(
                f"{what}: tensor {name!r} is not finite (NaN or infinity): make it again"
            )


def task_vector(theta_s: Params, theta_0: Params) -> Params:
    """Subtract the base: tau_s = theta_s - theta_0 (docs/method.md A.2).

    Args:
        theta_s: fine-tuned parameters, any floating dtype.
        theta_0: parameters of the base, same names and shapes.

    Returns:
        tau_s in fp32, per name the shape of theta_0.
    """
    require_same_layout(theta_0, theta_s, "fine-tuned model")
    require_finite(theta_0, "base")
    require_finite(theta_s, "fine-tuned model")
    return {name: theta_s[name].float() - theta_0[name].float() for name in theta_0}


def vector_statistics(tau_nat: Params, tau_rob: Params) -> dict[str, float]:
    """Describe how the two task vectors lie to each other (docs/method.md A.2).

    Args:
        tau_nat: natural task vector.
        tau_rob: robust task vector, same names and shapes.

    Returns:
        ``norm_natural`` and ``norm_robust`` (l2), ``cosine`` (0 if a vector is 0) and
        ``sign_agreement``: the share of equal signs where neither coordinate is 0 (0 if none is).
    """
    require_same_layout(tau_nat, tau_rob, "robust task vector")
    require_finite(tau_nat, "natural task vector")
    require_finite(tau_rob, "robust task vector")
    squares_nat = squares_rob = product = 0.0
    moved = equal = 0
    for name, left in tau_nat.items():
        a, b = left.double(), tau_rob[name].double()
        squares_nat += a.square().sum().item()
        squares_rob += b.square().sum().item()
        product += (a * b).sum().item()
        signs = a.sign() * b.sign()
        moved += int((signs != 0).sum())
        equal += int((signs > 0).sum())
    norms = squares_nat**0.5, squares_rob**0.5
    return {
        "norm_natural": norms[0],
        "norm_robust": norms[1],
        "cosine": product / (norms[0] * norms[1]) if all(norms) else 0.0,
        "sign_agreement": equal / moved if moved else 0.0,
    }
