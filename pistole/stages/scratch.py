"""Tensors that live in files while a stage works, so that the system may drop them from memory."""

import tempfile
from pathlib import Path

from torch import Tensor, from_file

Tensors = dict[str, Tensor]


def zeros_in_files(like: Tensors, folder: Path) -> Tensors:
    """Make zeros, one file per tensor.

    Args:
        like: gives names, shapes and dtypes.
        folder: where the files go.

    Returns:
        Tensors on the CPU.
    """
    place = Path(tempfile.mkdtemp(dir=folder))
    made = {}
    for number, (name, value) in enumerate(like.items()):
        flat = from_file(
            str(place / str(number)), shared=True, size=value.numel(), dtype=value.dtype
        )
        made[name] = flat.view(value.shape)
    return made


def copies_in_files(tensors: Tensors, folder: Path) -> Tensors:
    """Copy tensors into files.

    Args:
        tensors: name -> tensor, on any device.
        folder: where the files go.

    Returns:
        Equal tensors on the CPU.
    """
    made = zeros_in_files(tensors, folder)
    for name, value in tensors.items():
        made[name].copy_(value.detach())
    return made
