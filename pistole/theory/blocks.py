"""Disjoint blocks of images and what the dot products of their gradients say (docs/method.md E.4).

A gradient is a mean over images, so its direction is signal plus sampling noise. The dot product
of the gradients of two *different* blocks has no noise term in its mean; that of a block with
itself has. Sums over pairs of blocks therefore tell both apart, and random halves of the blocks
tell how far any of these numbers would move with other images.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pistole.errors import UserError
from pistole.method.vectors import Params, Real
from pistole.seeds import generator

BLOCKS = 16
FEWEST = 4  # a half of them must still hold a pair
DEFINED = 0.9  # share of the halves that must give a number


def block_positions(images: int, most: int = BLOCKS) -> list[Tensor]:
    """Split images into an even number of interleaved blocks of one size.

    Even blocks make the even positions and odd blocks the odd ones; a remainder is left out.

    Args:
        images: number of images n.
        most: largest number of blocks.

    Returns:
        Positions per block.

    Raises:
        UserError: fewer than 4 images.
    """
    count = min(most, images) // 2 * 2
    if count < FEWEST:
        raise UserError(
            f"{images} images cannot be split into {FEWEST} blocks: raise slices.measure or the "
            "number of images of the check"
        )
    return list(torch.arange(images // count * count).view(-1, count).T)


def block_gradients(
    gradient: Callable[[Tensor], Params],
    blocks: list[Tensor],
    keep: Callable[[Params], Params] = lambda params: params,
) -> list[Params]:
    """Take the gradient of every block's mean loss.

    Args:
        gradient: from positions of images to the gradient of their mean loss.
        blocks: positions per block.
        keep: puts a gradient elsewhere; as many copies of the model come as there are blocks.

    Returns:
        Gradients per block, on the CPU.
    """
    return [
        keep({name: value.detach().cpu() for name, value in gradient(block).items()})
        for block in blocks
    ]


def half_samples(blocks: int, resamples: int, seed: int) -> Bool[Tensor, "r b"]:
    """Draw random halves of the blocks, each without repetition.

    The spread of a smooth statistic over halves around its value on all blocks equals, to first
    order, its sampling error on all blocks: 1 / (n/2) - 1 / n = 1 / n. Unlike a bootstrap, no block
    meets itself, which would put its noise back.

    Args:
        blocks: number of blocks b.
        resamples: number of halves r.
        seed: of the draw.

    Returns:
        Which blocks each half has: b // 2 of them.
    """
    order = torch.rand(resamples, blocks, generator=generator(seed, "halves")).argsort(1)
    return order < blocks // 2


def gram(first: Float[Tensor, "b ..."], second: Float[Tensor, "b ..."]) -> Float[Tensor, "b b"]:
    """Return the dot products of all pairs of blocks, in double precision on the CPU.

    Args:
        first: one tensor per block.
        second: the same shape.

    Returns:
        Entry i, j: <first_i, second_j>.
    """
    return first.flatten(1).cpu().double() @ second.flatten(1).cpu().double().T


def mean_of_pairs(grams: Float[Tensor, "b b"], chosen: Bool[Tensor, "r b"]) -> Float[Tensor, " r"]:
    """Average over pairs of different blocks: an unbiased <mu, nu> of the two mean gradients.

    Args:
        grams: dot products of all pairs.
        chosen: which blocks count, at least two.

    Returns:
        S = sum_{i != j} G_ij / (m (m - 1)) per choice.
    """
    c = chosen.double()
    m = c.sum(1)
    return ((c @ grams * c).sum(1) - c @ grams.diagonal()) / (m * (m - 1))


def of_means(grams: Float[Tensor, "b b"], chosen: Bool[Tensor, "r b"]) -> Float[Tensor, " r"]:
    """Return the dot product of the gradients over all chosen blocks together.

    Args:
        grams: dot products of all pairs.
        chosen: which blocks count.

    Returns:
        sum_ij G_ij / m^2 per choice.
    """
    c = chosen.double()
    return (c @ grams * c).sum(1) / c.sum(1).square()


def interval(values: Float[Tensor, " r"], about: Real | None = None) -> tuple[float, float] | None:
    """Return a 95 % interval from a statistic's values over halves.

    Args:
        values: one per half; NaN where it is not defined.
        about: the statistic on all blocks, around which the spread is laid, since a half has more
            noise and so another bias; None leaves the spread where the halves have it.

    Returns:
        Both ends; None if more than a tenth of the values is not defined.
    """
    defined = values[values.isfinite()].double()
    if len(values) == 0 or len(defined) < DEFINED * len(values):
        return None
    ends = torch.quantile(defined, torch.tensor([0.025, 0.975], dtype=torch.float64))
    if about is not None:
        ends = ends + about - defined.mean()
    return ends[0].item(), ends[1].item()


def or_none(value: float) -> float | None:
    """Write a number that may not exist as JSON does.

    Args:
        value: any number.

    Returns:
        It, or None if it is not finite.
    """
    return value if math.isfinite(value) else None
