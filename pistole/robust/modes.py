"""The conditions under which a model is trained or attacked, and their restoration."""

import contextlib
from collections.abc import Generator

import torch
from torch import nn

from pistole.errors import UserError


@contextlib.contextmanager
def frozen(model: nn.Module) -> Generator[None]:
    """Eval mode and no parameter gradients inside; every module's own flags again afterwards.

    ``model.train()`` cannot restore them: it would un-freeze the submodules that the caller had
    put in eval mode.

    Args:
        model: the model; changed only inside the block.

    Yields:
        Nothing.
    """
    training = [(module, module.training) for module in model.modules()]
    differentiated = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in differentiated:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter, flag in differentiated:
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def exact_fp32(device: torch.device) -> Generator[None]:
    """fp32 without autocast or TF32, deterministic kernels, and the global RNGs put back.

    Reduced precision weakens an attack and so over-states robustness (docs/method.md D.2).

    Args:
        device: where the model runs; its RNG is restored, and the CPU's.

    Yields:
        Nothing.
    """
    precision = torch.get_float32_matmul_precision()
    kernels = torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        kernels,
        torch.autocast(device.type, enabled=False),
    ):
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model, with or without parameters.

    Args:
        model: the model.

    Returns:
        The device of its first parameter or else first buffer; the CPU if it has neither.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def require_fp32(model: nn.Module) -> None:
    """Refuse a model with weights of another precision.

    Args:
        model: the model.

    Raises:
        UserError: a parameter is not fp32.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise UserError(
                f"parameter {name} is {parameter.dtype}: attacks run in fp32, call model.float()"
            )
