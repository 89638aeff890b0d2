"""Open a dataset in whatever layout it is, and read listed images of it again."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import UInt8
from torch import Tensor

from pistole.data.images import ImageSplit
from pistole.data.source import Source
from pistole.errors import UserError


class ImageTask(Protocol):
    """A zero-shot task of stored images."""

    @property
    def classnames(self) -> list[str]:
        """Return the name per label."""
        ...

    @property
    def templates(self) -> list[str]:
        """Return sentences in which ``{c}`` stands for the class name."""
        ...

    def split(self, name: str) -> ImageSplit:
        """Open one split.

        Args:
            name: ``train`` or ``test``.

        Returns:
            The split.
        """
        ...


def open_task(source: Source) -> ImageTask:
    """Open a dataset.

    Args:
        source: where it is; every layout but ``embedded``.

    Returns:
        The task, its class names and templates chosen; no image is read.
    """
    # Imported here: each reader has packages of its own.
    if source.layout == "folder":
        from pistole.data.folders import open_folder

        return open_folder(source)
    if source.layout == "torchvision":
        from pistole.data.torchvision_sets import open_torchvision

        return open_torchvision(source)
    if source.layout == "huggingface":
        from pistole.data.huggingface import open_huggingface

        return open_huggingface(source)
    from pistole.data.remote import is_url
    from pistole.data.wds import open_remote, open_wds

    return open_remote(source) if is_url(source.root) else open_wds(source)


def read_listed(
    source: Source, ids: Sequence[str], digests: Sequence[str]
) -> UInt8[Tensor, "n 3 h w"]:
    """Read images by id and compare each with its digest.

    Args:
        source: the dataset.
        ids: ``split/key``, all of one split.
        digests: what :meth:`ImageSplit.digests` gave for them.

    Returns:
        RGB pixels, in the order of ``ids``.

    Raises:
        UserError: a sample is gone or has changed.
    """
    if not ids:
        return torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    # Pixels need no templates: a dataset without any is read like others.
    task = open_task(dataclasses.replace(source, templates="single"))
    split = task.split(ids[0].split("/", 1)[0])
    position_of = {key: position for position, key in enumerate(split.ids)}
    gone = [key for key in ids if key not in position_of]
    if gone:
        raise UserError(
            f"{source.root}: sample {gone[0]} is gone since it was listed: run stage data again"
        )
    positions = [position_of[key] for key in ids]
    for key, old, new in zip(ids, digests, split.digests(positions), strict=True):
        if old != new:
            raise UserError(
                f"{source.root}: sample {key} has changed since it was listed: run stage data again"
            )
    return split.load(positions)


def place_of(root: str, name: str, layout: str) -> str:
    """Tell where a dataset is below ``data.root``.

    Args:
        root: ``data.root``.
        name: the dataset.
        layout: its layout.

    Returns:
        ``root/name``; torchvision's classes name their own folder in ``root``.
    """
    from pistole.data.remote import is_url

    if layout == "torchvision":
        return root
    return f"{root.rstrip('/')}/{name}" if is_url(root) else str(Path(root) / name)
