"""The largest entries of a tensor, an exact number of them."""

import torch
from torch import Tensor


def largest(scores: Tensor, share: float) -> Tensor:
    """Mark the top share of a tensor's entries.

    Args:
        scores: any shape, finite.
        share: of all entries, in [0, 1].

    Returns:
        A mask of the same shape with share x entries, rounded down (but at least one if the share
        is not 0); of equal entries the first ones.
    """
    values = scores.flatten()
    count = max(1, int(share * len(values))) if share > 0 and len(values) else 0
    if not count:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = values.kthvalue(len(values) - count + 1)[0]
    above, ties = values > threshold, values == threshold
    first = ties & (ties.cumsum(0) <= count - above.sum())
    return (above | first).reshape(scores.shape)
