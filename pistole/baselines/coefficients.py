"""Learned coefficients of task vectors: the merge of AdaMerging and aTLAS (docs/method.md C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pistole.baselines.learning import Descent, Loss, OnStep, descend, ignore
from pistole.baselines.rule import Rule
from pistole.baselines.sources import SOURCES
from pistole.errors import UserError, require_choice
from pistole.method.vectors import Params, Real
from pistole.seeds import generator

GRAINS = ("task", "layer")
BOUNDS = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class LearnedCoefficients(Rule):
    """theta_0 + alpha sum_t w_t c_t^l tau_t^l with learned c.

    They were learned once, on the vectors as they are (w = 1): the lambda axis weighs the learned
    contributions, and at weights (1, 1) and ``scaling`` 1 this is the learned merge itself.

    Statistics: ``natural/TENSOR`` and ``robust/TENSOR``, of one element, or of one per part of
    :func:`partition`; the same number for every tensor where a method learns one per vector.
    """

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        if len(deltas) > len(SOURCES):
            raise UserError(
                f"{len(deltas)} task vectors, but the coefficients of '{self.needs}' belong to a "
                "natural and a robust one: give these two"
            )
        added = torch.zeros_like(base)
        for source, delta, weight in zip(SOURCES, deltas, weights, strict=False):
            coefficient = learned(self, f"{source}/{name}").to(base)
            added += weight * (spread(coefficient.reshape(-1), name, base.shape) * delta)
        return base + self.scaling * added


def learned(rule: Rule, key: str) -> Tensor:
    """Read one statistic of a rule.

    Args:
        rule: the rule.
        key: its name.

    Returns:
        The tensor.

    Raises:
        UserError: it is missing, or not finite.
    """
    value = rule.statistic(key)
    if not torch.isfinite(value).all():
        raise UserError(
            f"statistic {key!r} is not finite (NaN or infinity): prepare '{rule.needs}' again"
        )
    return value


def partition(name: str, shape: Sequence[int], parts: int) -> Int[Tensor, "..."]:
    """Divide a tensor's coordinates into random parts of equal size (aTLAS x K).

    Args:
        name: of the tensor, which alone decides the draw: the merge finds the parts that the
            coefficients were learned for without having to store them.
        shape: of the tensor.
        parts: K.

    Returns:
        The number of its part per coordinate, on the CPU.
    """
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=generator("atlas", "partition", name, parts))
    return (order % parts).reshape(tuple(shape))


def spread(
    coefficients: Float[Tensor, " k"], name: str, shape: Sequence[int]
) -> Float[Tensor, "..."]:
    """Give each coordinate of a tensor its coefficient.

    Args:
        coefficients: one per part.
        name: of the tensor.
        shape: of the tensor.

    Returns:
        A 0-dim tensor if there is one part, else one of the given shape; differentiable.
    """
    if len(coefficients) == 1:
        return coefficients[0]
    return coefficients[partition(name, shape, len(coefficients)).to(coefficients.device)]


def composed(
    theta_0: Params, vectors: Sequence[Params], coefficients: Float[Tensor, "t l k"]
) -> Params:
    """theta_0^l + sum_t c_t^l tau_t^l, differentiable in c: dL/dc_t^l = <dL/dtheta^l, tau_t^l>.

    Args:
        theta_0: the base.
        vectors: T task vectors, same names and shapes.
        coefficients: per vector, per tensor in the base's order (or one for all), per part.

    Returns:
        The merged parameters.
    """
    theta = {}
    for place, (name, base) in enumerate(theta_0.items()):
        row = place if coefficients.shape[1] > 1 else 0
        theta[name] = base + sum(
            spread(coefficients[t, row], name, base.shape) * vector[name]
            for t, vector in enumerate(vectors)
        )
    return theta


def learn_coefficients(
    theta_0: Params,
    vectors: Sequence[Params],
    loss: Loss,
    descent: Descent,
    *,
    grain: str,
    init: Real,
    parts: int = 1,
    clamp: bool = False,
    on_step: OnStep = ignore,
) -> tuple[Float[Tensor, "t l k"], list[float]]:
    """Minimise a loss of the merged parameters over the coefficients (docs/method.md C).

    Args:
        theta_0: the base.
        vectors: T task vectors, same names and shapes.
        loss: of merged parameters and the step's number.
        descent: how long and how fast.
        grain: ``task``: one coefficient per vector; ``layer``: one per vector and tensor.
        init: first value of all.
        parts: K, random parts of a tensor, each with its own coefficient.
        clamp: whether each step ends with the nearest point of [0, 1].
        on_step: called after each step.

    Returns:
        The coefficients, as :func:`composed` takes them, and the loss before each step.

    Raises:
        UserError: no vector, an unknown grain, parts < 1, parts without ``layer``, or learning
            diverged.
    """
    require_choice("grain", grain, GRAINS)
    if parts < 1 or (parts > 1 and grain == "task"):
        raise UserError(f"parts is {parts} with grain '{grain}': give 1, or more with 'layer'")
    if not vectors:
        raise UserError("0 task vectors: give at least one to learn a coefficient for")
    rows = len(theta_0) if grain == "layer" else 1
    like = next(iter(theta_0.values()))
    coefficients = torch.full(
        (len(vectors), rows, parts), float(init), device=like.device, dtype=like.dtype
    ).requires_grad_()
    losses = descend(
        [coefficients],
        lambda step: loss(composed(theta_0, vectors, coefficients), step),
        descent,
        project=(lambda: coefficients.clamp_(*BOUNDS)) if clamp else ignore,
        on_step=on_step,
    )
    return coefficients.detach(), losses


def named(coefficients: Float[Tensor, "t l k"], names: Sequence[str]) -> Params:
    """Name coefficients as :class:`LearnedCoefficients` reads them.

    Args:
        coefficients: of at most two vectors, as :func:`composed` takes them.
        names: the tensors, in the base's order.

    Returns:
        ``SOURCE/TENSOR`` -> its coefficients.
    """
    return {
        f"{source}/{name}": rows[place if len(rows) > 1 else 0].clone()
        for source, rows in zip(SOURCES, coefficients, strict=False)
        for place, name in enumerate(names)
    }
