"""Images of a loader, held as a stage holds a slice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pistole.errors import UserError

Loader = Iterable[Sequence]


@dataclass(frozen=True)
class Images:
    """Labelled images in memory, with what the stages read of a slice.

    Attributes:
        ids: names that attacks start from; the same names give the same starts.
        values: fp32 pixels in [0, 1].
        labels: int64.
        dataset: a name for messages.
    """

    ids: list[str]
    values: Tensor
    labels: Tensor
    dataset: str = "loader"

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def pixels(self, chosen: Tensor | slice = slice(None)) -> Tensor:
        """Return chosen images.

        Args:
            chosen: positions.

        Returns:
            fp32 pixels.
        """
        return self.values[chosen]


def read(loader: Loader, classes: int, *, even: bool) -> Images:
    """Go once through a loader.

    Args:
        loader: batches ``(images, labels)`` or ``(images, labels, ids)``; a ``DataLoader`` or any
            other iterable.
        classes: number of classes of the head.
        even: whether an odd number of images is refused.

    Returns:
        The images on the CPU, copied.

    Raises:
        UserError: nothing comes, images are not fp32 pixels [n, 3, h, w] in [0, 1], labels are not
            class numbers, ids repeat, or the number is odd where halves are needed.
    """
    parts, labels, ids = [], [], []
    for batch in loader:
        pixels, classes_of, *names = batch
        parts.append(pixels.detach().cpu())
        labels.append(torch.as_tensor(classes_of).cpu())
        count = len(ids)
        ids += names[0] if names else [str(count + i) for i in range(len(pixels))]
    if not parts:
        raise UserError("the loader gives no images: give batches (images, labels)")
    values, targets = torch.cat(parts), torch.cat(labels)
    if values.dtype != torch.float32 or values.ndim != 4 or values.shape[1] != 3:
        raise UserError(
            f"the loader's images are {values.dtype} {tuple(values.shape)}: give fp32 [n, 3, h, w]"
        )
    if not (values.min() >= 0 and values.max() <= 1):
        low, high = values.min().item(), values.max().item()
        raise UserError(
            f"the loader's images lie in [{low:.3g}, {high:.3g}]: give pixels in [0, 1]; the "
            "classifier normalises"
        )
    if targets.dtype != torch.int64 or targets.shape != (len(values),):
        raise UserError(
            f"the loader's labels are {targets.dtype} {tuple(targets.shape)}: give int64, one per "
            "image"
        )
    if not (targets.min() >= 0 and targets.max() < classes):
        raise UserError(f"label {targets.max()} of {classes} classes: give numbers from 0")
    if len(ids) != len(values) or len(set(ids)) != len(ids):
        raise UserError(f"{len(set(ids))} different ids for {len(values)} images: one per image")
    if even and len(values) % 2:
        raise UserError(f"the loader has {len(values)} images: split halves need an even number")
    return Images(ids, values, targets)
