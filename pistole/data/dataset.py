"""What every zero-shot task offers, and how its images are listed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pistole.errors import UserError
from pistole.seeds import generator


class Split(Protocol):
    """Images of one split, read when asked for.

    Attributes:
        ids: sample ids, ``split/key``, stable over machines.
        labels: class per sample.
    """

    ids: list[str]
    labels: list[int]

    def load(self, positions: Sequence[int]) -> UInt8[Tensor, "n 3 h w"]:
        """Read images.

        Args:
            positions: indices into ``ids``.

        Returns:
            Their pixels at native resolution, in the order asked for.
        """
        ...


@dataclass(frozen=True)
class Task:
    """A zero-shot classification task.

    Attributes:
        name: its name.
        classnames: name per label.
        templates: sentences in which ``{c}`` stands for the class name.
    """

    name: str
    classnames: list[str]
    templates: list[str]


def to_float(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Bring pixels to [0, 1].

    Args:
        images: bytes, 0 to 255.

    Returns:
        ``float32``.
    """
    return images.to(torch.float32) / 255


def listed_subset(labels: Sequence[int], n: int, seed_parts: Sequence[int | str]) -> list[int]:
    """List a stratified subset: each class has its share of n, equal where the data is balanced.

    Args:
        labels: class per sample.
        n: number of samples to list.
        seed_parts: what the draw belongs to.

    Returns:
        Sorted positions.
    """
    return disjoint_slices(labels, {"subset": n}, seed_parts)["subset"]


def disjoint_slices(
    labels: Sequence[int], sizes: Mapping[str, int], seed_parts: Sequence[int | str]
) -> dict[str, list[int]]:
    """Cut disjoint, stratified slices out of one split.

    A slice that is moved or resized changes only itself and the slices named after it.

    Args:
        labels: class per sample.
        sizes: number of samples per slice, in the order of cutting.
        seed_parts: what the draw belongs to.

    Returns:
        Sorted positions per slice.

    """
    require_enough(len(labels), sizes)
    order = interleaved(labels, seed_parts)
    cut, start = {}, 0
    for name, size in sizes.items():
        cut[name] = sorted(order[start : start + size])
        start += size
    return cut


def require_enough(available: int, sizes: Mapping[str, int]) -> None:
    """Refuse slices that a split cannot fill.

    Args:
        available: number of samples of the split.
        sizes: number of samples per slice.

    Raises:
        UserError: a size is negative, or the slices need more samples than there are.
    """
    wanted = sum(sizes.values())
    asked = ", ".join(f"{name} {size}" for name, size in sizes.items())
    if min(sizes.values(), default=0) < 0:
        raise UserError(f"slices ({asked}) hold a negative size: give 0 or more")
    if wanted > available:
        raise UserError(
            f"slices ({asked}) need {wanted} samples but the split has {available}: lower them"
        )


def interleaved(labels: Sequence[int], seed_parts: Sequence[int | str]) -> list[int]:
    """Order samples so that every stretch has each class in its share of the data.

    Args:
        labels: class per sample.
        seed_parts: what the draw belongs to.

    Returns:
        All positions, in the order in which slices are cut.
    """
    # The k-th sample of a class of m sits at (k + 1/2) / m of the whole order, so that every
    # stretch of it has each class in its share of the data; classes take turns at equal places.
    source = generator(*seed_parts)
    shuffled = torch.randperm(len(labels), generator=source).tolist()
    classes = sorted(set(labels))
    turn = torch.randperm(len(classes), generator=source).tolist()
    turn_of = dict(zip(classes, turn, strict=True))
    count = dict.fromkeys(classes, 0)
    rank = {}
    for position in shuffled:
        rank[position] = count[labels[position]]
        count[labels[position]] += 1
    return sorted(
        shuffled,
        key=lambda i: ((rank[i] + 0.5) / count[labels[i]], turn_of[labels[i]]),
    )
