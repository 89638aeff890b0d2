"""Gradients of single samples, all at once where memory allows it (docs/method.md C.3)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pistole.errors import UserError
from pistole.method.vectors import Params

Loss = Callable[..., Tensor]  # from parameters and one sample's tensors to a number


def per_sample_gradients(
    loss: Loss, theta: Params, samples: tuple[Tensor, ...], together: int
) -> Iterator[Params]:
    """Yield the gradient of every sample's own loss.

    Which way they are computed depends on ``together`` alone, so that equal input gives equal
    bytes; both ways agree up to rounding.

    Args:
        loss: from parameters and one sample (of each tensor one row, without the first axis) to
            its loss.
        theta: the point.
        samples: tensors with one row per sample.
        together: gradients that memory holds at once: with 1 a plain backward pass per sample,
            else vectorised over so many samples.

    Yields:
        By name the gradients of up to ``together`` samples, stacked along a new first axis.

    Raises:
        UserError: a gradient is not finite.
    """
    theta = {name: value.detach() for name, value in theta.items()}
    for rows in zip(*(tensor.split(together) for tensor in samples), strict=True):
        found = _one(loss, theta, rows) if together == 1 else _several(loss, theta, rows)
        for name, value in found.items():
            if not torch.isfinite(value).all():
                raise UserError(
                    f"the gradient of a sample's loss on {name!r} is not finite: the model has "
                    "diverged, or its logits overflow; check its weights and logit_scale"
                )
        yield found


def _one(loss: Loss, theta: Params, rows: tuple[Tensor, ...]) -> Params:
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    with torch.enable_grad():
        parts = torch.autograd.grad(loss(leaves, *(row[0] for row in rows)), list(leaves.values()))
    return {name: part[None] for name, part in zip(leaves, parts, strict=True)}


def _several(loss: Loss, theta: Params, rows: tuple[Tensor, ...]) -> Params:
    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(None, *(0 for _ in rows)))
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
        return gradient(theta, *rows)
