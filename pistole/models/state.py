"""Named tensors from files of any origin, checked one by one against what a model needs."""

import pickle
from pathlib import Path
from typing import Any

import torch

from pistole.errors import UserError
from pistole.files import is_pickle, load_tensors, sha256_tensors
from pistole.models.layouts import State, strip_wrappers, unpack

FEW = 3  # differences that a message names
COUNTER = "num_batches_tracked"  # BatchNorm's step counter: no output depends on it in eval mode


def read_state(path: str | Path, *, allow_pickle: bool = False) -> tuple[State, dict[str, Any]]:
    """Read a file of named tensors, without the prefixes of training wrappers.

    Args:
        path: a safetensors file, or a ``torch.save`` file if ``allow_pickle``.
        allow_pickle: read pickles too, with ``weights_only=True``.

    Returns:
        The tensors in the file's dtypes, and the metadata (empty unless this package wrote it).

    Raises:
        UserError: the file is missing, broken, a pickle that is not allowed, or no state dict.
    """
    path = Path(path)
    if path.is_file() and is_pickle(path):
        if not allow_pickle:
            raise UserError(
                f"{path} is a pickle, which can run code: convert it to safetensors, "
                "or allow it with --allow-pickle (weights only)"
            )
        return strip_wrappers(read_pickle(path)), {}
    tensors, metadata = load_tensors(path)
    return strip_wrappers(tensors), metadata


def read_pickle(path: Path, *, mapped: bool = False) -> State:
    """Read a ``torch.save`` file as weights only.

    Args:
        path: the file.
        mapped: map the file into memory instead of reading it (zip archives only).

    Returns:
        The tensors by the file's names.

    Raises:
        UserError: it holds more than weights, is broken, or has no state dict.
    """
    try:
        with path.open("rb") as stream:  # by its content, whatever the name ends in
            source = path if mapped else stream
            loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as weights only ({reason}): convert it to safetensors"
        ) from None
    return unpack(loaded, path)


def single_precision(state: State) -> State:
    """Cast half and double precision tensors to fp32; integers stay as they are.

    Args:
        state: name -> tensor.

    Returns:
        The cast tensors.
    """
    return {n: v.float() if v.is_floating_point() else v for n, v in state.items()}


def check_state(state: State, reference: State, where: str | Path) -> None:
    """Refuse a state that is not exactly one finite tensor per name and shape of the reference.

    Args:
        state: what a file holds.
        reference: what the model needs.
        where: the file, for the message.

    Raises:
        UserError: a tensor is missing, extra, of another shape, or not finite; names the first
            three with their shapes.
    """
    different = []
    for name in sorted(state.keys() | reference.keys()):
        found, needed = (_shape(tensors, name) for tensors in (state, reference))
        if found is None:
            different.append(f"tensor {name!r} missing, {needed} expected")
        elif needed is None:
            different.append(f"tensor {name!r} not in the model, {found} found")
        elif found != needed:
            different.append(f"tensor {name!r} of another shape, {found} instead of {needed}")
    broken = sorted(n for n, v in state.items() if not torch.isfinite(v).all())
    if different:
        raise UserError(f"{where}: {_few(different)}: give weights of the base's architecture")
    if broken:
        names = _few([f"tensor {name!r} not finite" for name in broken])
        raise UserError(f"{where}: {names}: train or copy the weights again")


def _shape(state: State, name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _few(items: list[str]) -> str:
    rest = f" and {len(items) - FEW} more" if len(items) > FEW else ""
    return "; ".join(items[:FEW]) + rest


def digest(state: State) -> str:
    """Digest of a tower's state, BatchNorm's step counters left out.

    Args:
        state: name -> tensor.

    Returns:
        64 hexadecimal digits.
    """
    return sha256_tensors(
        {n: torch.atleast_1d(v) for n, v in state.items() if not n.endswith(COUNTER)}
    )
