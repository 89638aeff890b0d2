"""Named tensors from files of any origin, checked one by one against what a model needs."""

import pickle
from pathlib import Path
from typing import Any

import torch

from pistole.errors import UserError
from pistole.files import is_pickle, load_tensors, sha256_tensors

State = dict[str, torch.Tensor]
WRAPPERS = ("module.", "model.")  # DistributedDataParallel and RobustVLM's wrapper classes
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
        return strip_wrappers(_read_pickle(path)), {}
    tensors, metadata = load_tensors(path)
    return strip_wrappers(tensors), metadata


def _read_pickle(path: Path) -> State:
    try:
        with path.open("rb") as stream:  # by its content, whatever the name ends in
            loaded = torch.load(stream, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as weights only ({reason}): convert it to safetensors"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(torch.is_tensor(v) for v in loaded.values()):
        raise UserError(f"{path} holds no state dict of tensors: save model.state_dict() alone")
    return loaded


def strip_wrappers(state: State) -> State:
    """Remove ``module.`` and ``model.`` where every name has it.

    Args:
        state: name -> tensor.

    Returns:
        The same tensors under the names of the bare model.
    """
    for prefix in WRAPPERS * 2:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


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
        UserError: a tensor is missing, extra, of another shape, or not finite; names the first.
    """
    remedy = "give weights of the base's architecture"
    shapes = {n: tuple(v.shape) for n, v in reference.items()}
    missing = sorted(reference.keys() - state.keys())
    extra = sorted(state.keys() - reference.keys())
    misshapen = sorted(n for n in state.keys() & shapes.keys() if state[n].shape != shapes[n])
    broken = sorted(n for n, v in state.items() if not torch.isfinite(v).all())
    if missing:
        raise UserError(f"{where}: {_first(missing)} missing: {remedy}")
    if extra:
        raise UserError(f"{where}: {_first(extra)} not in the model: {remedy}")
    if misshapen:
        name = misshapen[0]
        raise UserError(
            f"{where}: {_first(misshapen)} of another shape, {tuple(state[name].shape)} "
            f"instead of {shapes[name]}: {remedy}"
        )
    if broken:
        raise UserError(f"{where}: {_first(broken)} not finite: train or copy the weights again")


def _first(names: list[str]) -> str:
    return (
        f"tensor {names[0]!r} (and {len(names) - 1} more)" if names[1:] else f"tensor {names[0]!r}"
    )


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
