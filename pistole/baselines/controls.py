"""Merges that tell selecting coordinates from shrinking vectors (docs/method.md A.10).

Each takes what PISTOLE's merge takes, and is merged with PISTOLE's lambda: all else is equal.
"""

import torch

from pistole.method.controls import permuted_masks, uniform_masks
from pistole.method.masks import mask_statistics
from pistole.method.merge import merge, require_ingredients
from pistole.method.vectors import Params, Real, zeros_like
from pistole.seeds import derive

Masks = tuple[Params, Params]


def permuted_mask(
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    masks: Masks,
    *,
    lam: Real,
    rescale: str,
    seed: int,
    draw: int,
) -> Params:
    """Merge with each layer's mask values on the wrong coordinates.

    Args:
        theta_0: the base.
        tau_nat: natural task vector.
        tau_rob: robust task vector.
        masks: M_nat and M_rob.
        lam: weight of the natural vector, in [0, 1].
        rescale: ``none`` or ``norm``.
        seed: of the run.
        draw: number of the permutation.

    Returns:
        The merged parameters.
    """
    shuffled = [
        permuted_masks(mask, seed=derive(seed, "permuted mask", draw, side))
        for side, mask in enumerate(masks)
    ]
    return merge(theta_0, tau_nat, tau_rob, (shuffled[0], shuffled[1]), lam=lam, rescale=rescale)


def uniform_shrink(
    theta_0: Params, tau_nat: Params, tau_rob: Params, masks: Masks, *, lam: Real, rescale: str
) -> Params:
    """Shrink every layer of each vector to the norm that its mask leaves, without selection.

    Args:
        theta_0: the base.
        tau_nat: natural task vector.
        tau_rob: robust task vector.
        masks: M_nat and M_rob.
        lam: weight of the natural vector, in [0, 1].
        rescale: ``none`` or ``norm``.

    Returns:
        The merged parameters.
    """
    require_ingredients(theta_0, tau_nat, tau_rob, lam)
    constant = (uniform_masks(masks[0], tau_nat), uniform_masks(masks[1], tau_rob))
    return merge(theta_0, tau_nat, tau_rob, constant, lam=lam, rescale=rescale)


def self_mask(
    theta_0: Params, tau_nat: Params, tau_rob: Params, masks: Masks, *, lam: Real, rescale: str
) -> Params:
    """Mask each vector where its own objective is sensitive, instead of the other one.

    Args:
        theta_0: the base.
        tau_nat: natural task vector.
        tau_rob: robust task vector.
        masks: M_nat, made from the robust scores, and M_rob, made from the natural ones.
        lam: weight of the natural vector, in [0, 1].
        rescale: ``none`` or ``norm``.

    Returns:
        The merged parameters.
    """
    return merge(theta_0, tau_nat, tau_rob, (masks[1], masks[0]), lam=lam, rescale=rescale)


def zero_nat(
    theta_0: Params, tau_nat: Params, tau_rob: Params, masks: Masks, *, lam: Real, rescale: str
) -> Params:
    """Take the base for the natural source: theta_0 + (1 - lambda) M_rob*tau_rob.

    The paper's "zero-shot pre-trained model as natural vector" (docs/method.md A.10).

    Args:
        theta_0: the base.
        tau_nat: natural task vector, of which only the layout counts.
        tau_rob: robust task vector.
        masks: M_nat and M_rob.
        lam: weight of the natural vector, in [0, 1].
        rescale: ``none`` or ``norm``.

    Returns:
        The merged parameters.
    """
    require_ingredients(theta_0, tau_nat, tau_rob, lam)
    nothing = zeros_like(tau_nat)
    return merge(theta_0, nothing, tau_rob, masks, lam=lam, rescale=rescale)


def wise_ft_matched(
    theta_0: Params, tau_nat: Params, tau_rob: Params, masks: Masks, *, lam: Real, rescale: str
) -> Params:
    """Plain WiSE-FT that keeps as much of the robust vector as the masked merge does.

    theta_0 + (1 - lambda) r tau_rob with r = ||M_rob*tau_rob||_2 / ||tau_rob||_2 over all layers
    (docs/method.md A.10); r = 1 if the masked layers get their norms back.

    Args:
        theta_0: the base.
        tau_nat: natural task vector, of which only the layout counts.
        tau_rob: robust task vector.
        masks: M_nat and M_rob.
        lam: weight of the natural vector, in [0, 1].
        rescale: ``none`` or ``norm``.

    Returns:
        The merged parameters.
    """
    require_ingredients(theta_0, tau_nat, tau_rob, lam)
    kept = mask_statistics(masks[1], tau_rob)["all"]["l2_retention"]
    share = min(1.0, kept) if rescale == "none" else 1.0
    constant = {name: torch.full_like(mask, share) for name, mask in masks[1].items()}
    nothing = zeros_like(tau_nat)
    return merge(theta_0, nothing, tau_rob, (constant, constant), lam=lam, rescale="none")
