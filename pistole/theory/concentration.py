"""How concentrated, how stable and how telling a map over heads is (docs/method.md E.6)."""

from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pistole.seeds import generator
from pistole.theory.agreement import Grams, agreement
from pistole.theory.blocks import interval, or_none
from pistole.theory.conflict import (
    chance_jaccard,
    gini,
    jaccard,
    optimisation_conflict,
    rank_product,
    top_parts,
    top_share,
)
from pistole.theory.correlation import fit

DRAWS = 1000
RESAMPLES = 2000


@dataclass(frozen=True)
class HeadMap:
    """Conflict, sensitivity and their two products, a row per choice of image blocks.

    Attributes:
        conflict: OC_h.
        sensitivity: FS_h.
    """

    conflict: Float[Tensor, "r h"]
    sensitivity: Float[Tensor, "r h"]

    @property
    def score(self) -> Float[Tensor, "r h"]:
        """Rank product of OC_h and FS_h over h^2."""
        return rank_product(self.conflict, self.sensitivity)

    @property
    def mass(self) -> Float[Tensor, "r h"]:
        """OC_h FS_h: unlike ranks, it can be concentrated in few heads or in none."""
        return self.conflict * self.sensitivity


def head_map(
    grams: list[Grams], sensitivity: Float[Tensor, "h b"], chosen: Bool[Tensor, "r b"]
) -> HeadMap:
    """Make the map from some of the image blocks (docs/method.md E.6).

    Args:
        grams: per head, dot products of natural and robust block gradients.
        sensitivity: per head, mean KL of every block's images.
        chosen: which blocks count.

    Returns:
        One row per choice.
    """
    cosines = torch.stack([agreement(part, chosen).cosine for part in grams], dim=1)
    c = chosen.double()
    mean = c @ sensitivity.double().T / c.sum(1, keepdim=True)
    return HeadMap(optimisation_conflict(cosines), mean)


def concentration(
    whole: Float[Tensor, "1 h"], spread: Float[Tensor, "r h"], top: int
) -> dict[str, float | list[float] | None]:
    """Tell how concentrated a map is (docs/method.md E.6).

    Args:
        whole: the map on all images, >= 0.
        spread: the map on random halves of the images.
        top: number of top heads.

    Returns:
        ``gini`` and ``top_share`` with their 95 % intervals; None where all values are 0.
    """
    found: dict[str, float | list[float] | None] = {}
    for name, measure in (("gini", gini), ("top_share", lambda x: top_share(x, top))):
        value = or_none(measure(whole).item())
        ends = interval(measure(spread), about=value) if value is not None else None
        found[name] = value
        found[f"{name}_ci95"] = list(ends) if ends is not None else None
    return found


def chance_top_share(heads: int, top: int, seed: int) -> float:
    """Return the mean top share of a rank product whose two ranks are independent.

    A rank product has the same ranks 1 to h in every tower, so its concentration says little: this
    is what it has by construction.

    Args:
        heads: number of heads h.
        top: number of top heads.
        seed: of the draws.

    Returns:
        Mean over 1000 random pairings.
    """
    ranks = torch.arange(1, heads + 1, dtype=torch.float64).expand(DRAWS, heads)
    order = torch.rand(DRAWS, heads, generator=generator(seed, "ranks")).argsort(1).double()
    return top_share(rank_product(ranks, order), top).mean().item()


def overlap(maps: Float[Tensor, "r h"], top: int) -> dict[str, float]:
    """Compare the top heads of several maps, pair by pair (docs/method.md E.6).

    Args:
        maps: at least two maps.
        top: number of top heads.

    Returns:
        ``jaccard``, the mean over pairs, and ``chance``, that of random sets.
    """
    marked = top_parts(maps, top)
    pairs = [jaccard(marked[i], marked[j]) for i, j in combinations(range(len(maps)), 2)]
    return {"jaccard": sum(pairs) / len(pairs), "chance": chance_jaccard(maps.shape[1], top)}


def rank_correlation(
    x: Float[Tensor, " h"], y: Float[Tensor, " h"], seed: int
) -> dict[str, float | list[float] | None]:
    """Correlate two quantities over heads, with a bootstrap over the heads.

    Args:
        x: one value per head.
        y: one value per head.
        seed: of the bootstrap.

    Returns:
        ``spearman`` and ``spearman_ci95``; None for fewer than 3 heads or a constant ``x``.
    """
    if len(x) < 3 or bool((x == x[0]).all()):
        return {"spearman": None, "spearman_ci95": None}
    found = fit(x, y, resamples=RESAMPLES, seed=seed)
    return {"spearman": found.spearman, "spearman_ci95": list(found.spearman_ci95)}
