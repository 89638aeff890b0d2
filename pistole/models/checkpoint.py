"""Files of a visual tower's parameters: ours, open_clip's, and other people's fine-tunings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pistole.errors import UserError
from pistole.files import read_json, save_tensors, write_json
from pistole.models.layouts import visual_part
from pistole.models.state import (
    COUNTER,
    State,
    check_state,
    digest,
    read_state,
    single_precision,
)
from pistole.models.zeroshot import Params

WEIGHTS = "visual.safetensors"
MODEL = "model.json"


@dataclass(frozen=True)
class VisualBase:
    """A visual tower with all that a zero-shot classifier needs besides text features.

    Attributes:
        visual: the tower, fp32, eval mode.
        config: open_clip's model config, from which the tower can be rebuilt.
        image_size: side of the tower's input, px.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
        description: architecture, activation, parameter count, digests (JSON-able).
    """

    visual: nn.Module
    config: dict[str, Any]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: dict[str, Any]


@dataclass(frozen=True)
class OpenedBase(VisualBase):
    """A base without its text tower, as stage ``base`` stored it.

    Attributes:
        logit_scale: factor of the cosines.
    """

    logit_scale: float


def load_visual(
    path: str | Path,
    reference: Params,
    *,
    reference_buffers: State | None = None,
    allow_pickle: bool = False,
    base_digest: str | None = None,
) -> Params:
    """Read a visual tower's parameters, whoever wrote them, and check them against the base.

    :mod:`pistole.models.layouts` lists what is understood; pickles only with ``allow_pickle``.

    Args:
        path: the file.
        reference: the base's parameters: names and shapes.
        reference_buffers: the base's buffers (BatchNorm statistics). Merging keeps the base's,
            so those in the file must equal them.
        allow_pickle: read pickles too (weights only).
        base_digest: digest of the base; a file that names another base is refused.

    Returns:
        The parameters in fp32, by the names of ``reference``.

    Raises:
        UserError: another base, or a tensor is missing, extra, misshapen, not finite, or a
            buffer differs from the base's.
    """
    state, metadata = read_state(path, allow_pickle=allow_pickle)
    named = metadata.get("base_digest")
    if base_digest is not None and named is not None and named != base_digest:
        raise UserError(
            f"{path} was trained from another base (digest {named[:12]}, not {base_digest[:12]}): "
            "give a checkpoint of this base"
        )
    state = visual_part(state, path)
    buffers = reference_buffers or {}
    _check_buffers(state, buffers, path)
    params = {n: v for n, v in state.items() if n not in buffers}
    check_state(params, reference, path)
    return single_precision({name: params[name] for name in sorted(params)})


def _check_buffers(state: State, buffers: State, path: str | Path) -> None:
    different = []
    for name in sorted(state.keys() & buffers.keys()):
        if name.endswith(COUNTER):
            continue
        # A half-precision file of the same statistics is not a different one.
        own = buffers[name].to(device="cpu", dtype=state[name].dtype)
        if not torch.equal(own, state[name]):
            different.append(name)
    if different:
        raise UserError(
            f"{path}: buffer {different[0]!r} (of {len(different)}) differs from the base's, and "
            "merging would ignore it: fine-tune with frozen BatchNorm statistics"
        )


def save_base(folder: str | Path, base: VisualBase, *, logit_scale: float) -> None:
    """Write the visual tower so that :func:`open_base` needs neither text tower nor network.

    Args:
        folder: gets ``visual.safetensors`` (parameters and buffers) and ``model.json``. The
            caller adds ``text/DATASET.safetensors`` with the tensor ``text_features`` [C, e].
        base: the model.
        logit_scale: factor of the cosines in zero-shot classification.
    """
    folder = Path(folder)
    state: State = dict(base.visual.state_dict())
    save_tensors(folder / WEIGHTS, state, {"digest": digest(state)})
    trained = {name for name, _ in base.visual.named_parameters()}
    record = {
        "config": base.config,
        "image_size": base.image_size,
        "mean": list(base.mean),
        "std": list(base.std),
        "logit_scale": logit_scale,
        "description": base.description,
        "digest": digest(state),
        "buffers": sorted(state.keys() - trained),
    }
    write_json(folder / MODEL, record)


def open_base(folder: str | Path) -> OpenedBase:
    """Rebuild the visual tower that :func:`save_base` wrote.

    Args:
        folder: what :func:`save_base` filled.

    Returns:
        The tower and its settings.

    Raises:
        UserError: the folder is incomplete, or its weights are not those of its record.
    """
    from pistole.models.towers import build_visual  # open_clip takes seconds to import

    folder = Path(folder)
    record = read_json(folder / MODEL)
    state, _ = read_state(folder / WEIGHTS)
    visual = build_visual(record["config"], record["image_size"], str(folder / MODEL))
    check_state(state, visual.state_dict(), folder / WEIGHTS)
    if digest(state) != record["digest"]:
        raise UserError(f"{folder / WEIGHTS} is not what {MODEL} tells of: run stage base again")
    visual.load_state_dict(state)
    return OpenedBase(
        visual=visual,
        config=record["config"],
        image_size=record["image_size"],
        mean=tuple(record["mean"]),
        std=tuple(record["std"]),
        description=record["description"],
        logit_scale=record["logit_scale"],
    )
