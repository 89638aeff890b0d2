"""Images of one split, read from wherever a source keeps them, decoded and digested alike."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from pistole.errors import UserError

# What Pillow raises for a file that is no whole image.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class Place(Protocol):
    """Where one image is kept."""

    @property
    def where(self) -> str:
        """Say where, for a message."""
        ...

    def read(self) -> bytes:
        """Read the encoded image.

        Returns:
            The content of an image file.
        """
        ...


@dataclass(frozen=True)
class ImageSplit:
    """One split; only places and labels are kept in memory.

    Attributes:
        ids: ``split/key``, in the source's order.
        labels: class per sample.
        resolution: side in px that images are resized and cropped to; None: as stored.
        places: where each image is kept.
    """

    ids: list[str]
    labels: list[int]
    resolution: int | None
    places: Sequence[Place] = field(repr=False)

    def load(self, positions: Sequence[int]) -> UInt8[Tensor, "n 3 h w"]:
        """Read and decode images.

        Args:
            positions: indices into ``ids``.

        Returns:
            RGB pixels, in the order asked for.

        Raises:
            UserError: an image cannot be read, or they differ in size and no resolution is given.
        """
        images: list[Tensor] = []
        for position in positions:
            image = _pixels(self.picture(position), self.resolution)
            if images and image.shape != images[0].shape:
                raise UserError(
                    f"image {self.ids[position]} of {self.places[position].where} has "
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

    def picture(self, position: int) -> Image.Image:
        """Decode one image at its own size.

        Args:
            position: index into ``ids``.

        Returns:
            The image, as RGB.

        Raises:
            UserError: it cannot be read.
        """
        place = self.places[position]
        try:
            return Image.open(io.BytesIO(place.read())).convert("RGB")
        except UNREADABLE as error:
            raise UserError(
                f"image of sample {self.ids[position]} in {place.where} cannot be read "
                f"({type(error).__name__}): copy or make it again"
            ) from None

    def is_readable(self, position: int) -> bool:
        """Tell whether an image can be decoded.

        Args:
            position: index into ``ids``.

        Returns:
            False for a corrupt image.
        """
        try:
            self.picture(position)
        except UserError:
            return False
        return True


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"


def _pixels(image: Image.Image, resolution: int | None) -> Tensor:
    if resolution is not None:
        image = _fit(image, resolution)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()


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
