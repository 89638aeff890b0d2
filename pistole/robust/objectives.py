"""Fine-tuning objectives (docs/method.md B.0), by name."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pistole.errors import require_choice
from pistole.robust.pgd import Budget, pgd

Objective = Callable[
    [nn.Module, Tensor, Tensor, Budget, torch.Generator], tuple[Tensor, dict[str, float]]
]


def _cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, float]]:
    logits = model(x)
    accuracy = (logits.detach().argmax(1) == y).float().mean().item()
    return cross_entropy(logits, y), {"accuracy": accuracy}


def erm(
    model: nn.Module, x: Tensor, y: Tensor, budget: Budget, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the clean images (docs/method.md B.0, ERM).

    Args:
        model: from images in [0, 1] to logits [n, C].
        x: images [n, 3, h, w].
        y: labels [n].
        budget: not used.
        generator: not used.

    Returns:
        The mean loss, and the batch's clean accuracy.
    """
    return _cross_entropy(model, x, y)


def tecoa(
    model: nn.Module, x: Tensor, y: Tensor, budget: Budget, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of adversarial images (docs/method.md B.0, TeCoA).

    Args:
        model: from images in [0, 1] to logits [n, C].
        x: clean images [n, 3, h, w].
        y: labels [n].
        budget: the attack inside training.
        generator: draws the attack's start.

    Returns:
        The mean loss, and the batch's accuracy under the attack.
    """
    return _cross_entropy(model, pgd(model, x, y, budget, generator=generator), y)


OBJECTIVES: dict[str, Objective] = {"erm": erm, "tecoa": tecoa}


def objective_named(name: str) -> Objective:
    """Look an objective up.

    Args:
        name: a key of ``OBJECTIVES``.

    Returns:
        The objective.

    Raises:
        UserError: there is none of that name.
    """
    require_choice("objective", name, OBJECTIVES)
    return OBJECTIVES[name]
