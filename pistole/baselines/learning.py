"""What the merging methods that learn share: gradient descent on few numbers, entropy.

A learner gets its loss as a function of parameters and step number, and knows nothing of images or
models (docs/method.md C).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import get_total_norm

from pistole.errors import UserError
from pistole.method.vectors import Params, Real

BETAS = (0.9, 0.999)  # of AdaMerging's, aTLAS's, Concrete's and DisTaC's code alike
Loss = Callable[[Params, int], Tensor]
OnStep = Callable[[], object]


def ignore() -> None:
    """Do nothing, where nobody wants to be told of a step."""


@dataclass(frozen=True)
class Descent:
    """How long and how fast to learn.

    Attributes:
        steps: gradient steps; 0 learns nothing.
        lr: rate of AdamW, constant.
        weight_decay: decoupled; 0 makes it Adam.
        clip: largest l2 norm of a gradient; longer ones are shortened. None means any.
    """

    steps: int
    lr: Real
    weight_decay: Real = 0.0
    clip: Real | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of its range.
        """
        if self.steps < 0:
            raise UserError(f"steps is {self.steps}: give 0 or more gradient steps")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr is {self.lr}: give a positive number, such as 1e-3")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay is {self.weight_decay}: give 0 or more, such as 0.1")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise UserError(f"clip is {self.clip}: give a positive gradient norm, such as 1")


def descend(
    parameters: Sequence[Tensor],
    loss: Callable[[int], Tensor],
    descent: Descent,
    *,
    project: OnStep = ignore,
    on_step: OnStep = ignore,
) -> list[float]:
    """Minimise a loss over some tensors in place.

    Args:
        parameters: leaves that require gradients.
        loss: of the step's number, at the parameters' present values.
        descent: how long and how fast.
        project: puts the parameters back where they may be, after each step.
        on_step: called after each step.

    Returns:
        The loss before each step.

    Raises:
        UserError: a loss or its gradient is not finite.
    """
    optimiser = torch.optim.AdamW(
        list(parameters), lr=descent.lr, betas=BETAS, weight_decay=descent.weight_decay
    )
    losses = []
    for step in range(descent.steps):
        value = loss(step)
        gradients = torch.autograd.grad(value, list(parameters), materialize_grads=True)
        norm = get_total_norm(gradients).item()
        losses.append(value.item())
        if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
            raise UserError(
                f"learning diverged: loss is {losses[-1]}, gradient norm {norm} at step {step}: "
                f"use a lower lr than {descent.lr:g}, or check the task vectors"
            )
        shrink = 1.0 if descent.clip is None or norm <= descent.clip else descent.clip / norm
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient if shrink == 1 else gradient * shrink
        del value, gradients
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            project()
        on_step()
    return losses


def mean_entropy(logits: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Mean over images of H(softmax z) = -sum_c p_c log p_c (docs/method.md C, AdaMerging).

    Args:
        logits: z.

    Returns:
        The mean, in nats, at least 0.
    """
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1).mean()
