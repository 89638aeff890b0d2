"""Fine-tuning that a kill does not change (docs/method.md B.1 to B.3)."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from pistole.errors import UserError
from pistole.files import load_tensors, save_tensors
from pistole.robust.checks import check_images
from pistole.robust.modes import frozen
from pistole.robust.objectives import objective_named
from pistole.robust.pgd import Budget
from pistole.seeds import generator

BETAS = (0.9, 0.999)  # of the code that made the released robust CLIPs (docs/method.md B.1)
MOMENTS = ("exp_avg", "exp_avg_sq", "step")

Batches = Callable[[int], tuple[list[str], Tensor, Tensor]]


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay, on every trained tensor.
        warmup: part of the steps with a linearly rising learning rate, in [0, 1).
        save_every: steps between states on disk; no part of the result.
    """

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float
    save_every: int = 50

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of its range.
        """
        for name in ("steps", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 1")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr is {self.lr}: give a positive number, such as 1e-5")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay is {self.weight_decay}: give 0 or more, such as 1e-4")
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup is {self.warmup}: give a fraction of the steps in [0, 1)")


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then cosine to 0 (docs/method.md B.1, RobustVLM's recipe).

    Args:
        step: 0, 1, 2, ...
        settings: peak, steps and warm-up.

    Returns:
        The rate of that step; a function of the step alone, so there is no schedule to save.
    """
    rising = round(settings.warmup * settings.steps)
    if step < rising:
        return settings.lr * (step + 1) / rising
    done = (step - rising) / (settings.steps - rising)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))


def fit(
    model: nn.Module,
    trainable: dict[str, nn.Parameter],
    batches: Batches,
    objective: str,
    settings: Settings,
    *,
    budget: Budget,
    seed: int,
    run_key: str,
    state_path: Path | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train some parameters of a model in place.

    The model stays in eval mode: BatchNorm's running statistics are buffers, which a task vector
    (a difference of parameters) cannot carry. Sources with statistics of their own would be merged
    under statistics that belong to none of them.

    A killed run goes on after its last saved step and ends with the same bytes. The state is used
    only if the run key and the recipe are equal, and stays on disk until :func:`forget_state`, so
    that the caller can first write the result.

    Args:
        model: from images in [0, 1] to logits.
        trainable: the model's parameters that get gradients.
        batches: from a step to (sample ids, images, labels) on the model's device.
        objective: name in :data:`pistole.robust.objectives.OBJECTIVES`.
        settings: how long and how fast.
        budget: the attack inside the objective.
        seed: of the attack's starts.
        run_key: names everything outside the recipe that the result depends on (base, data).
        state_path: where the state is kept; None keeps none.
        on_step: called after each step with its number and metrics.

    Returns:
        One record per step: ``step``, ``loss``, ``lr``, ``grad_norm`` and the objective's own.

    Raises:
        UserError: unknown objective, unfit images, or training diverged.
    """
    compute = objective_named(objective)
    optimiser = torch.optim.AdamW(
        list(trainable.values()), lr=settings.lr, betas=BETAS, weight_decay=settings.weight_decay
    )
    metadata = {"run_key": run_key, "recipe": _recipe(objective, settings, budget, seed)}
    with frozen(model):
        for parameter in trainable.values():
            parameter.requires_grad_(True)
        curve = _resume(state_path, trainable, optimiser, metadata)
        for step in range(len(curve), settings.steps):
            x, y = _batch(batches, step, settings.batch_size)
            loss, found = compute(model, x, y, budget, generator(seed, "start", step))
            norm = _differentiate(loss, list(trainable.values()))
            metrics = {"step": step, "loss": loss.item(), "lr": learning_rate(step, settings)}
            metrics |= {"grad_norm": norm, **found}
            _require_finite(metrics, settings.lr)
            for group in optimiser.param_groups:
                group["lr"] = metrics["lr"]
            optimiser.step()
            optimiser.zero_grad()
            curve.append(metrics)
            last = step + 1 == settings.steps
            if state_path is not None and (last or (step + 1) % settings.save_every == 0):
                _save(state_path, trainable, optimiser, metadata | {"curve": curve})
            if on_step is not None:
                on_step(step, metrics)
    return curve


def forget_state(state_path: Path) -> None:
    """Remove the state of a finished run.

    Args:
        state_path: as given to :func:`fit`; it may be absent.
    """
    state_path.unlink(missing_ok=True)


def _recipe(objective: str, settings: Settings, budget: Budget, seed: int) -> dict:
    values = {"objective": objective, "seed": seed, **asdict(settings), "budget": asdict(budget)}
    del values["save_every"]
    return values


def _batch(batches: Batches, step: int, size: int) -> tuple[Tensor, Tensor]:
    _, x, y = batches(step)
    check_images(x)
    if len(x) != size or len(y) != size:
        raise UserError(f"step {step} has {len(x)} images and {len(y)} labels: give {size} each")
    return x, y


def _differentiate(loss: Tensor, parameters: list[nn.Parameter]) -> float:
    """Set the gradients of these parameters alone and return their joint l2 norm."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return get_total_norm([g for g in gradients if g is not None]).item()


def _require_finite(metrics: dict[str, float], lr: float) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            raise UserError(
                f"training diverged: {name} is {metrics[name]} at step {metrics['step']}: "
                f"use a lower lr than {lr:g}"
            )


def _save(
    path: Path, trainable: dict[str, nn.Parameter], optimiser: torch.optim.AdamW, metadata: dict
) -> None:
    tensors: dict[str, Tensor] = {f"parameter/{n}": p for n, p in trainable.items()}
    for name, parameter in trainable.items():
        moments = optimiser.state.get(parameter, {})  # empty where the loss does not reach
        tensors |= {f"{moment}/{name}": value for moment, value in moments.items()}
    save_tensors(path, tensors, metadata)


@torch.no_grad()
def _resume(
    path: Path | None,
    trainable: dict[str, nn.Parameter],
    optimiser: torch.optim.AdamW,
    metadata: dict,
) -> list[dict[str, float]]:
    """Load the state of an equal run and return its curve, which is empty if there is none."""
    if path is None or not path.is_file():
        return []
    tensors, saved = load_tensors(path)
    if any(saved.get(key) != value for key, value in metadata.items()):
        return []
    for name, parameter in trainable.items():
        parameter.copy_(tensors[f"parameter/{name}"])
        found = {m: tensors[f"{m}/{name}"] for m in MOMENTS if f"{m}/{name}" in tensors}
        # AdamW keeps its step count on the CPU, the moments beside the parameter.
        optimiser.state[parameter] = {
            m: value if m == "step" else value.to(parameter.device) for m, value in found.items()
        }
    return saved["curve"]
