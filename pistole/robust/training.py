"""Fine-tuning that a kill does not change (docs/method.md B.1 to B.3)."""

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from pistole.errors import UserError
from pistole.robust.checks import check_images
from pistole.robust.modes import device_of, frozen
from pistole.robust.objectives import Batch, Classifier, Objective
from pistole.robust.optimisers import Settings, learning_rate, optimiser_of
from pistole.robust.pgd import Budget, draw_noise
from pistole.robust.resume import load_state, save_state
from pistole.robust.workers import ALONE, Workers
from pistole.seeds import generator

AUTOCAST = ("cuda",)  # device types whose updates may run in bfloat16

Batches = Callable[[int, slice], tuple[list[str], Tensor, Tensor]]


def fit(
    model: nn.Module,
    trainable: dict[str, nn.Parameter],
    batches: Batches,
    objective: Objective,
    settings: Settings,
    *,
    budget: Budget,
    seed: int,
    run_key: str,
    workers: Workers = ALONE,
    state_path: Path | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """Train some parameters of a model in place.

    The model stays in eval mode: BatchNorm's running statistics are buffers, which a task vector
    (a difference of parameters) cannot carry. Sources with statistics of their own would be merged
    under statistics that belong to none of them.

    A killed run goes on after its last saved step and ends with the same bytes. The state is used
    only if the run key and the recipe are equal, and stays on disk until
    :func:`pistole.robust.resume.forget_state`, so that the caller can first write the result.

    A batch may be split over processes and parts: images and starts stay those of the whole batch.

    Args:
        model: from images in [0, 1] to logits, as it is before the first step: objectives compare
            with it.
        trainable: the model's parameters that get gradients.
        batches: from a step and rows of its batch to (sample ids, images, labels) on the model's
            device.
        objective: what is minimised.
        settings: how long and how fast.
        budget: the attack inside the objective.
        seed: of the attack's starts.
        run_key: names everything outside the recipe that the result depends on (base, data).
        workers: this process among those that train the model together.
        state_path: where the state is kept; None keeps none.
        on_step: called after each step with its number and metrics.
        on_resume: called once with the number of steps that a killed run left, if it left any.

    Returns:
        One record per step: ``step``, ``loss``, ``lr``, ``grad_norm`` and the objective's own.

    Raises:
        UserError: unfit images, a batch too small for its parts, or training diverged.
    """
    parts = workers.count * settings.accumulate
    if settings.batch_size < parts:
        raise UserError(
            f"batch_size is {settings.batch_size}, but accumulate and the number of processes make "
            f"{parts} parts of it: lower them"
        )
    optimiser = optimiser_of(trainable.values(), settings)
    metadata = {"run_key": run_key, "recipe": _recipe(objective, settings, budget, seed, workers)}
    with frozen(model):
        seen = objective.prepare(model)
        needed = objective.compares or (objective.attacks and budget.loss == "l2")
        original = copy.deepcopy(seen) if needed else None
        for parameter in trainable.values():
            parameter.requires_grad_(True)
        curve = load_state(state_path, trainable, optimiser, metadata)
        workers.require_same(len(curve), "the step to go on from", device_of(model))
        if curve and on_resume is not None:
            on_resume(len(curve))
        task = _Task(seen, original, list(trainable.values()), objective, settings, budget, workers)
        for step in range(len(curve), settings.steps):
            metrics = task.differentiate(step, batches, seed)
            _require_finite(metrics, settings.lr)
            for group in optimiser.param_groups:
                group["lr"] = metrics["lr"]
            optimiser.step()
            optimiser.zero_grad()
            curve.append(metrics)
            due = step + 1 == settings.steps or (step + 1) % settings.save_every == 0
            if state_path is not None and due and workers.leads:
                save_state(state_path, trainable, optimiser, metadata | {"curve": curve})
            if on_step is not None:
                on_step(step, metrics)
    return curve


@dataclass(frozen=True)
class _Task:
    """The gradient of one objective, over this process's parts of a batch and all processes."""

    model: Classifier
    original: Classifier | None
    parameters: list[nn.Parameter]
    objective: Objective
    settings: Settings
    budget: Budget
    workers: Workers

    def differentiate(self, step: int, batches: Batches, seed: int) -> dict[str, float]:
        """Set the gradients of the parameters and return the step's metrics."""
        whole, noise = self.settings.batch_size, None
        totals: list[Tensor | None] = [None] * len(self.parameters)
        numbers: dict[str, float] = {}
        for rows in self.workers.rows(whole, self.settings.accumulate):
            x, y = _part(batches, step, rows)
            if noise is None and self.objective.attacks:
                start = generator(seed, "start", step)
                noise = draw_noise((whole, *x.shape[1:]), self.budget, start)
            displacement = torch.zeros_like(x) if noise is None else noise[rows].to(x.device)
            batch = Batch(x, y, displacement, whole)
            attacked = self.objective.adversarial(self.model, self.original, batch, self.budget)
            with _update_precision(x.device, self.settings.precision):
                loss, found = self.objective.loss(self.model, self.original, batch, attacked)
            share = len(x) / whole
            gradients = torch.autograd.grad(loss * share, self.parameters, allow_unused=True)
            totals = [_sum(a, b) for a, b in zip(totals, gradients, strict=True)]
            for name, value in {"loss": loss.item(), **found}.items():
                numbers[name] = numbers.get(name, 0.0) + value * share
        totals = self.workers.add_up(totals)
        numbers = self.workers.add_up_numbers(numbers, x.device)
        for parameter, gradient in zip(self.parameters, totals, strict=True):
            parameter.grad = gradient
        norm = get_total_norm([g for g in totals if g is not None]).item()
        first = {
            "step": step,
            "loss": numbers.pop("loss"),
            "lr": learning_rate(step, self.settings),
        }
        return first | {"grad_norm": norm, **numbers}


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other


def _update_precision(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """bfloat16 where it is asked for and the device has it; weights and gradients stay fp32."""
    if precision == "bf16" and device.type in AUTOCAST:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _recipe(
    objective: Objective, settings: Settings, budget: Budget, seed: int, workers: Workers
) -> dict:
    named = {"name": type(objective).__name__, **asdict(objective)}
    values = {"objective": named, "seed": seed, **asdict(settings), "budget": asdict(budget)}
    del values["save_every"]
    return values | {"processes": workers.count}


def _part(batches: Batches, step: int, rows: slice) -> tuple[Tensor, Tensor]:
    _, x, y = batches(step, rows)
    check_images(x)
    size = rows.stop - rows.start
    if len(x) != size or len(y) != size:
        raise UserError(f"step {step} has {len(x)} images and {len(y)} labels: give {size} each")
    return x, y


def _require_finite(metrics: dict[str, float], lr: float) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            raise UserError(
                f"training diverged: {name} is {metrics[name]} at step {metrics['step']}: "
                f"use a lower lr than {lr:g}"
            )
