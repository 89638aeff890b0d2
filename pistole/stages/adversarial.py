"""The files of adversarial images that ``evaluate`` keeps and ``transfer`` reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pistole.errors import UserError
from pistole.files import save_tensors
from pistole.robust.found import Found
from pistole.robust.transfer import Pooled

ADVERSARIAL = "adversarial"  # folder in that of an evaluation
IMAGES = "images"


def write_found(
    folder: Path, dataset: str, found: Found, ids: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Write the images that fooled a model, in the order of the samples, to the last bit.

    Args:
        folder: for ``DATASET.safetensors``.
        dataset: its name.
        found: the images.
        ids: of all samples.
        about: what they belong to: ``model`` and ``data_digest``.
    """
    positions = sorted(found.images)
    # Without any, nobody knows their size.
    none = torch.empty(0, 3, 1, 1)
    images = torch.stack([found.images[i] for i in positions]) if positions else none
    told = {"dataset": dataset, "ids": [ids[i] for i in positions], "eps": found.eps, **about}
    save_tensors(folder / f"{dataset}.safetensors", {IMAGES: images}, told)


def read_found(
    folder: Path, model: str, dataset: str, ids: Sequence[str], about: Mapping[str, Any]
) -> Pooled:
    """Open the images that fooled a model; they are read when they are asked for.

    Args:
        folder: what stage ``evaluate`` wrote about the model.
        model: its name.
        dataset: the dataset.
        ids: of all samples.
        about: what they must belong to.

    Returns:
        One entry of the pool.

    Raises:
        UserError: there is no such file, or it is of another model, attack or data.
    """
    path = folder / ADVERSARIAL / f"{dataset}.safetensors"
    with _opened(path, model) as file:
        told = json.loads(file.metadata()["pistole"])
    place = {name: position for position, name in enumerate(ids)}
    same = {key: told.get(key) for key in about} == dict(about) and told["dataset"] == dataset
    if not same or not set(told["ids"]) <= place.keys():
        raise UserError(
            f"{path} is of another model, attack or data: run stage evaluate@{model} again"
        )
    positions = torch.tensor([place[name] for name in told["ids"]], dtype=torch.int64)
    return Pooled(model, positions, lambda rows: _rows(path, model, rows))


def _rows(path: Path, model: str, rows: Tensor) -> Tensor:
    with _opened(path, model) as file:
        images = file.get_slice(IMAGES)
        return torch.cat([images[row : row + 1] for row in rows.tolist()])


def _opened(path: Path, model: str) -> Any:
    if not path.is_file():
        raise UserError(f"{path} does not exist: run stage evaluate@{model}, which writes it")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is truncated or not safetensors ({error}): run stage evaluate@{model} again"
        ) from None
