"""The transfer pool: adversarial images found for other models (docs/method.md D.2).

An attack on one model may find what an attack on another one missed. Each image of the pool costs
one forward pass and only ever takes a right answer away, so that robust accuracy stays or falls.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.robust.checks import check_adversarial, checked_logits
from pistole.robust.modes import device_of, exact_fp32, frozen, require_fp32


@dataclass(frozen=True)
class Pooled:
    """What was found for one model.

    Attributes:
        name: of the model.
        positions: of the samples that it was fooled on, each once.
        images: from rows, which number these samples, to their adversarial images.
    """

    name: str
    positions: Int[Tensor, " k"]
    images: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tried:
    """What became of every sample.

    Attributes:
        fooled_by: name of the model whose image fooled this one; empty if none did.
        forwards: images that were classified.
    """

    fooled_by: tuple[str, ...]
    forwards: int


def try_pool(
    model: nn.Module,
    x: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    alive: Bool[Tensor, " n"],
    pool: Iterable[Pooled],
    *,
    eps: float,
    batch_size: int,
) -> Tried:
    """Try a model on the images that were found for others, each on its own sample.

    A fooled sample leaves at once, so that the order of the pool decides whose image is named, not
    which samples fall.

    Args:
        model: from images in [0, 1] to logits; fp32.
        x: clean images, fp32.
        labels: their classes.
        alive: which samples the model still gets right.
        pool: what was found, in the order in which it is tried.
        eps: radius of the ball, pixel range.
        batch_size: images per batch.

    Returns:
        Who fell to whose image.

    Raises:
        UserError: unfit model; an image of the pool is of no sample, outside the ball or outside
            [0, 1].
    """
    require_fp32(model)
    device, alive = device_of(model), alive.clone()
    fooled_by, forwards = [""] * len(x), 0
    with exact_fp32(device), frozen(model):
        for found in pool:
            for rows in _batches(found, alive, batch_size):
                positions = found.positions[rows]
                images = found.images(rows)
                _require_inside(found.name, x[positions], images, eps)
                predictions = checked_logits(model, images.to(device)).argmax(1).cpu()
                forwards += len(rows)
                for position in positions[predictions != labels[positions]].tolist():
                    alive[position] = False
                    fooled_by[position] = found.name
    return Tried(tuple(fooled_by), forwards)


def _batches(found: Pooled, alive: Tensor, batch_size: int) -> Iterator[Tensor]:
    # Every sample is there once: what falls in a batch is in no later one of this model.
    places = found.positions
    outside = bool(((places < 0) | (places >= len(alive))).any())
    if outside or len(places.unique()) != len(places):
        raise UserError(
            f"images found for {found.name} are not each of another of the {len(alive)} samples: "
            "evaluate it again"
        )
    rows = alive[places].nonzero()[:, 0]
    if len(rows):  # the split of nothing is one empty part
        yield from rows.split(batch_size)


def _require_inside(name: str, x: Tensor, images: Tensor, eps: float) -> None:
    try:
        check_adversarial(x, images, eps)
    except RuntimeError as error:
        raise UserError(
            f"an image found for {name} is outside the threat model ({error}): evaluate {name} "
            "again"
        ) from None
