"""Reader of CLIP_benchmark's webdataset layout.

``classnames.txt``, ``zeroshot_classification_templates.txt``, and per split ``nshards.txt`` and
``0.tar``, ``1.tar``, ... with samples ``KEY.cls`` and ``KEY.png`` (or .jpg, .jpeg, .webp).
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from pistole.data.dataset import Task
from pistole.data.shards import Place, image_of, index_split, label_of
from pistole.errors import UserError

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"


@dataclass(frozen=True)
class WdsSplit:
    """One split; only offsets and labels are kept in memory.

    Attributes:
        ids: ``split/key``, in the order of the shards.
        labels: class per sample.
        resolution: side in px that images are resized and cropped to; None: as stored.
        places: where each image lies.
    """

    ids: list[str]
    labels: list[int]
    resolution: int | None
    places: list[Place] = field(repr=False)

    def load(self, positions: Sequence[int]) -> UInt8[Tensor, "n 3 h w"]:
        """Read and decode images.

        Args:
            positions: indices into ``ids``.

        Returns:
            RGB pixels, in the order asked for.

        Raises:
            UserError: images differ in size and no resolution is given.
        """
        images: list[Tensor] = []
        for position in positions:
            image = self._decode(position)
            if images and image.shape != images[0].shape:
                raise UserError(
                    f"image {self.ids[position]} of {self.places[position].tar} has "
                    f"{_size(image)} px but {self.ids[positions[0]]} has {_size(images[0])}: "
                    "set data.resolution to bring all to one size"
                )
            images.append(image)
        return torch.stack(images) if images else torch.empty(0, 3, 0, 0, dtype=torch.uint8)

    def digests(self, positions: Sequence[int]) -> list[str]:
        """Digest samples as they are stored.

        Args:
            positions: indices into ``ids``.

        Returns:
            Per sample the hex sha256 of its label, a line feed, and its image file's bytes.
        """
        return [
            hashlib.sha256(f"{self.labels[i]}\n".encode() + self.places[i].read()).hexdigest()
            for i in positions
        ]

    def _decode(self, position: int) -> Tensor:
        place = self.places[position]
        try:
            image = Image.open(io.BytesIO(place.read())).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f"image of sample {self.ids[position]} in {place.tar} cannot be read "
                f"({type(error).__name__}): copy or make it again"
            ) from None
        if self.resolution is not None:
            image = _fit(image, self.resolution)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"


def _fit(image: Image.Image, side: int) -> Image.Image:
    # The rounding is that of CLIP's preprocessing (torchvision's Resize and CenterCrop).
    width, height = image.size
    if (width, height) == (side, side):
        return image
    short = min(width, height)
    width, height = int(side * width / short), int(side * height / short)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


@dataclass(frozen=True)
class WdsTask(Task):
    """A dataset folder.

    Attributes:
        root: the folder.
        resolution: side in px that images are resized and cropped to; None: as stored.
    """

    root: Path
    resolution: int | None

    def split(self, name: str) -> WdsSplit:
        """Index one split.

        Args:
            name: such as ``train`` or ``test``.

        Returns:
            The split; its labels are checked, its images are not yet read.
        """
        samples = index_split(self.root / name, name)
        count = len(self.classnames)
        labels = [label_of(key, sample, count) for key, sample in samples.items()]
        places = [image_of(key, sample) for key, sample in samples.items()]
        return WdsSplit(list(samples), labels, self.resolution, places)


def open_task(root: str | Path, resolution: int | None = None) -> WdsTask:
    """Open a dataset folder.

    Args:
        root: the folder; its name is the task's.
        resolution: side in px that images are resized (bicubic) and cropped to; None: as stored.

    Returns:
        The task.

    Raises:
        UserError: the folder is missing, or has no class names or no usable templates.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} does not exist: mend data.root or the dataset's name")
    templates = _lines(root / TEMPLATES, "template")
    for template in templates:
        if "{c}" not in template:
            raise UserError(
                f"{root / TEMPLATES}: template {template!r} lacks {{c}}, "
                "the place of the class name"
            )
    classnames = _lines(root / CLASSNAMES, "class name")
    return WdsTask(root.absolute().name, classnames, templates, root, resolution)


def read_listed(
    root: str | Path, resolution: int | None, ids: Sequence[str], digests: Sequence[str]
) -> UInt8[Tensor, "n 3 h w"]:
    """Read images by id and compare each with its digest.

    Args:
        root: the dataset folder.
        resolution: as in :func:`open_task`.
        ids: ``split/key``, all of one split.
        digests: what :meth:`WdsSplit.digests` gave for them.

    Returns:
        RGB pixels, in the order of ``ids``.

    Raises:
        UserError: a sample is gone or has changed.
    """
    if not ids:
        return torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    split = open_task(root, resolution).split(ids[0].split("/", 1)[0])
    position_of = {key: position for position, key in enumerate(split.ids)}
    gone = [key for key in ids if key not in position_of]
    if gone:
        raise UserError(
            f"{root}: sample {gone[0]} is gone since it was listed: run stage data again"
        )
    positions = [position_of[key] for key in ids]
    for key, old, new in zip(ids, digests, split.digests(positions), strict=True):
        if old != new:
            raise UserError(
                f"{root}: sample {key} has changed since it was listed: run stage data again"
            )
    return split.load(positions)


def _lines(path: Path, what: str) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: write one {what} per line")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    if not lines or not all(lines):
        raise UserError(f"{path} is empty or has an empty line: write one {what} per line")
    return lines
