"""The neighbourhood V_theta of a point in parameter space (docs/method.md A.4, A.5.3).

A ball is a list of groups of tensors; each group has the radius eta * (its own norm). The
layer-wise ball has one group per tensor (as adversarial weight perturbation does), the global
ball has one group for all.
"""

import torch
from torch import Tensor

from pistole.errors import UserError, require_choice
from pistole.method.vectors import Params, Real, zeros_like

BALLS = ("layer", "global")
DISTRIBUTIONS = ("sphere", "ball", "gaussian")


def groups(theta: Params, ball: str, perturb_1d: bool) -> list[list[str]]:
    """Name the tensors that move, by the ball they move in.

    Args:
        theta: name -> tensor.
        ball: ``layer`` or ``global``.
        perturb_1d: whether tensors of fewer than 2 dimensions (biases, norm gains) move.

    Returns:
        Groups of names, sorted so that random draws do not depend on the order of ``theta``.

    Raises:
        UserError: unknown ball.
    """
    require_choice("ball", ball, BALLS)
    moved = [name for name in sorted(theta) if perturb_1d or theta[name].ndim > 1]
    return [[name] for name in moved] if ball == "layer" else [moved]


def group_norm(params: Params, names: list[str]) -> float:
    """Return the Frobenius norm of some tensors together, summed in double precision.

    Args:
        params: name -> tensor.
        names: which of them.

    Returns:
        sqrt of the sum of squares; 0 for no names.
    """
    return sum(_square(params[name]) for name in names) ** 0.5


def _square(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).item() ** 2


def require_radius(eta: Real) -> None:
    """Refuse a relative radius that is not a positive number.

    Args:
        eta: radius over norm.

    Raises:
        UserError: eta <= 0, NaN or infinite.
    """
    if not 0 < eta < float("inf"):
        raise UserError(f"eta is {eta}: give the relative radius of the ball, a number above 0")


def perturbation(
    theta: Params,
    eta: Real,
    *,
    dist: str,
    ball: str,
    perturb_1d: bool,
    generator: torch.Generator,
) -> Params:
    """Draw an isotropic Delta in V_theta (docs/method.md A.5).

    Per group of d coordinates and radius r = eta * norm: uniform on the sphere of radius r,
    uniform in the ball of radius r, or Gaussian N(0, r^2/d I).

    Args:
        theta: the point.
        eta: relative radius.
        dist: ``sphere``, ``ball`` or ``gaussian``.
        ball: ``layer`` or ``global``.
        perturb_1d: whether tensors of fewer than 2 dimensions move.
        generator: source of randomness; a CPU generator gives every device the same Delta.

    Returns:
        Delta with the names, shapes, dtype and device of theta; 0 where nothing moves.
    """
    require_radius(eta)
    require_choice("dist", dist, DISTRIBUTIONS)
    delta = zeros_like(theta)
    for names in groups(theta, ball, perturb_1d):
        radius = eta * group_norm(theta, names)
        size = sum(theta[name].numel() for name in names)
        for name in names:
            value = theta[name]
            noise = torch.randn(
                value.shape, generator=generator, dtype=value.dtype, device=generator.device
            )
            delta[name] = noise.to(value.device)
        if dist == "gaussian":
            factor = radius / max(size, 1) ** 0.5
        else:
            factor = radius / (group_norm(delta, names) or 1.0)
        if dist == "ball":
            uniform = torch.rand((), generator=generator, device=generator.device).item()
            factor *= uniform ** (1 / max(size, 1))
        for name in names:
            delta[name].mul_(factor)
    return delta


def layer_variances(
    theta: Params, *, eta: Real, dist: str, ball: str, perturb_1d: bool
) -> dict[str, float]:
    """Return sigma_l^2, the variance of one coordinate of Delta (docs/method.md A.5.3).

    r^2/d on the sphere and for the Gaussian, r^2/(d+2) in the ball, with d and r of the group.

    Args:
        theta: the point.
        eta: relative radius.
        dist: ``sphere``, ``ball`` or ``gaussian``.
        ball: ``layer`` or ``global``.
        perturb_1d: whether tensors of fewer than 2 dimensions move.

    Returns:
        name -> sigma_l^2; 0 for tensors that do not move.
    """
    require_radius(eta)
    require_choice("dist", dist, DISTRIBUTIONS)
    variances = dict.fromkeys(theta, 0.0)
    for names in groups(theta, ball, perturb_1d):
        size = sum(theta[name].numel() for name in names) + (2 if dist == "ball" else 0)
        variance = (eta * group_norm(theta, names)) ** 2 / max(size, 1)
        variances |= dict.fromkeys(names, variance)
    return variances
