"""APT: gradients along a normalised ascent path in parameter space (docs/method.md A.4)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from pistole.errors import UserError
from pistole.method.ball import group_norm, groups, require_radius
from pistole.method.vectors import Params, Real, require_finite, require_same_layout

VARIANTS = ("gism", "gism_pci", "gism_apt", "pistole")
TINY = 1e-12

Triple = tuple[Params, Params, Params]


@dataclass(frozen=True)
class StepGradients:
    """Mean gradients of the loss over two disjoint calibration halves of equal size.

    Attributes:
        plain: unweighted, one per half; the gradient of the whole set is their mean.
        weighted: weighted by PCI weights that were normalised over the whole set.
    """

    plain: tuple[Params, Params]
    weighted: tuple[Params, Params]


@dataclass(frozen=True)
class PathScores:
    """Scores of all variants from one trajectory.

    Attributes:
        scores: variant -> score per coordinate, from the whole calibration set.
        halves: variant -> the same score from each half alone, on the same trajectory.
    """

    scores: dict[str, Params]
    halves: dict[str, tuple[Params, Params]]


def trajectory_scores(
    theta_s: Params,
    gradients: Callable[[int, Params], StepGradients],
    *,
    steps: int,
    eta: Real,
    beta: Real | None = None,
    ball: str = "layer",
    perturb_1d: bool = False,
) -> PathScores:
    """Walk uphill from theta_s and accumulate gradient magnitudes (docs/method.md A.3.1, A.4).

    ``gism`` is |G| at theta_s, ``gism_pci`` its PCI-weighted form; ``gism_apt`` and ``pistole``
    are their means over the steps. The magnitude is taken after the mean over samples and before
    the sum over steps: signed sums could cancel, and then a coordinate that matters on the way
    would go unmasked. The path climbs the unweighted loss of the whole set.

    Args:
        theta_s: parameters of the source, where the path starts.
        gradients: from the step's number and point to its gradients; called once per step.
        steps: K, number of points; the first is theta_s.
        eta: radius of the ball over the norm of theta_s.
        beta: ascent step over the norm of theta_s; None means 2 eta / K.
        ball: ``layer`` or ``global``.
        perturb_1d: whether tensors of fewer than 2 dimensions move.

    Returns:
        Scores >= 0 with the names and shapes of theta_s.

    Raises:
        UserError: steps < 1, eta or beta not positive, unknown ball, or gradients that are not
            finite or of another layout.
    """
    if steps < 1:
        raise UserError(f"K is {steps}: the trajectory needs at least 1 point")
    require_radius(eta)
    beta = 2 * eta / steps if beta is None else beta
    if not 0 < beta < float("inf"):
        raise UserError(f"beta is {beta}: give the relative ascent step, a number above 0")
    require_finite(theta_s, "source")
    walk = _walk(theta_s, gradients, steps, eta=eta, beta=beta, ball=ball, perturb_1d=perturb_1d)
    first = path = next(walk)
    for here in walk:
        path = (_add(path[0], here[0]), _add(path[1], here[1]))
    mean = (_divide(path[0], steps), _divide(path[1], steps))
    triples = dict(zip(VARIANTS, (*first, *mean), strict=True))
    return PathScores(
        scores={variant: triple[0] for variant, triple in triples.items()},
        halves={variant: triple[1:] for variant, triple in triples.items()},
    )


def _walk(
    theta_s: Params,
    gradients: Callable[[int, Params], StepGradients],
    steps: int,
    *,
    eta: Real,
    beta: Real,
    ball: str,
    perturb_1d: bool,
) -> Iterator[tuple[Triple, Triple]]:
    """Yield the plain and the weighted magnitudes at every point of the path."""
    theta = theta_s
    for step in range(steps):
        found = gradients(step, theta)
        _check(theta_s, found, step)
        yield _magnitudes(found.plain), _magnitudes(found.weighted)
        if step + 1 < steps:
            uphill = _mean(*found.plain)
            theta = ascend_and_project(
                theta, theta_s, uphill, eta=eta, beta=beta, ball=ball, perturb_1d=perturb_1d
            )


def ascend_and_project(
    theta: Params,
    theta_s: Params,
    direction: Params,
    *,
    eta: Real,
    beta: Real,
    ball: str,
    perturb_1d: bool,
) -> Params:
    """Take one normalised ascent step and project on the ball around theta_s (docs/method.md A.4).

    theta <- Proj( theta + beta ||theta_s|| U / (||U|| + 1e-12) ) on ||theta - theta_s|| <=
    eta ||theta_s||, per group of the ball.

    Args:
        theta: the current point.
        theta_s: centre of the ball.
        direction: U, the gradient to climb.
        eta: radius over norm.
        beta: step over norm.
        ball: ``layer`` or ``global``.
        perturb_1d: whether tensors of fewer than 2 dimensions move.

    Returns:
        The next point; tensors that do not move are those of theta.
    """
    following = dict(theta)
    for names in groups(theta_s, ball, perturb_1d):
        norm = group_norm(theta_s, names)
        step = beta * norm / (group_norm(direction, names) + TINY)
        offset = {name: theta[name] + step * direction[name] - theta_s[name] for name in names}
        length = group_norm(offset, names)
        shrink = min(1.0, eta * norm / length) if length else 1.0
        following |= {name: theta_s[name] + shrink * offset[name] for name in names}
    return following


def _check(theta_s: Params, found: StepGradients, step: int) -> None:
    for half in (*found.plain, *found.weighted):
        require_same_layout(theta_s, half, f"gradient of step {step}")
        require_finite(half, f"gradient of step {step}")


def _mean(first: Params, second: Params) -> Params:
    return {name: (first[name] + second[name]) / 2 for name in first}


def _magnitudes(halves: tuple[Params, Params]) -> Triple:
    full, first, second = (
        {name: torch.abs(value) for name, value in part.items()}
        for part in (_mean(*halves), *halves)
    )
    return full, first, second


def _add(left: Triple, right: Triple) -> Triple:
    full, first, second = (
        {name: a[name] + b[name] for name in a} for a, b in zip(left, right, strict=True)
    )
    return full, first, second


def _divide(triple: Triple, steps: int) -> Triple:
    full, first, second = ({name: value / steps for name, value in part.items()} for part in triple)
    return full, first, second
