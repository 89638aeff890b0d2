"""Exact order statistics of vectors that are walked tensor by tensor (docs/method.md C).

Radix selection: the order of single-precision numbers is the order of their bit patterns, so one
pass counts the upper 16 bits and a second the lower 16 bits of the one bin that holds the rank.
Memory is a few histograms, whatever the length of the vector; the result is an entry of it.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pistole.errors import UserError

Rows = Callable[[], Iterator[Sequence[Tensor]]]
Ranks = Callable[[int], Sequence[int]]

CHUNK = 1 << 19  # coordinates whose keys are held at once: they stay in the processor's cache
LARGE = 1 << 18  # coordinates from which counting is faster than selecting, and needs no copies
HALF = 16
BINS = 1 << HALF
LOW = BINS - 1
MAGNITUDE = 0x7FFFFFFF
INFINITY = 0x7F800000


def _keys(tensor: Tensor, magnitude: bool) -> Iterator[Tensor]:
    """Integers in the order of the values (of their magnitudes), chunk by chunk."""
    for part in tensor.reshape(-1).split(CHUNK):
        bits = part.float().contiguous().view(torch.int32)
        if magnitude:
            yield bits & MAGNITUDE
        else:
            yield (bits >> 31).bitwise_and_(MAGNITUDE).bitwise_xor_(bits)


def _value(key: int) -> float:
    bits = key if key >= 0 else key ^ MAGNITUDE
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()


def _upper(rows: Rows, magnitude: bool) -> list[Tensor]:
    """Count the upper halves of the keys; of signed keys, -2^15 is bin 0."""
    offset = 0 if magnitude else BINS // 2
    counts: list[Tensor] = []
    for row in rows():
        counts = counts or [torch.zeros(BINS, dtype=torch.int64) for _ in row]
        for count, tensor in zip(counts, row, strict=True):
            for keys in _keys(tensor, magnitude):
                upper = keys.bitwise_right_shift_(HALF)
                count += torch.bincount(upper.add_(offset) if offset else upper, minlength=BINS)
    infinite = INFINITY >> HALF
    for number, count in enumerate(counts, 1):
        below = 0 if magnitude else int(count[: offset - infinite].sum())
        if below or count[offset + infinite :].any():
            raise UserError(f"vector {number} is not finite (NaN or infinity): make it again")
    return counts


def _lower(rows: Rows, magnitude: bool, chosen: list[dict[int, Tensor]]) -> None:
    """Count the lower halves of the keys that lie in the chosen bins."""
    offset = 0 if magnitude else BINS // 2
    for row in rows():
        for bins, tensor in zip(chosen, row, strict=True):
            for keys in _keys(tensor, magnitude):
                upper = keys >> HALF
                for number, count in bins.items():
                    inside = keys[upper == number - offset]
                    if inside.numel():
                        count += torch.bincount(inside.bitwise_and_(LOW), minlength=BINS)


def _place(count: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds a rank, and the rank within it."""
    ends = count.cumsum(0)
    found = int(torch.searchsorted(ends, rank, right=True))
    return found, int(rank - ends[found] + count[found])


def order_statistics(rows: Rows, ranks: Ranks, *, magnitude: bool = False) -> list[list[float]]:
    """Select entries of given ranks from each of several vectors, exactly, in two passes.

    Args:
        rows: gives the vectors piece by piece, one tensor per vector in every piece; every call
            begins anew and gives the same values.
        ranks: from a vector's length to the ranks wanted, counted from 0 for the least.
        magnitude: rank the magnitudes instead of the values.

    Returns:
        Per vector the selected values, in the order of the ranks.

    Raises:
        UserError: no coordinate at all, a rank that is not in the vector, or a value that is not
            finite.
    """
    uppers = _upper(rows, magnitude)
    size = int(uppers[0].sum()) if uppers else 0
    if not size:
        raise UserError(
            "the vectors have no coordinate: give at least one tensor that is not empty"
        )
    wanted = list(ranks(size))
    if any(not 0 <= rank < size for rank in wanted):
        raise UserError(f"ranks {wanted} of {size} coordinates: give ranks in [0, {size - 1}]")
    places = [[_place(count, rank) for rank in wanted] for count in uppers]
    chosen = [{b: torch.zeros(BINS, dtype=torch.int64) for b, _ in place} for place in places]
    _lower(rows, magnitude, chosen)
    offset = 0 if magnitude else BINS // 2
    return [
        [_value(((b - offset) << HALF) + _place(counts[b], rest)[0]) for b, rest in place]
        for place, counts in zip(places, chosen, strict=True)
    ]


def count_of(share: float, size: int) -> int:
    """Return how many of ``size`` coordinates a share is: rounded down, but at least one.

    Args:
        share: in (0, 1].
        size: number of coordinates, at least 1.

    Returns:
        The number, in [1, size].
    """
    return max(1, min(size, int(share * size)))


def top_thresholds(rows: Rows, share: float) -> list[float]:
    """Return each vector's k-th largest magnitude, k being a share of its coordinates.

    Args:
        rows: gives the vectors piece by piece, as for :func:`order_statistics`.
        share: k over the length, in (0, 1].

    Returns:
        Per vector the least magnitude among the k largest.
    """
    found = order_statistics(rows, lambda size: [size - count_of(share, size)], magnitude=True)
    return [values[0] for values in found]


def tensor_threshold(tensor: Tensor, share: float) -> float:
    """Return the k-th largest magnitude of one tensor in memory.

    Args:
        tensor: any shape, at least one coordinate.
        share: k over the number of coordinates, in (0, 1].

    Returns:
        The least magnitude among the k largest.
    """
    size = tensor.numel()
    if size > LARGE:
        return top_thresholds(lambda: iter([[tensor]]), share)[0]
    magnitudes = tensor.float().abs().flatten()
    return magnitudes.kthvalue(size - count_of(share, size) + 1).values.item()
