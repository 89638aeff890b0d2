"""Lists of samples whose images can be read."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pistole.data.dataset import interleaved, require_enough
from pistole.data.images import ImageSplit
from pistole.errors import UserError
from pistole.progress import counting

MOST_CORRUPT = 0.001  # share of the samples looked at; above it the data is broken, not a file
NAMED = 3


class Listed(NamedTuple):
    """One slice.

    Attributes:
        positions: its samples, sorted.
        corrupt: samples that were passed over, in the order met.
    """

    positions: list[int]
    corrupt: list[int]


def readable_slices(
    split: ImageSplit, sizes: Mapping[str, int], seed_parts: Sequence[int | str], what: str
) -> dict[str, Listed]:
    """Cut disjoint, stratified slices; the next sample takes the place of a corrupt one.

    Without corrupt images these are the slices of :func:`pistole.data.dataset.disjoint_slices`.

    Args:
        split: the samples.
        sizes: number of samples per slice, in the order of cutting.
        seed_parts: what the draw belongs to.
        what: the split in words, for progress and messages.

    Returns:
        The slices by name.

    Raises:
        UserError: there are too few samples, or more than 0.1 % of those looked at are corrupt.
    """
    wanted = sum(sizes.values())
    require_enough(len(split.labels), sizes)
    order, cut = iter(interleaved(split.labels, seed_parts)), {}
    looked, bad = 0, []
    with counting(what, wanted) as advance:
        for name, size in sizes.items():
            cut[name] = Listed([], [])
            while len(cut[name].positions) < size and (position := next(order, None)) is not None:
                readable = split.is_readable(position)
                cut[name][0 if readable else 1].append(position)
                bad += [] if readable else [position]
                looked += 1
                advance()
                if looked >= wanted:
                    require_few_corrupt(split, bad, looked, what)
    if looked - len(bad) < wanted:
        require_enough(looked - len(bad), sizes)
    return {name: Listed(sorted(kept), corrupt) for name, (kept, corrupt) in cut.items()}


def require_few_corrupt(split: ImageSplit, corrupt: Sequence[int], looked: int, what: str) -> None:
    """Refuse a split with more corrupt images than a stray one.

    Args:
        split: the samples.
        corrupt: those that cannot be read.
        looked: number of those that were tried.
        what: the split in words, for the message.

    Raises:
        UserError: their share is above 0.1 %.
    """
    if len(corrupt) <= MOST_CORRUPT * looked:
        return
    first = [f"{split.ids[i]} in {split.places[i].where}" for i in corrupt[:NAMED]]
    more = f" and {len(corrupt) - NAMED} more" if len(corrupt) > NAMED else ""
    raise UserError(
        f"{what}: {len(corrupt)} of {looked} images cannot be read ({', '.join(first)}{more}), "
        f"above the {MOST_CORRUPT:.1%} that are passed over: copy or make them again"
    )
