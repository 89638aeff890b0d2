"""Stage ``prepare@NEED``: what a merging method measures or learns on held-out training images."""

import importlib
from pathlib import Path
from typing import Any

from pistole.errors import UserError, require_choice
from pistole.files import atomic_directory, save_tensors, sha256_tensors, write_json
from pistole.method.vectors import require_finite
from pistole.params import Params
from pistole.stages.memory import give_back_freed_tensors
from pistole.stages.preparing.job import Job, Preparation, Tensors
from pistole.stages.runtime import attack_budget, classifier, device_of
from pistole.stages.slices import Slice, read_slice
from pistole.stages.towers import base_state, read_vectors

# Name -> module of pistole.stages.preparing and function, imported when it is asked for.
PREPARATIONS = {
    "fisher": ("fisher", "prepare"),
    "regmean": ("regmean", "prepare"),
    "led": ("led", "prepare"),
    "obm": ("obm", "prepare"),
    "ada_task": ("adamerging", "prepare_task"),
    "ada_layer": ("adamerging", "prepare_layer"),
    "ada_task_mix": ("adamerging", "prepare_task_mix"),
    "ada_layer_mix": ("adamerging", "prepare_layer_mix"),
    "atlas": ("atlas", "prepare"),
    "concrete": ("concrete", "prepare"),
    "concrete_am": ("concrete", "prepare_am"),
    "distac": ("distac", "prepare"),
}


def run(
    params: Params, need: str, base: Path, natural: Path, robust: Path, data: Path, out: Path
) -> dict[str, float]:
    """Run one preparation (docs/method.md C).

    Args:
        params: ``prepare``, ``attack.calibration``, ``stability.batch_size`` (images per pass) and
            ``seed`` are read.
        need: a key of :data:`PREPARATIONS`.
        base: what stage ``base`` wrote.
        natural: natural task vector.
        robust: robust task vector.
        data: the fine-tuning dataset; images of its held-out slice ``score`` are used.
        out: folder for ``statistics.safetensors`` and ``summary.json``.

    Returns:
        The preparation's own numbers.

    Raises:
        UserError: no such preparation, or the slice has fewer images than ``prepare.images``.
    """
    prepare = preparation(need)
    give_back_freed_tensors()
    images = read_slice(data, "score", params.prepare.images)
    if len(images) < params.prepare.images:
        raise UserError(
            f"prepare.images is {params.prepare.images} but slice score has {len(images)}: lower "
            "it, or raise slices.score"
        )
    job = open_job(params, images, base, natural, robust)
    statistics, numbers = prepare(job)
    require_finite(statistics, f"statistics of {need}")
    with atomic_directory(out) as folder:
        save_tensors(folder / "statistics.safetensors", statistics, {"need": need})
        write_json(folder / "summary.json", _summary(params, need, images) | {"numbers": numbers})
    return numbers


def preparation(need: str) -> Preparation:
    """Look a preparation up.

    Args:
        need: a key of :data:`PREPARATIONS`.

    Returns:
        The function.

    Raises:
        UserError: no such preparation.
    """
    require_choice("preparation", need, PREPARATIONS)
    module, function = PREPARATIONS[need]
    return getattr(importlib.import_module(f"pistole.stages.preparing.{module}"), function)


def open_job(params: Params, images: Slice, base: Path, natural: Path, robust: Path) -> Job:
    """Open the models on the device.

    Args:
        params: as for :func:`run`.
        images: held-out training images.
        base: what stage ``base`` wrote.
        natural: natural task vector.
        robust: robust task vector.

    Returns:
        The inputs of a preparation.
    """
    device = device_of(params)

    def there(tensors: Tensors) -> Tensors:
        return {name: value.to(device) for name, value in tensors.items()}

    tau_nat, tau_rob = read_vectors(natural, robust, base)
    return Job(
        model=classifier(base, images.dataset, device),
        images=images,
        theta_0=there(base_state(base)[0]),
        tau_nat=there(tau_nat),
        tau_rob=there(tau_rob),
        budget=attack_budget(params, "calibration"),
        seed=params.seed,
        batch_size=params.prepare.batch_size,
        pass_size=params.stability.batch_size,
        steps=params.prepare.steps,
    )


def _summary(params: Params, need: str, images: Slice) -> dict[str, Any]:
    used = {"images": images.images, "labels": images.labels}
    return {
        "need": need,
        "dataset": images.dataset,
        "images": len(images),
        "images_digest": sha256_tensors(used),
        "attack": {"eps": params.attack.eps, **params.attack.calibration.model_dump()},
    }
