"""Stage ``gallery``: a few test images, what an attack on each model adds, and what it answers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pistole.data.dataset import to_float
from pistole.files import atomic_directory, save_tensors, write_json
from pistole.models.zeroshot import ZeroShotClassifier, with_head
from pistole.params import Params
from pistole.progress import counting
from pistole.robust.pgd import Budget, pgd_by_id
from pistole.seeds import derive
from pistole.stages.runtime import (
    attack_budget,
    classifier,
    device_of,
    text_head,
    tower,
    with_parameters,
)
from pistole.stages.slices import Slice, index_of, read_slice

MODELS = ("base", "natural", "robust", "vanilla", "pistole")
USUAL = "artifacts"  # the folder of all artifacts in params.yaml
GREY = 128  # where nothing was added


def run(params: Params, artifacts: Path, out: Path) -> dict[str, float]:
    """Attack the sources and the two merges on a few listed test images of every dataset.

    The images are those that a test slice of this size would have, whatever the models answer.

    Args:
        params: ``models``, ``datasets``, ``attack.eps``, ``attack.calibration`` and
            ``report.gallery`` are read.
        artifacts: folder of all artifacts.
        out: folder for ``gallery.json`` and ``images.safetensors``.

    Returns:
        How many images were attacked, and how many of the answers changed.
    """
    base, data = artifacts / "base", artifacts / "data"
    device = device_of(params)
    budget = attack_budget(params, "calibration")
    names = shown_models(params)
    wanted = params.datasets if params.report.gallery else ()
    images = {name: read_slice(data / name, "test", params.report.gallery) for name in wanted}
    classnames = {name: index_of(data / name)["classnames"] for name in images}
    tasks = {name: _task(found, classnames[name]) for name, found in images.items()}
    tensors = {f"{name}/clean": found.images for name, found in images.items()}
    with counting("gallery", len(names)) as advance:
        for model in names if images else ():
            clf = classifier(base, params.datasets[0], device)
            with_parameters(clf, tower(model_folder(params.models[model], artifacts), base, device))
            for name, found in images.items():
                head = with_head(clf, text_head(base, name).to(device))
                rows, pictures = _attack(head, found, classnames[name], budget, params)
                tasks[name]["models"][model] = rows
                tensors |= {f"{name}/{model}/{kind}": value for kind, value in pictures.items()}
            advance(model)
    record = {"attack": _told(budget), "factor": _factor(budget.eps), "tasks": tasks}
    with atomic_directory(out) as folder:
        write_json(folder / "gallery.json", record)
        save_tensors(folder / "images.safetensors", tensors)
    pairs = [
        (before["class"], after["class"])
        for task in tasks.values()
        for rows in task["models"].values()
        for before, after in zip(rows["before"], rows["after"], strict=True)
    ]
    return {"attacked": len(pairs), "changed": sum(before != after for before, after in pairs)}


def model_folder(place: str, artifacts: Path) -> Path:
    """Find a model; one that params.yaml has in ``artifacts`` lies in the folder of that name here.

    Args:
        place: a value of ``models``.
        artifacts: folder of all artifacts.

    Returns:
        Its folder or file.
    """
    path = Path(place)
    return artifacts / path.relative_to(USUAL) if path.is_relative_to(USUAL) else path


def shown_models(params: Params) -> list[str]:
    """Name the rows of the table that the gallery shows.

    Args:
        params: ``models`` is read.

    Returns:
        Those of :data:`MODELS` that are rows.
    """
    return [name for name in MODELS if name in params.models]


def amplified(delta: Tensor, eps: float) -> tuple[Tensor, int]:
    """Make a perturbation visible: grey where nothing was added.

    Args:
        delta: what was added to the pixels, in [-eps, eps].
        eps: radius of the ball.

    Returns:
        ``uint8`` pixels, and the whole factor that the perturbation was multiplied by.
    """
    factor = _factor(eps)
    return (GREY + factor * 255 * delta).round().clamp(0, 255).to(torch.uint8), factor


def _factor(eps: float) -> int:
    return max(1, int(0.5 / eps)) if eps > 0 else 1


def _task(images: Slice, classnames: list[str]) -> dict[str, Any]:
    labels = [classnames[i] for i in images.labels.tolist()]
    return {"ids": images.ids, "labels": labels, "models": {}}


def _attack(
    head: ZeroShotClassifier, images: Slice, classnames: list[str], budget: Budget, params: Params
) -> tuple[dict[str, list[dict]], dict[str, Tensor]]:
    """One model's answers before and after, and the pictures to show."""
    device = next(head.parameters()).device
    x, y = to_float(images.images).to(device), images.labels.to(device)
    seed = derive(params.seed, "gallery", images.dataset)
    attacked = pgd_by_id(head, x, y, images.ids, budget, seed)
    pictures = {
        "adversarial": (255 * attacked).round().to(torch.uint8),
        "perturbation": amplified(attacked - x, budget.eps)[0],
    }
    rows = {
        "before": _answers(head, x, y, classnames),
        "after": _answers(head, attacked, y, classnames),
    }
    return rows, pictures


@torch.no_grad()
def _answers(head: ZeroShotClassifier, x: Tensor, y: Tensor, classnames: list[str]) -> list[dict]:
    shares = head(x).softmax(-1).cpu()
    best = shares.argmax(-1)
    return [
        {
            "class": classnames[top],
            "right": top == label,
            "probability": round(float(row[top]), 6),
            "true_class": round(float(row[label]), 6),
        }
        for row, top, label in zip(shares, best.tolist(), y.tolist(), strict=True)
    ]


def _told(budget: Budget) -> dict[str, Any]:
    return {
        "eps": budget.eps,
        "steps": budget.steps,
        "alpha": budget.alpha,
        "init": budget.init,
    }
