"""The state of a training on disk, from which a killed run goes on exactly."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pistole.files import load_tensors, save_tensors

Curve = list[dict[str, float]]
MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")  # of AdamW and SGD


def save_state(
    path: Path,
    trainable: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    metadata: dict[str, Any],
) -> None:
    """Write parameters and optimiser.

    Args:
        path: the file.
        trainable: name -> parameter.
        optimiser: of these parameters.
        metadata: what names the run, and its curve.
    """
    tensors: dict[str, Tensor] = {f"parameter/{n}": p for n, p in trainable.items()}
    for name, parameter in trainable.items():
        moments = optimiser.state.get(parameter, {})  # empty where the loss does not reach
        found = {m: v for m, v in moments.items() if v is not None}
        tensors |= {f"{moment}/{name}": value for moment, value in found.items()}
    save_tensors(path, tensors, metadata)


@torch.no_grad()
def load_state(
    path: Path | None,
    trainable: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    metadata: dict[str, Any],
) -> Curve:
    """Load the state of an equal run in place.

    Args:
        path: as given to :func:`save_state`; None or absent: there is none.
        trainable: name -> parameter.
        optimiser: of these parameters.
        metadata: what names the run; the state of any other is left alone.

    Returns:
        The curve so far, which is empty if there is no state to go on from.
    """
    if path is None or not path.is_file():
        return []
    tensors, saved = load_tensors(path)
    if any(saved.get(key) != value for key, value in metadata.items()):
        return []
    for name, parameter in trainable.items():
        parameter.copy_(tensors[f"parameter/{name}"])
        found = {m: tensors[f"{m}/{name}"] for m in MOMENTS if f"{m}/{name}" in tensors}
        # AdamW keeps its step count on the CPU, the moments beside the parameter.
        optimiser.state[parameter] = {
            m: value if m == "step" else value.to(parameter.device) for m, value in found.items()
        }
    return saved["curve"]


def forget_state(path: Path) -> None:
    """Remove the state of a finished run.

    Args:
        path: as given to :func:`save_state`; it may be absent.
    """
    path.unlink(missing_ok=True)
