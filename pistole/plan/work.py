"""Passes of images through the visual tower, the unit that a run's cost is counted in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

FORWARD = "forward"  # no gradient
IMAGE = "image_gradient"  # forward, and backward to the pixels: a step of an attack
WEIGHT = "weight_gradient"  # forward, and backward to the parameters
GRAPH = "gradient_graph"  # the same, kept for Hessian-vector products
PRODUCT = "hessian_product"  # one Hessian-vector product through that graph, no forward of its own
SECOND = "second_derivative"  # forward and three reverse sweeps: d^2/dt^2 along a direction
TEXT = "text"  # one prompt through the text tower

# Forward-equivalents by the convention that a backward pass counts as two forward passes. Of the
# second-order passes it is the number of floating-point operations of a ViT, counted and rounded.
EFFORT = {FORWARD: 1, IMAGE: 3, WEIGHT: 3, GRAPH: 3, PRODUCT: 6, SECOND: 14, TEXT: 0}
WITH_FORWARD = (FORWARD, IMAGE, WEIGHT, GRAPH, SECOND)


@dataclass(frozen=True)
class Work:
    """Passes of one kind.

    Attributes:
        kind: a key of :data:`EFFORT`.
        images: images times passes; not a whole number where it is an expectation.
        batch: images that go through the tower together.
    """

    kind: str
    images: float
    batch: int


Works = list[Work]


def times(factor: float, works: Iterable[Work]) -> Works:
    """Repeat passes.

    Args:
        factor: how often.
        works: the passes.

    Returns:
        The same kinds and batches, with more images.
    """
    return [Work(part.kind, factor * part.images, part.batch) for part in works]


def by_kind(works: Iterable[Work]) -> dict[str, float]:
    """Add passes of the same kind.

    Args:
        works: the passes.

    Returns:
        kind -> images times passes, of the kinds that occur.
    """
    total: dict[str, float] = {}
    for part in works:
        if part.images:
            total[part.kind] = total.get(part.kind, 0) + part.images
    return total


def images_forward(works: Iterable[Work]) -> float:
    """Count the images that enter the visual tower.

    Args:
        works: the passes.

    Returns:
        Images times forward passes, whether or not a backward pass follows.
    """
    return sum(part.images for part in works if part.kind in WITH_FORWARD)


def forward_equivalents(works: Iterable[Work]) -> float:
    """Count the effort: a forward pass is 1, a forward and backward pass 3.

    Args:
        works: the passes.

    Returns:
        Forward-equivalents of the visual tower.
    """
    return sum(EFFORT[part.kind] * part.images for part in works)


def flops(works: Iterable[Work], per_image: Mapping[str, float]) -> float:
    """Count floating-point operations.

    Args:
        works: the passes.
        per_image: kind -> operations of one image (of one prompt for ``text``).

    Returns:
        Operations; a multiplication and an addition count as two.
    """
    return sum(per_image[part.kind] * part.images for part in works)
