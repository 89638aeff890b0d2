"""The gallery: test images before and after an attack, as pictures inside the page."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from pistole.errors import UserError
from pistole.files import read_json
from pistole.report.tables import in_order, label
from pistole.report.values import number

SMALL = 64  # px: images up to this side are shown pixel by pixel
SIDE = 112  # px that larger ones are shown with, as JPEG
QUALITY = 88
Record = dict[str, Any]


def read_gallery(folder: Path) -> tuple[Record, dict[str, np.ndarray]]:
    """Read what stage ``gallery`` wrote.

    Args:
        folder: its output.

    Returns:
        The record, and the pixels by ``DATASET/clean`` and ``DATASET/MODEL/KIND``.

    Raises:
        UserError: a file is missing.
    """
    record, images = folder / "gallery.json", folder / "images.safetensors"
    for path in (record, images):
        if not path.is_file():
            raise UserError(f"{path} does not exist: run stage gallery, which writes it")
    return read_json(record), load_file(images)


def gallery_view(
    tasks: Iterable[str], record: Record, pixels: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Prepare what the page shows.

    Args:
        tasks: in the order to show.
        record: the record.
        pixels: the pictures.

    Returns:
        ``factor``, the attack in words, and ``samples``: each with its image and, per model,
        perturbation, adversarial image and the answers before and after.
    """
    attack = record["attack"]
    told = f"PGD, {attack['steps']} steps of {number(attack['alpha'], 'alpha')}"
    samples = [
        _sample(task, record["tasks"][task], place, pixels)
        for task in tasks
        for place in range(len(record["tasks"][task]["ids"]))
    ]
    return {
        "factor": record["factor"],
        "attack": f"{told}, within {number(attack['eps'], 'eps')}",
        "samples": samples,
        "pixelated": all(max(v.shape[-2:]) <= SMALL for v in pixels.values()),
    }


def _sample(task: str, about: Record, place: int, pixels: dict[str, np.ndarray]) -> dict[str, Any]:
    models = [
        {
            "name": name,
            "label": label(name),
            "before": rows["before"][place],
            "after": rows["after"][place],
            **{
                kind: picture(pixels[f"{task}/{name}/{kind}"][place])
                for kind in ("perturbation", "adversarial")
            },
        }
        for name, rows in in_order(about["models"]).items()
    ]
    return {
        "task": task,
        "id": about["ids"][place],
        "label": about["labels"][place],
        "clean": picture(pixels[f"{task}/clean"][place]),
        "models": models,
        "right": sum(model["before"]["right"] for model in models),
        "stand": sum(model["before"]["right"] and model["after"]["right"] for model in models),
    }


def picture(pixels: np.ndarray) -> str:
    """Write an image as a data URI.

    Args:
        pixels: ``uint8``, channels first.

    Returns:
        PNG of small images; larger ones are shrunk and written as JPEG.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    stream, kind = io.BytesIO(), "png"
    if max(image.size) <= SMALL:
        image.save(stream, "PNG", optimize=True)
    else:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        image.save(stream, "JPEG", quality=QUALITY)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
