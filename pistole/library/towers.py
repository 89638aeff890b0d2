"""Visual towers as named tensors, taken from modules without changing them."""

import copy
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.method.vectors import require_finite, require_same_layout
from pistole.models.state import COUNTER
from pistole.models.zeroshot import ZeroShotClassifier, load_parameters

Tensors = dict[str, Tensor]
Tower: TypeAlias = nn.Module | Mapping[str, Tensor]


def own_copy(base: ZeroShotClassifier, theta: Tensors | None = None) -> ZeroShotClassifier:
    """Copy a classifier with its tower.

    Args:
        base: the classifier; it stays as it is, whatever its mode.
        theta: parameters for the copy; None = the same.

    Returns:
        A classifier in eval mode on the base's device, whose parameters take gradients.
    """
    other = copy.deepcopy(base).eval()
    if theta is not None:
        load_parameters(other, {name: value.to(device_of(base)) for name, value in theta.items()})
    return other.requires_grad_(True)


def device_of(base: ZeroShotClassifier) -> torch.device:
    """Return where a classifier is.

    Args:
        base: the classifier.

    Returns:
        Its device.
    """
    return base.text_features.device


def parameters(base: ZeroShotClassifier) -> Tensors:
    """Copy the parameters of the base's tower.

    Args:
        base: the classifier.

    Returns:
        Name -> fp32 values on the CPU.

    Raises:
        UserError: it has none, or they are not fp32 or not finite.
    """
    found = {name: value.detach() for name, value in base.visual.named_parameters()}
    if not found:
        raise UserError("the base's visual tower has no parameters: there is nothing to merge")
    for name, value in found.items():
        if value.dtype != torch.float32:
            raise UserError(f"base: tensor {name!r} is {value.dtype}: give a tower in fp32")
    theta = {name: value.cpu().clone() for name, value in found.items()}
    require_finite(theta, "base")
    return theta


def fine_tuned(tower: Tower, base: ZeroShotClassifier, what: str) -> Tensors:
    """Take the parameters of a fine-tuned tower, held against the base's.

    Args:
        tower: a tower, a classifier with one, or its state dict.
        base: the classifier of the base.
        what: what it is, for messages.

    Returns:
        Name -> fp32 values on the CPU, in the base's order.

    Raises:
        UserError: another architecture, BatchNorm statistics other than the base's, or values
            that are not finite.
    """
    module = tower.visual if isinstance(tower, ZeroShotClassifier) else tower
    state = module.state_dict() if isinstance(module, nn.Module) else dict(module)
    reference = {name: value.detach().cpu() for name, value in base.visual.named_parameters()}
    buffers = {name: value.cpu() for name, value in base.visual.named_buffers()}
    for name, value in buffers.items():
        same = name.endswith(COUNTER) or torch.equal(state.get(name, value).cpu(), value)
        if not same:
            raise UserError(
                f"{what}: buffer {name!r} differs from the base's, and merging would ignore it: "
                "fine-tune with frozen statistics"
            )
    theta = {name: value.detach() for name, value in state.items() if name not in buffers}
    require_same_layout(reference, theta, what)
    taken = {name: theta[name].to("cpu", torch.float32, copy=True) for name in reference}
    require_finite(taken, what)
    return taken
