"""Optimisers and their schedule (docs/method.md B.1)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from pistole.errors import UserError, require_choice

BETAS = (0.9, 0.999)  # of the code that made the released robust CLIPs (docs/method.md B.1)
MOMENTUM = 0.9  # of TeCoA, PMG-AFT and TGA-ZSR alike
OPTIMISERS = ("adamw", "sgd")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step, over all parts and processes.
        lr: peak learning rate.
        weight_decay: on every trained tensor: decoupled (adamw) or added to the gradient (sgd).
        warmup: steps with a linearly rising learning rate: a part of all in [0, 1), or a number.
        save_every: steps between states on disk; no part of the result.
        optimiser: ``adamw``, or ``sgd`` with momentum 0.9.
        accumulate: parts that a process computes its share of a batch in; saves memory.
        precision: of the update on CUDA: ``fp32``, or ``bf16`` by autocast. Attacks are fp32.
    """

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float
    save_every: int = 50
    optimiser: str = "adamw"
    accumulate: int = 1
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of its range.
        """
        for name in ("steps", "batch_size", "save_every", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 1")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr is {self.lr}: give a positive number, such as 1e-5")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay is {self.weight_decay}: give 0 or more, such as 1e-4")
        whole = self.warmup >= 1 and self.warmup == int(self.warmup)
        if not (0 <= self.warmup < 1 or (whole and self.warmup < self.steps)):
            raise UserError(
                f"warmup is {self.warmup}: give a fraction of the steps in [0, 1), or a whole "
                f"number of steps below {self.steps}"
            )
        require_choice("optimizer", self.optimiser, OPTIMISERS)
        require_choice("precision", self.precision, PRECISIONS)


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then cosine to 0 (docs/method.md B.1, RobustVLM's recipe).

    Args:
        step: 0, 1, 2, ...
        settings: peak, steps and warm-up.

    Returns:
        The rate of that step; a function of the step alone, so there is no schedule to save.
    """
    part = settings.warmup * settings.steps if settings.warmup < 1 else settings.warmup
    rising = round(part)
    if step < rising:
        return settings.lr * (step + 1) / rising
    done = (step - rising) / (settings.steps - rising)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))


def optimiser_of(parameters: Iterable[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """Make the optimiser; the rate of each step is set by :func:`learning_rate`.

    Args:
        parameters: what is trained.
        settings: optimiser, rate and weight decay.

    Returns:
        AdamW with betas (0.9, 0.999), or SGD with momentum 0.9.
    """
    rate, decay = settings.lr, settings.weight_decay
    if settings.optimiser == "sgd":
        return torch.optim.SGD(list(parameters), lr=rate, momentum=MOMENTUM, weight_decay=decay)
    return torch.optim.AdamW(list(parameters), lr=rate, betas=BETAS, weight_decay=decay)
