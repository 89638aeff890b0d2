"""APT: gradients along a normalised ascent path in parameter space (docs/method.md A.4).

Memory is what limits this for large models, so nothing is kept that a step can give up: the scores
of the first point leave before the path goes on, and the sums of the calibration halves live where
the caller says, which may be a file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pistole.errors import UserError, require_choice
from pistole.method.ball import group_norm, groups, require_radius
from pistole.method.scores import STATISTICS, Micro, accumulate, magnitude
from pistole.method.vectors import Params, Real, require_finite, zeros_like

VARIANTS = ("gism", "gism_pci", "gism_apt", "pistole")
TINY = 1e-12


@runtime_checkable
class PointGradients(Protocol):
    """Gradients of the loss at one point of the path."""

    def micro(self, half: int, weighted: bool) -> Micro:
        """Yield the gradients of one half of the calibration images, micro-batch by micro-batch.

        Args:
            half: 0 or 1; the halves are disjoint and of equal size.
            weighted: by PCI weights that were normalised over both halves, or not at all.

        Returns:
            Number of images and the mean of their gradients, per micro-batch.
        """
        ...


@dataclass(frozen=True)
class VariantScores:
    """The score of one variant.

    Attributes:
        variant: one of :data:`VARIANTS`.
        scores: per coordinate, from the whole calibration set.
        halves: the same score from each half alone, on the same trajectory.
    """

    variant: str
    scores: Params
    halves: tuple[Params, Params]


class _Accumulator:
    """Running sum over the path of one score and of the same score from each half."""

    def __init__(self, like: Params, allocate: Callable[[Params], Params]) -> None:
        self.full = zeros_like(like)
        self.halves = (allocate(like), allocate(like))
        self.first = allocate(like)  # the first half's sum, while the second half's is made

    def add(self, point: PointGradients, weighted: bool, statistic: str) -> Params | None:
        """Add one point; return the mean gradient where the unweighted path needs it."""
        signed = zeros_like(self.full) if not weighted and statistic != "abs_mean" else None
        total, images = zeros_like(self.full), 0
        for half, store in enumerate(self.halves):
            count = accumulate(point.micro(half, weighted), statistic, total, signed)
            images += count
            for name, value in total.items():
                store[name] += magnitude(value, count, statistic).to(store[name].device)
                if half == 0:
                    self.first[name].copy_(value)
                    value.zero_()
        for name, value in total.items():
            value += self.first[name].to(value.device)
            self.full[name] += magnitude(value, images, statistic)
        if weighted:
            return None
        return _scaled(total if signed is None else signed, 1 / images)

    def scores(self, variant: str) -> VariantScores:
        """Return the sums under a variant's name; they are not copied."""
        return VariantScores(variant, self.full, self.halves)

    def divide(self, steps: int) -> None:
        """Turn sums over the path into means."""
        for part in (self.full, *self.halves):
            _scaled(part, 1 / steps)


def _scaled(params: Params, factor: float) -> Params:
    for value in params.values():
        value *= factor
    return params


def trajectory_scores(
    theta_s: Params,
    gradients: Callable[[int, Params], PointGradients],
    *,
    steps: int,
    eta: Real,
    beta: Real | None = None,
    ball: str = "layer",
    perturb_1d: bool = False,
    statistic: str = "abs_mean",
    allocate: Callable[[Params], Params] = zeros_like,
) -> Iterator[VariantScores]:
    """Walk uphill from theta_s and accumulate gradient magnitudes (docs/method.md A.3.1, A.4).

    ``gism`` is the score at theta_s, ``gism_pci`` its PCI-weighted form; ``gism_apt`` and
    ``pistole`` are their means over the steps. The magnitude is taken after the mean over samples
    and before the sum over steps: signed sums could cancel, and then a coordinate that matters on
    the way would go unmasked. The path climbs the unweighted loss of the whole set.

    Args:
        theta_s: parameters of the source, where the path starts.
        gradients: from the step's number and point to its gradients; called once per step.
        steps: K, number of points; the first is theta_s.
        eta: radius of the ball over the norm of theta_s.
        beta: ascent step over the norm of theta_s; None means 2 eta / K.
        ball: ``layer`` or ``global``.
        perturb_1d: whether tensors of fewer than 2 dimensions move.
        statistic: ``abs_mean``, ``mean_abs`` or ``rms``.
        allocate: makes zeros for the sums of a half: on the CPU or in a file, to spare memory.

    Yields:
        The four variants in turn. The tensors are working memory: write or copy them before the
        next one is asked for.

    Raises:
        UserError: steps < 1, eta or beta not positive, unknown ball or statistic, or gradients
            that are not finite or of another layout.
    """
    if steps < 1:
        raise UserError(f"K is {steps}: the trajectory needs at least 1 point")
    require_radius(eta)
    require_choice("score_stat", statistic, STATISTICS)
    beta = 2 * eta / steps if beta is None else beta
    if not 0 < beta < float("inf"):
        raise UserError(f"beta is {beta}: give the relative ascent step, a number above 0")
    require_finite(theta_s, "source")
    plain, weighted = (_Accumulator(theta_s, allocate) for _ in range(2))
    theta = theta_s
    for step in range(steps):
        point = gradients(step, theta)
        weighted.add(point, True, statistic)
        uphill = plain.add(point, False, statistic)
        if step == 0:
            yield plain.scores("gism")
            yield weighted.scores("gism_pci")
        if step + 1 < steps and uphill is not None:
            theta = ascend_and_project(
                theta, theta_s, uphill, eta=eta, beta=beta, ball=ball, perturb_1d=perturb_1d
            )
        del uphill  # before the next point needs the room
    for part, variant in ((plain, "gism_apt"), (weighted, "pistole")):
        part.divide(steps)
        yield part.scores(variant)


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
