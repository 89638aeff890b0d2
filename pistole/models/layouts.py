"""How other people's files hold a visual tower: one table of names.

| who wrote it | container | wrapper | tensors |
|---|---|---|---|
| this package, safetensors of a tower | - | - | bare |
| open_clip, OpenAI (whole model) | - or `state_dict` | - or `module.` | `visual.` + text tower |
| RobustVLM (FARE, TeCoA) | - | - or `model.` | bare |
| TeCoA, PMG-AFT, TGA-ZSR | `vision_encoder_state_dict` | - or `module.` | bare |
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from pistole.errors import UserError

State = dict[str, torch.Tensor]
Value = TypeVar("Value")

# In this order: TeCoA's files have a `state_dict` too, which is that of a prompter.
CONTAINERS = ("vision_encoder_state_dict", "state_dict", "model")
WRAPPERS = ("module.", "model.")  # DistributedDataParallel and RobustVLM's wrapper classes
VISUAL = "visual."
TEXT = (  # everything else in a whole CLIP, by the beginning of its name
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "text.",
    "logit_scale",
    "logit_bias",
    "attn_mask",
    "input_resolution",
    "context_length",
    "vocab_size",
)


def unpack(loaded: Any, path: str | Path) -> State:
    """Find the state dict in what ``torch.save`` kept.

    Args:
        loaded: the content of the file.
        path: the file, for the message.

    Returns:
        The tensors by the file's names.

    Raises:
        UserError: there is no state dict of tensors.
    """
    for key in CONTAINERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not all(torch.is_tensor(v) for v in loaded.values()):
        raise UserError(f"{path} holds no state dict of tensors: save model.state_dict() alone")
    return dict(loaded)


def strip_wrappers(state: dict[str, Value]) -> dict[str, Value]:
    """Remove ``module.`` and ``model.`` where every name has it.

    Args:
        state: name -> tensor, read or not.

    Returns:
        The same tensors under the names of the bare model.
    """
    for prefix in WRAPPERS * 2:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def visual_part(state: State, path: str | Path) -> State:
    """Leave a whole CLIP's text tower out.

    Args:
        state: a whole CLIP or a bare visual tower, without wrappers.
        path: the file, for the message.

    Returns:
        The visual tower by its own names.

    Raises:
        UserError: beside a visual tower there are tensors that belong to no CLIP.
    """
    if not any(name.startswith(VISUAL) for name in state):
        return state
    rest = [name for name in state if not name.startswith((VISUAL, *TEXT))]
    if rest:
        raise UserError(
            f"{path}: tensor {min(rest)!r} belongs to neither tower of a CLIP: "
            "save the visual tower or the whole model alone"
        )
    return {n.removeprefix(VISUAL): v for n, v in state.items() if n.startswith(VISUAL)}
