"""What must hold before a robust accuracy counts (docs/method.md D.2, D.3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pistole.errors import UserError

SLACK = 1e-6  # round-off of x + eps in fp32


def check_images(images: Float[Tensor, "n c h w"]) -> None:
    """Refuse images that an attack would silently clamp or spread.

    Args:
        images: pixels.

    Raises:
        UserError: not fp32, not 4-dimensional, not finite, or outside [0, 1].
    """
    if images.dtype != torch.float32:
        raise UserError(f"images are {images.dtype}: give float32 pixels in [0, 1]")
    if images.ndim != 4 or images.numel() == 0:
        raise UserError(f"images have shape {tuple(images.shape)}: give [n, channels, h, w], n > 0")
    if not images.isfinite().all():
        raise UserError("images hold NaN or infinity: check how they were decoded")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        raise UserError(
            f"pixels span [{low:g}, {high:g}]: give [0, 1] and normalise inside the model"
        )


def check_adversarial(
    x: Float[Tensor, "n c h w"], adversarial: Float[Tensor, "n c h w"], eps: float
) -> None:
    """Stop if an attack left its threat model.

    Args:
        x: clean images.
        adversarial: what the attack returned.
        eps: radius of the l-infinity ball, pixel range.

    Raises:
        RuntimeError: other shape or precision, not finite, outside the ball or outside [0, 1].
    """
    if adversarial.shape != x.shape or adversarial.dtype != x.dtype:
        raise RuntimeError(
            f"attack returned {adversarial.dtype} {tuple(adversarial.shape)}, "
            f"not {x.dtype} {tuple(x.shape)}"
        )
    if not adversarial.isfinite().all():
        raise RuntimeError("attack returned NaN or infinity")
    distance = (adversarial - x).abs().max().item()
    if distance > eps + SLACK:
        raise RuntimeError(f"attack moved a pixel by {distance:.8f}, more than eps {eps:.8f}")
    low, high = adversarial.min().item(), adversarial.max().item()
    if low < 0 or high > 1:
        raise RuntimeError(f"attack returned pixels in [{low:g}, {high:g}], outside [0, 1]")


@torch.no_grad()
def check_deterministic(model: nn.Module, x: Float[Tensor, "n c h w"]) -> None:
    """Refuse a model whose answer varies, because an attack on it proves little.

    Args:
        model: from images to logits.
        x: images.

    Raises:
        UserError: two forward passes differ.
    """
    difference = (model(x) - model(x)).abs().max().item()
    if difference != 0:
        raise UserError(
            f"two forward passes differ by {difference:g}: remove randomness from the model"
        )


@torch.no_grad()
def checked_logits(model: nn.Module, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
    """Classify, and refuse logits that an attack could not use.

    Args:
        model: from images to logits.
        x: images.

    Returns:
        The logits.

    Raises:
        UserError: they are not fp32, or not finite.
    """
    logits = model(x)
    if logits.dtype != torch.float32:
        raise UserError(f"the model returns {logits.dtype}: attacks run in fp32")
    if not logits.isfinite().all():
        raise UserError("the model returns NaN or infinity: check its weights")
    return logits


def looks_like_logits(outputs: Float[Tensor, "n c"]) -> bool:
    """Tell whether outputs are not probabilities, whose gradients vanish.

    Args:
        outputs: of a model.

    Returns:
        False if all are in [0, 1] and every row sums to 1.
    """
    sums = outputs.sum(1)
    inside = ((outputs >= 0) & (outputs <= 1)).all()
    return not bool(inside and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))
