"""How much of a score is signal: rank correlation of two disjoint halves (docs/method.md A.3.1)."""

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from pistole.method.vectors import Params, require_same_layout


def spearman(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation of two tensors of the same shape.

    Args:
        first: any shape.
        second: the same shape.

    Returns:
        In [-1, 1]; 0 where a tensor is constant and so ranks nothing.
    """
    a, b = (t.detach().flatten().double().cpu().numpy() for t in (first, second))
    if a.size < 2 or (a == a[0]).all() or (b == b[0]).all():
        return 0.0
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def split_half_reliability(first: Params, second: Params) -> dict[str, float]:
    """Compare the scores of two disjoint halves of the calibration set, layer by layer.

    Args:
        first: scores of one half.
        second: scores of the other half, same names and shapes.

    Returns:
        layer -> Spearman's rank correlation over its coordinates.
    """
    require_same_layout(first, second, "scores of the second half")
    return {name: spearman(first[name], second[name]) for name in first}
