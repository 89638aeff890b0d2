"""Score statistics: how the gradients of many images become one score (docs/method.md A.3.1)."""

from collections.abc import Iterable

import torch

from pistole.errors import require_choice
from pistole.method.vectors import Params, require_finite, require_same_layout

STATISTICS = ("abs_mean", "mean_abs", "rms")
Micro = Iterable[tuple[int, Params]]


def micro_size(statistic: str, microbatch: int, batch_size: int) -> int:
    """Return how many images one gradient of the statistic is the mean of.

    Args:
        statistic: ``abs_mean`` is the same for any size, so it takes whole batches; ``rms`` is
            defined by single images; ``mean_abs`` lies between the two.
        microbatch: images per gradient of ``mean_abs``.
        batch_size: images per pass.

    Returns:
        A number of images.
    """
    require_choice("score_stat", statistic, STATISTICS)
    return {"abs_mean": batch_size, "mean_abs": microbatch, "rms": 1}[statistic]


def accumulate(micro: Micro, statistic: str, total: Params, signed: Params | None) -> int:
    """Add the gradients of micro-batches to running sums over images, one gradient at a time.

    Args:
        micro: number of images of a micro-batch and the mean of their gradients, in turn.
        statistic: what is summed: the gradient (``abs_mean``), its magnitude (``mean_abs``) or
            its square (``rms``).
        total: sum over images of the statistic, changed in place.
        signed: sum over images of the gradient, changed in place; None if it is not needed.

    Returns:
        The number of images.

    Raises:
        UserError: a gradient is not finite or of another layout.
    """
    require_choice("score_stat", statistic, STATISTICS)
    images = 0
    for count, gradient in micro:
        require_same_layout(total, gradient, "gradient")
        require_finite(gradient, "gradient")
        images += count
        if signed is not None:
            _add(signed, gradient, "abs_mean", count)
        _add(total, gradient, statistic, count)
        del gradient  # before the next one takes the room
    return images


def _add(total: Params, gradient: Params, statistic: str, count: int) -> None:
    for name, value in gradient.items():
        if statistic == "abs_mean":
            total[name].add_(value, alpha=count)
        elif statistic == "mean_abs":
            total[name].add_(value.abs(), alpha=count)
        else:
            total[name].addcmul_(value, value, value=count)


def magnitude(total: torch.Tensor, images: int, statistic: str) -> torch.Tensor:
    """Turn a sum over images into the score: |mean g|, mean |g_b| or sqrt(mean g^2).

    Args:
        total: what :func:`accumulate` summed.
        images: over how many images.
        statistic: its name.

    Returns:
        The score, >= 0.
    """
    mean = total / images
    return mean.sqrt() if statistic == "rms" else mean.abs()
