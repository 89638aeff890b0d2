"""A safetensors file written tensor by tensor: the header first, since all sizes are known."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pistole.errors import UserError
from pistole.files import atomic_file
from pistole.models.streams import DTYPES

CODES = {dtype: code for code, dtype in DTYPES.items()}
ALIGNMENT = 8  # bytes: of the data, as the safetensors library pads its headers
PENDING = 4  # parts that may wait for the digest


@dataclass(frozen=True)
class Slot:
    """What a file will hold under one name.

    Attributes:
        dtype: of the tensor.
        shape: of the tensor.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def data_order(slots: Mapping[str, Slot]) -> list[str]:
    """Order tensors as the safetensors library does, so that each is aligned.

    Args:
        slots: by name.

    Returns:
        The names: wider dtypes first, then alphabetically.
    """
    return sorted(slots, key=lambda name: (-slots[name].dtype.itemsize, name))


def encode_header(slots: Mapping[str, Slot], metadata: Mapping[str, Any]) -> bytes:
    """Write the beginning of a safetensors file.

    Args:
        slots: by name.
        metadata: JSON-able values, stored under one sorted key.

    Returns:
        Length, header and padding; equal input gives equal bytes.
    """
    about = json.dumps(metadata, sort_keys=True, allow_nan=False)
    # transformers refuses a file that does not say format: pt.
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "pistole": about}}
    place = 0
    for name in data_order(slots):
        slot = slots[name]
        end = place + slot.nbytes
        header[name] = {
            "dtype": CODES[slot.dtype],
            "shape": list(slot.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_stream(
    path: Path,
    slots: Mapping[str, Slot],
    parts: Iterable[Tensor],
    metadata: Mapping[str, Any],
) -> str:
    """Write a safetensors file from the parts of its tensors, atomically.

    Args:
        path: the final file.
        slots: by name.
        parts: one-dimensional pieces of the tensors in the order of :func:`data_order`, in the
            dtypes of the slots. They come while the file is written, so a mistake in them that
            raises leaves no file.
        metadata: JSON-able values.

    Returns:
        The file's sha256.

    Raises:
        ValueError: the parts do not fill the slots.
    """
    header = encode_header(slots, metadata)
    size = len(header) + sum(slot.nbytes for slot in slots.values())
    with atomic_file(path) as temporary:
        with temporary.open("wb", buffering=0) as stream, _digesting() as digest:
            digest.add(header)
            written = _write(stream.fileno(), header)
            for part in parts:
                view = memoryview(part.contiguous().view(torch.uint8).numpy()).cast("B")
                digest.add(view)
                written += _write(stream.fileno(), view)
            if written != size:
                raise ValueError(f"{path}: {written} bytes were given for slots of {size}")
        return digest.hexdigest()


def require_room(path: Path, slots: Mapping[str, Slot]) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        path: the file to write.
        slots: by name.

    Raises:
        UserError: less is free than the file needs.
    """
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    status = os.statvfs(folder)
    free, need = status.f_bavail * status.f_frsize, sum(slot.nbytes for slot in slots.values())
    if free < need:
        raise UserError(
            f"{path} needs {need / 2**30:.2f} GiB and {free / 2**30:.2f} GiB are free: make room "
            "or give --out another disk"
        )


def _write(descriptor: int, data: bytes | memoryview) -> int:
    view, count = memoryview(data), len(data)
    while view:  # one call of the system writes at most 2 GiB
        view = view[os.write(descriptor, view) :]
    return count


class _Digest:
    """A sha256 that another thread computes while the file is written."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool, self._sha, self._waiting = pool, hashlib.sha256(), []

    def add(self, data: bytes | memoryview) -> None:
        self._waiting.append(self._pool.submit(self._sha.update, data))
        if len(self._waiting) > PENDING:
            self._waiting.pop(0).result()

    def hexdigest(self) -> str:
        return self._sha.hexdigest()


@contextlib.contextmanager
def _digesting() -> Iterator[_Digest]:
    with ThreadPoolExecutor(1) as pool:  # one thread: updates stay in order
        yield _Digest(pool)
