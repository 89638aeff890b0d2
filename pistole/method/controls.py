"""Controls of the masks: as much masking, aimed by something else (docs/method.md A.10)."""

import torch

from pistole.method.masks import mask_statistics
from pistole.method.vectors import Params
from pistole.seeds import generator


def permuted_masks(masks: Params, *, seed: int) -> Params:
    """Shuffle each layer's mask: the same values on the wrong coordinates (docs/method.md A.10).

    Args:
        masks: name -> mask.
        seed: of the permutations, one per layer.

    Returns:
        Masks with the same shapes and, per layer, the same values.
    """
    shuffled = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator(seed, "permuted mask", name))
        shuffled[name] = mask.flatten()[order.to(mask.device)].view(mask.shape)
    return shuffled


def uniform_masks(masks: Params, tau: Params) -> Params:
    """Replace each layer's mask by the constant that keeps the same l2 norm of the vector.

    ||M*tau||_2 / ||tau||_2 per layer (docs/method.md A.10): the same shrinking without selection.

    Args:
        masks: name -> mask.
        tau: the task vector it belongs to, same names and shapes.

    Returns:
        Constant masks with the same shapes.
    """
    kept = mask_statistics(masks, tau)
    return {
        name: torch.full_like(mask, min(1.0, kept[name]["l2_retention"]))
        for name, mask in masks.items()
    }


def magnitude_scores(tau: Params) -> Params:
    """Score a coordinate by how far its source moved it: s = |tau| (docs/method.md A.10).

    Args:
        tau: task vector of a source, in the place of the gradient of its objective.

    Returns:
        Scores >= 0.
    """
    return {name: value.abs() for name, value in tau.items()}


def random_scores(like: Params, *, seed: int) -> Params:
    """Score coordinates by the magnitude of normal noise (docs/method.md A.10).

    Args:
        like: gives names, shapes, dtype and device.
        seed: of the draws, one per tensor.

    Returns:
        Scores >= 0.
    """
    drawn = {}
    for name, value in like.items():
        noise = torch.randn(value.shape, generator=generator(seed, "random scores", name))
        drawn[name] = noise.abs().to(value)
    return drawn
