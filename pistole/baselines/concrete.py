"""Concrete subspace learning (Tang et al., 2023; docs/method.md C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pistole.baselines.coefficients import LearnedCoefficients, composed, learned
from pistole.baselines.learning import Descent, Loss, OnStep, descend, ignore
from pistole.baselines.rule import Rule
from pistole.errors import UserError, require_choice
from pistole.method.vectors import Params, Real, zeros_like
from pistole.seeds import generator

INIT = 0.3
DESCENT = Descent(steps=2000, lr=1e-3)  # Adam
MASKS = ("sample", "median", "hard")
TINY = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class ConcreteTaskArithmetic(Rule):
    """theta_0 + alpha m * sum_t w_t tau_t with one learned mask m of mean 1 per tensor.

    The mask's logits x minimise the mean entropy of the merged model under draws of
    m' ~ RelaxedBernoulli(x, T), m = m'/mean(m'). Data need: unlabelled. Defaults of the official
    repository: x = 0 at first, T = 0.5, Adam of rate 1e-3, 2000 steps of 16 images, alpha = 0.3,
    m a last draw. Deviation: held-out training images, where the original learns on test images.
    The mask is learned once for both vectors (w = 1): the lambda axis weighs the masked
    contributions, and at weights (1, 1) this is the learned merge itself.

    Statistics: ``mask/TENSOR``, m in the tensor's shape.
    """

    needs: ClassVar[str | None] = "concrete"
    scaling: float = INIT

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        added = sum(weight * delta for weight, delta in zip(weights, deltas, strict=True))
        return base + self.scaling * (stored_mask(self, name, base) * added)


@dataclass(frozen=True, kw_only=True)
class ConcreteAdaMerging(LearnedCoefficients):
    """theta_0 + alpha m * sum_t w_t c_t^l tau_t^l: a learned mask, then learned coefficients.

    The mask is learned as for :class:`ConcreteTaskArithmetic`, where each step first moves the
    coefficients from 0.3 by one gradient step of rate 1 and takes the mask's gradient there; with
    the mask held, the coefficients are then learned as AdaMerging's. Half of the steps are for
    each, 1000 and 1000 in the official repository. Deviations: that inner step is a plain gradient
    step, where the original's is one of Adam with rate 1, which moves every coefficient by about 1
    whatever its gradient; held-out training images. Data need: unlabelled.

    Statistics: ``mask/TENSOR``, ``natural/TENSOR`` and ``robust/TENSOR``.
    """

    needs: ClassVar[str | None] = "concrete_am"

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        mask = stored_mask(self, name, base)
        return super().tensor(name, base, [mask * delta for delta in deltas], weights, survey)


def stored_mask(rule: Rule, name: str, base: Tensor) -> Tensor:
    """Read one tensor's mask from a rule's statistics.

    Args:
        rule: the rule.
        name: of the tensor.
        base: the tensor that the mask has to fit.

    Returns:
        m, on the device and in the precision of the base.

    Raises:
        UserError: it is missing, not finite, or of another shape.
    """
    mask = learned(rule, f"mask/{name}").to(base)
    if mask.shape != base.shape:
        raise UserError(
            f"statistic 'mask/{name}' has shape {tuple(mask.shape)}, not {tuple(base.shape)}: "
            f"prepare '{rule.needs}' for this model"
        )
    return mask


def relaxed_bernoulli(
    logits: Float[Tensor, "..."], uniform: Float[Tensor, "..."], temperature: Real
) -> Float[Tensor, "..."]:
    """Draw m' = sigmoid((x + log u - log(1 - u)) / T) of RelaxedBernoulli(x, T), reparametrised.

    Args:
        logits: x.
        uniform: u, draws from U(0, 1).
        temperature: T; towards 0 the draw becomes that of a Bernoulli variable.

    Returns:
        Values in (0, 1), differentiable in x; their median over u is sigmoid(x / T).
    """
    uniform = uniform.clamp(TINY, 1 - TINY)
    return torch.sigmoid((logits + uniform.log() - (-uniform).log1p()) / temperature)


def mean_one(mask: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Rescale a mask: m = m'/mean(m'), which leaves the sum of a constant tensor.

    Args:
        mask: m', not negative.

    Returns:
        m; zeros if there is nothing but zeros.
    """
    return mask / mask.mean().clamp(min=torch.finfo(mask.dtype).tiny)


def drawn_masks(
    logits: Params, temperature: Real, *seed: int | str, kind: str = "sample"
) -> Params:
    """Draw the mask of every tensor.

    Args:
        logits: x by tensor.
        temperature: T.
        *seed: what the draw belongs to.
        kind: ``sample`` of the relaxed variable, ``hard`` for one of the Bernoulli variable with
            the same logits, or ``median`` of the relaxed one, which draws nothing.

    Returns:
        m by tensor, of mean 1 each.
    """
    require_choice("mask", kind, MASKS)
    device = next(iter(logits.values())).device
    source, masks = generator(*seed, device=device), {}
    for name, value in logits.items():
        uniform = torch.rand(value.shape, generator=source, device=device, dtype=value.dtype)
        if kind == "median":
            uniform = torch.full_like(uniform, 0.5)
        soft = relaxed_bernoulli(value, uniform, temperature)
        masks[name] = mean_one((soft > 0.5).to(value) if kind == "hard" else soft)
    return masks


def masked(vectors: Sequence[Params], masks: Params) -> list[Params]:
    """Multiply each task vector with the shared mask.

    Args:
        vectors: task vectors.
        masks: m by tensor.

    Returns:
        m * tau_t, differentiable in m.
    """
    return [{name: masks[name] * value for name, value in vector.items()} for vector in vectors]


def learn_mask(
    theta_0: Params,
    vectors: Sequence[Params],
    loss: Loss,
    descent: Descent,
    *,
    seed: int,
    init: Real = INIT,
    temperature: Real = 0.5,
    inner: tuple[Loss, Real] | None = None,
    on_step: OnStep = ignore,
) -> tuple[Params, list[float]]:
    """Minimise a loss of theta_0 + sum_t c_t m * tau_t over the logits of m (docs/method.md C).

    Args:
        theta_0: the base.
        vectors: T task vectors, same names and shapes.
        loss: of merged parameters and the step's number.
        descent: how long and how fast.
        seed: of the draws of m.
        init: c, of all vectors and tensors.
        temperature: T.
        inner: a loss and the rate of one gradient step on c per tensor and vector, which starts at
            ``init`` in every step and is not differentiated (Concrete AdaMerging); None leaves c
            as it is.
        on_step: called after each step.

    Returns:
        The logits by tensor, and the loss before each step.

    Raises:
        UserError: the temperature is not positive, or learning diverged.
    """
    if not 0 < temperature < float("inf"):
        raise UserError(f"temperature is {temperature}: give a positive number, such as 0.5")
    logits = {name: value.requires_grad_() for name, value in zeros_like(theta_0).items()}
    like = next(iter(theta_0.values()))
    first = torch.full(
        (len(vectors), len(theta_0), 1), float(init), device=like.device, dtype=like.dtype
    )

    def outer(step: int) -> Tensor:
        masks = drawn_masks(logits, temperature, seed, "concrete", step)
        coefficients = first
        if inner is not None:
            held = masked(vectors, {name: mask.detach() for name, mask in masks.items()})
            coefficients = _stepped(theta_0, held, first, inner, step)
        return loss(composed(theta_0, masked(vectors, masks), coefficients), step)

    losses = descend(list(logits.values()), outer, descent, on_step=on_step)
    return {name: value.detach() for name, value in logits.items()}, losses


def _stepped(
    theta_0: Params, held: Sequence[Params], first: Tensor, inner: tuple[Loss, Real], step: int
) -> Tensor:
    coefficients, (loss, rate) = first.clone().requires_grad_(), inner
    value = loss(composed(theta_0, held, coefficients), step)
    (gradient,) = torch.autograd.grad(value, coefficients)
    return first - rate * gradient
