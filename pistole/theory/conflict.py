"""Which parts of a tower two objectives pull apart, and how concentrated that is.

docs/method.md E.6: optimisation conflict, task-vector conflict, functional sensitivity, their rank
product, and statistics of the resulting map.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pistole.errors import UserError
from pistole.method.reliability import average_ranks


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of two tensors in double precision.

    Args:
        a: any shape.
        b: the same shape.

    Returns:
        In [-1, 1]; NaN if one is 0.
    """
    u, v = a.double().flatten(), b.double().flatten()
    below = u.norm() * v.norm()
    return (u @ v / below).clamp(-1, 1).item() if below > 0 else math.nan


def optimisation_conflict(cosines: Float[Tensor, "*r"]) -> Float[Tensor, "*r"]:
    """Return OC = (1 - cos(g_nat, g_rob)) / 2 (docs/method.md E.6).

    Args:
        cosines: of the two gradients of a part.

    Returns:
        In [0, 1]: 0 same direction, 1 opposite; a part without gradient has no conflict, 0.
    """
    return ((1 - cosines) / 2).nan_to_num(nan=0.0)


def divergence(before: Float[Tensor, "n c"], after: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Return KL(p || p') of every image, in nats (docs/method.md E.6).

    Args:
        before: log p.
        after: log p' of the model without the part.

    Returns:
        Per image, >= 0 up to rounding.
    """
    p = before.double()
    return (p.exp() * (p - after.double())).sum(1)


def rank_product(a: Float[Tensor, "*r h"], b: Float[Tensor, "*r h"]) -> Float[Tensor, "*r h"]:
    """Return rank(a) rank(b) / h^2, the largest value ranked h, ties at their mean rank.

    Scale free: with h parts it lies in (0, 1] whatever the units (docs/method.md E.6).

    Args:
        a: one value per part.
        b: the same shape.

    Returns:
        The score of every part.
    """
    ranks = [torch.from_numpy(average_ranks(x.double().numpy())) for x in (a, b)]
    return ranks[0] * ranks[1] / a.shape[-1] ** 2


def gini(values: Float[Tensor, "*r h"]) -> Float[Tensor, "*r"]:
    """Return the Gini coefficient: 0 all parts equal, 1 - 1/h one part has everything.

    Args:
        values: >= 0, one per part.

    Returns:
        sum_i (2 i - h - 1) x_(i) / (h sum x); NaN if all values are 0.
    """
    h = values.shape[-1]
    weights = 2 * torch.arange(1, h + 1, dtype=torch.float64) - h - 1
    x = values.double().sort(dim=-1).values
    return (x * weights).sum(-1) / (h * x.sum(-1))


def top_count(parts: int, share: float) -> int:
    """Return how many parts a share of them is, at least one.

    Args:
        parts: number of parts.
        share: in (0, 1].

    Returns:
        The share, rounded up.
    """
    return max(1, math.ceil(share * parts - 1e-9))


def top_parts(values: Float[Tensor, "*r h"], count: int) -> Bool[Tensor, "*r h"]:
    """Mark the parts of the largest values; ties go to the earlier part.

    Args:
        values: one per part.
        count: how many to mark.

    Returns:
        True for exactly ``count`` parts.
    """
    order = values.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros(values.shape, dtype=torch.bool).scatter(-1, order, True)


def top_share(values: Float[Tensor, "*r h"], count: int) -> Float[Tensor, "*r"]:
    """Return the share of the total that the ``count`` largest parts have.

    Args:
        values: >= 0, one per part.
        count: how many parts.

    Returns:
        In [count / h, 1]; NaN if all values are 0.
    """
    x = values.double()
    return (x * top_parts(values, count)).sum(-1) / x.sum(-1)


def jaccard(a: Bool[Tensor, " h"], b: Bool[Tensor, " h"]) -> float:
    """Return the overlap of two sets: size of what they share over size of both together.

    Args:
        a: membership.
        b: membership.

    Returns:
        In [0, 1]; 1 for two empty sets.
    """
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def chance_jaccard(parts: int, count: int) -> float:
    """Return the mean Jaccard overlap of two independent random sets of ``count`` parts.

    Args:
        parts: number of parts h.
        count: size of each set.

    Returns:
        sum_m P(m) m / (2 count - m) with m hypergeometric.

    Raises:
        UserError: the sets are empty or larger than the whole.
    """
    if not 1 <= count <= parts:
        raise UserError(f"{count} of {parts} parts make no set: set theory.conflict_map.top lower")
    from scipy.stats import hypergeom  # takes seconds to import

    law = hypergeom(parts, count, count)
    return float(sum(law.pmf(m) * m / (2 * count - m) for m in range(count + 1)))
