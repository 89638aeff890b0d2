"""How much of a score is signal: rank correlation of two disjoint halves (docs/method.md A.3.1)."""

import numpy as np
import torch
from torch import Tensor

from pistole.method.vectors import Params, require_same_layout
from pistole.seeds import generator

RANKED = 2**17  # coordinates of a layer: the correlation's standard error is below 0.003


def average_ranks(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Rank values along an axis, from 1; equal ones share their mean rank (docs/method.md A.3.1).

    Args:
        values: any shape.
        axis: along which they are compared.

    Returns:
        Ranks in the shape of ``values``.
    """
    from scipy.stats import rankdata  # takes seconds to import, and stages begin without it

    return rankdata(values, axis=axis)


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
    return float(np.corrcoef(average_ranks(a), average_ranks(b))[0, 1])


def split_half_reliability(first: Params, second: Params) -> dict[str, float]:
    """Compare the scores of two disjoint halves of the calibration set, layer by layer.

    Sorting a large tower's parameters takes longer than the passes that scored them, so that of a
    layer with more than :data:`RANKED` coordinates as many are drawn, by its name alone.

    Args:
        first: scores of one half.
        second: scores of the other half, same names and shapes.

    Returns:
        layer -> Spearman's rank correlation over its coordinates.

    Raises:
        UserError: the halves differ in a name or a shape.
    """
    require_same_layout(first, second, "scores of the second half")
    found = {}
    for name, one in first.items():
        other = second[name]
        if one.numel() > RANKED:
            draws = generator("reliability", name, one.numel())
            chosen = torch.randint(one.numel(), (RANKED,), generator=draws).to(one.device)
            one, other = one.flatten()[chosen], other.flatten()[chosen]
        found[name] = spearman(one, other)
    return found
