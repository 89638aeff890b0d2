"""Checkpoints that stay in their files: a tensor, or a part of one, is read when it is asked for.

Plain reads instead of mapped files: pages of a mapping count as the process's memory, and a part
that was read can be changed in place.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pistole.errors import UserError
from pistole.files import is_pickle, read_json
from pistole.models.state import read_pickle

INDEX = ".index.json"
PLACES = (  # of the weights in a folder: transformers', open_clip's, this package's
    "model.safetensors",
    "open_clip_model.safetensors",
    "visual.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class StoredTensor(Protocol):
    """A tensor that can be read in parts.

    Attributes:
        dtype: as stored.
        shape: of the whole.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self, start: int, stop: int) -> Tensor:
        """Read the coordinates from ``start`` to before ``stop`` of the flattened tensor.

        Args:
            start: the first coordinate.
            stop: the coordinate after the last.

        Returns:
            A new one-dimensional tensor of the stored dtype.
        """
        ...


@dataclass(frozen=True)
class FileTensor:
    """A tensor in a safetensors file.

    Attributes:
        dtype: as stored.
        shape: of the whole.
        descriptor: of the open file.
        offset: of its first byte in the file.
        path: the file, for messages.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    descriptor: int
    offset: int
    path: Path

    def read(self, start: int, stop: int) -> Tensor:  # noqa: D102
        part = torch.empty(stop - start, dtype=self.dtype)
        view = memoryview(part.view(torch.uint8).numpy()).cast("B")
        place = self.offset + start * part.element_size()
        while view:  # one call of the system reads at most 2 GiB
            count = os.preadv(self.descriptor, [view], place)
            if not count:
                raise UserError(f"{self.path} became shorter while it was read: copy it again")
            view, place = view[count:], place + count
        return part


@dataclass(frozen=True)
class HeldTensor:
    """A tensor of a pickle, in memory or mapped.

    Attributes:
        value: the tensor.
    """

    value: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """As stored."""
        return self.value.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return tuple(self.value.shape)

    def read(self, start: int, stop: int) -> Tensor:  # noqa: D102
        return self.value.reshape(-1)[start:stop].clone()


@dataclass(frozen=True)
class StoredState:
    """An opened checkpoint.

    Attributes:
        tensors: by the file's names.
        files: where they are.
        metadata: what this package wrote beside them; empty for other people's files.
    """

    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...]
    metadata: dict[str, Any] = field(default_factory=dict)


def size_of(tensor: StoredTensor) -> int:
    """Return the number of coordinates of a stored tensor.

    Args:
        tensor: of any shape.

    Returns:
        The number; 1 for a shape of no dimension.
    """
    return math.prod(tensor.shape)


def find_weights(path: str | Path) -> Path:
    """Find the file of weights, or the index of its shards, that a path stands for.

    Args:
        path: a file, or a folder of transformers, open_clip or this package.

    Returns:
        The file.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path} does not exist: give a checkpoint's file or folder")
    for name in PLACES:
        for candidate in (path / name, path / (name + INDEX)):
            if candidate.is_file():
                return candidate
    raise UserError(
        f"{path} holds no weights ({', '.join(PLACES)}, or an index of shards): give their file"
    )


@contextlib.contextmanager
def open_state(path: str | Path, *, allow_pickle: bool = False) -> Iterator[StoredState]:
    """Open a checkpoint without reading its tensors.

    Args:
        path: a safetensors file, the index of shards, a folder of either, or a ``torch.save`` file
            if ``allow_pickle``.
        allow_pickle: read pickles too (weights only).

    Yields:
        The checkpoint, readable within the block.

    Raises:
        UserError: it is missing, broken, a pickle that is not allowed, or of an unknown dtype.
    """
    found = find_weights(path)
    with contextlib.ExitStack() as stack:
        if found.name.endswith(INDEX):
            yield _open_shards(found, stack)
        elif is_pickle(found):
            yield _open_pickle(found, allow_pickle)
        else:
            tensors, metadata = _open_file(found, stack)
            yield StoredState(tensors, (found,), metadata)


def _open_pickle(path: Path, allow_pickle: bool) -> StoredState:
    if not allow_pickle:
        raise UserError(
            f"{path} is a pickle, which can run code: convert it to safetensors, "
            "or allow it with --allow-pickle (weights only)"
        )
    with path.open("rb") as stream:
        archive = stream.read(2) == b"PK"
    state = read_pickle(path, mapped=archive)
    return StoredState({name: HeldTensor(value) for name, value in state.items()}, (path,))


def _open_shards(index: Path, stack: contextlib.ExitStack) -> StoredState:
    document = read_json(index, "copy the checkpoint again")
    places = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index} has no weight_map: copy the checkpoint again")
    tensors: dict[str, StoredTensor] = {}
    files = tuple(index.parent / name for name in sorted(set(places.values())))
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} does not exist, but {index.name} names it: copy it too")
        here, _ = _open_file(file, stack)
        wanted = {name for name, place in places.items() if index.parent / place == file}
        if here.keys() != wanted:
            odd = min(here.keys() ^ wanted)
            raise UserError(f"{file} and {index.name} disagree on tensor {odd!r}: copy both again")
        tensors |= here
    return StoredState(tensors, files)


def _open_file(
    path: Path, stack: contextlib.ExitStack
) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    header, start = read_header(path)
    descriptor = os.open(path, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    about = header.pop("__metadata__", None) or {}
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(header):
        entry = header[name]
        if entry["dtype"] not in DTYPES:
            raise UserError(
                f"{path}: tensor {name!r} has dtype {entry['dtype']}: convert it to one of "
                f"{', '.join(DTYPES)}"
            )
        shape, offset = tuple(entry["shape"]), start + entry["data_offsets"][0]
        tensors[name] = FileTensor(DTYPES[entry["dtype"]], shape, descriptor, offset, path)
    return tensors, json.loads(about.get("pistole", "{}"))


def read_header(path: Path) -> tuple[Mapping[str, Any], int]:
    """Read the header of a safetensors file.

    Args:
        path: the file.

    Returns:
        The header, and the offset of the data behind it.

    Raises:
        UserError: the file is truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt"):  # the library's own check: sizes, offsets, no holes
            pass
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            return json.loads(stream.read(length)), 8 + length
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is truncated or not safetensors ({error}): copy or write it again"
        ) from None
