"""Curvature of a mean loss, with the chance of directions and of images (docs/method.md E.3).

The images are split into parts, and every part gets directions of its own. So the values of the
parts are independent draws of one quantity, and their standard error holds both kinds of chance.
Directions that all images share would cost as much and leave the chance of the images out. Models
are compared on the same parts and directions.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pistole.errors import UserError
from pistole.method.ball import perturbation
from pistole.method.vectors import Params, Real, require_finite
from pistole.seeds import generator
from pistole.theory.curvature import hessian_operator, rademacher

Losses = Sequence[Callable[[Params], Float[Tensor, ""]]]


def weighted_traces(
    losses: Losses, theta: Params, variances: Mapping[str, float], *, probes: int, seed: int
) -> Float[Tensor, " parts"]:
    """Estimate Tr_w(H) = sum_l sigma_l^2 Tr(H_ll) of every part's loss (docs/method.md E.3).

    Args:
        losses: mean loss of every part's images, from parameters to a scalar.
        theta: where H is taken.
        variances: name -> sigma_l^2 of :func:`pistole.method.ball.layer_variances`.
        probes: Rademacher probes of every part.
        seed: of the probes.

    Returns:
        The mean of v^T H v over a part's probes, in float64: unbiased for its weighted trace.

    Raises:
        UserError: no parts, probes < 1, or parameters that are not finite.
    """
    _require(losses, theta, probes, "probes")
    forms = []
    for k, loss in enumerate(losses):
        operator = hessian_operator(loss, theta)
        for probe in range(k * probes, (k + 1) * probes):
            v = rademacher(theta, variances, seed=seed, probe=probe)
            product = operator(v)
            forms.append(sum(torch.sum(v[n] * product[n], dtype=torch.float64) for n in v))
    return torch.stack(forms).cpu().unflatten(0, (len(losses), probes)).mean(1)


@torch.no_grad()
def average_sharpness(
    losses: Losses,
    theta: Params,
    *,
    eta: Real,
    dist: str,
    ball: str,
    perturb_1d: bool,
    pairs: int,
    seed: int,
) -> Float[Tensor, " parts"]:
    """Estimate E_Delta L(theta + Delta) - L(theta) of every part (docs/method.md E.3).

    Antithetic pairs: [L(theta + Delta) + L(theta - Delta)] / 2 - L(theta), whose mean is
    Tr_w(H) / 2 + O(r^4).

    Args:
        losses: as above, in a precision that the small differences survive.
        theta: the point.
        eta: relative radius of V_theta.
        dist: ``sphere``, ``ball`` or ``gaussian``.
        ball: ``layer`` or ``global``.
        perturb_1d: whether tensors of fewer than 2 dimensions move.
        pairs: antithetic pairs of every part.
        seed: of the Deltas.

    Returns:
        The mean over a part's pairs, in float64.

    Raises:
        UserError: no parts, pairs < 1, a bad ball or radius, or parameters that are not finite.
    """
    _require(losses, theta, pairs, "pairs")
    changes = []
    for k, loss in enumerate(losses):
        before = loss(theta).double()
        for pair in range(k * pairs, (k + 1) * pairs):
            delta = perturbation(
                theta,
                eta,
                dist=dist,
                ball=ball,
                perturb_1d=perturb_1d,
                generator=generator(seed, "sharpness", pair),
            )
            points = [{n: theta[n] + sign * delta[n] for n in theta} for sign in (1, -1)]
            changes.append(sum(loss(point).double() for point in points) / 2 - before)
    return torch.stack(changes).cpu().unflatten(0, (len(losses), pairs)).mean(1)


def standard_error(values: Float[Tensor, " parts"]) -> float:
    """Return the standard error of the mean of independent values.

    Args:
        values: one per part.

    Returns:
        The error; infinite with one part.
    """
    return math.inf if len(values) < 2 else values.std().item() / math.sqrt(len(values))


def _require(losses: Losses, theta: Params, directions: int, what: str) -> None:
    if directions < 1:
        raise UserError(f"{what} is {directions}: give at least 1 direction per part")
    if not losses:
        raise UserError("there are no images to measure the curvature on: give at least one")
    require_finite(theta, "parameters")
