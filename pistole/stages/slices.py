"""Read the images that stage ``data`` listed."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pistole.data.dataset import listed_subset, to_float
from pistole.data.source import Source
from pistole.data.tasks import read_listed
from pistole.errors import UserError
from pistole.files import load_tensors, read_json, sha256_tensors


@dataclass(frozen=True)
class Slice:
    """Listed images of one split, in listed order.

    Attributes:
        dataset: name of the dataset.
        ids: sample ids, stable over machines.
        images: pixels at native resolution.
        labels: class per image.
        digest: sha256 of class names, listed ids, labels and pixels of the whole slice.
    """

    dataset: str
    ids: list[str]
    images: UInt8[Tensor, "n 3 h w"]
    labels: Int[Tensor, " n"]
    digest: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def pixels(self, chosen: Tensor | slice = slice(None)) -> Float[Tensor, "m 3 h w"]:
        """Return chosen images in [0, 1].

        Args:
            chosen: positions.

        Returns:
            ``float32`` pixels.
        """
        return to_float(self.images[chosen])


def index_of(folder: Path) -> dict:
    """Read a dataset's index.

    Args:
        folder: what stage ``data`` wrote.

    Returns:
        ``{"name", "layout", "root", "resolution", "classnames", "templates"}``, and for stored
        images ``"names"``, the folder that their class names come from if it is another.
    """
    return read_json(folder / "index.json")


def read_slice(folder: Path, split: str, subset: int | None = None) -> Slice:
    """Read the images of a split and compare them with the digests in the index.

    Args:
        folder: what stage ``data`` wrote.
        split: ``finetune``, ``score``, ``measure``, ``select`` or ``test``.
        subset: only so many images, each class with its share.

    Returns:
        The slice.

    Raises:
        UserError: the split is not listed, or images changed since they were listed.
    """
    index = index_of(folder)
    if not (folder / split / "index.json").is_file():
        have = ", ".join(sorted(path.parent.name for path in folder.glob("*/index.json")))
        raise UserError(
            f"{folder}: no split '{split}' (has {have}): set data.finetune to this dataset"
        )
    listed = read_json(folder / split / "index.json")
    if index["layout"] == "embedded":
        file = folder / split / "images.safetensors"
        images = load_tensors(file)[0]["images"]
        if sha256_tensors({"images": images}) != listed["sha256"]:
            raise UserError(f"{file} is not what its index lists: run stage data again")
    else:
        keys = ("name", "layout", "root", "resolution", "names")
        source = Source(**{key: index[key] for key in keys})
        images = read_listed(source, listed["ids"], listed["sha256"])
    ids, labels = listed["ids"], listed["labels"]
    if subset is not None and subset < len(ids):
        chosen = listed_subset(labels, subset, (index["name"], split, "subset"))
        ids, labels, images = [ids[i] for i in chosen], [labels[i] for i in chosen], images[chosen]
    labels = torch.tensor(labels, dtype=torch.int64)
    return Slice(index["name"], ids, images, labels, listed["digest"])
