"""How far two objectives' gradients agree, with and without sampling noise (docs/method.md E.4)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pistole.method.reliability import spearman
from pistole.theory.blocks import mean_of_pairs, of_means


@dataclass(frozen=True)
class Grams:
    """Dot products of the block gradients of a clean and an adversarial objective.

    Attributes:
        clean: <c_i, c_j>.
        cross: <c_i, a_j>.
        attacked: <a_i, a_j>.
    """

    clean: Float[Tensor, "b b"]
    cross: Float[Tensor, "b b"]
    attacked: Float[Tensor, "b b"]

    def __add__(self, other: "Grams") -> "Grams":
        """Put two layers together.

        Args:
            other: of another layer.

        Returns:
            The dot products over both.
        """
        return Grams(
            self.clean + other.clean, self.cross + other.cross, self.attacked + other.attacked
        )


@dataclass(frozen=True)
class Agreement:
    """Cosines per choice of blocks; NaN where a gradient is 0 or noise hides it.

    Attributes:
        cosine: of the two gradients on the same images.
        self_cosine: of the adversarial gradients of two disjoint halves: the noise floor.
        cross_cosine: of the clean gradient of a half and the adversarial one of the other half.
        disattenuated: ``cross_cosine`` over the geometric mean of both objectives' self-cosines,
            which estimates the cosine without sampling noise and may exceed 1.
    """

    cosine: Float[Tensor, " r"]
    self_cosine: Float[Tensor, " r"]
    cross_cosine: Float[Tensor, " r"]
    disattenuated: Float[Tensor, " r"]


def agreement(grams: Grams, chosen: Bool[Tensor, "r b"]) -> Agreement:
    """Measure how two objectives' gradients agree (docs/method.md E.4).

    Dot products and squared norms of halves are averaged over all splits of the chosen blocks into
    two halves, which has a closed form: with D and S the means of the diagonal and of the rest of
    a Gram matrix of m blocks, two halves have the dot product S and each the squared norm
    H = (2 D + (m - 2) S) / m. So the self-cosine is S / H, the cross-half cosine
    S_ca / sqrt(H_c H_a), and the norms cancel in the disattenuated S_ca / sqrt(S_c S_a).

    Args:
        grams: of one layer, or summed over layers.
        chosen: which blocks count, at least two.

    Returns:
        One value of each cosine per choice.
    """
    pairs = [mean_of_pairs(g, chosen) for g in (grams.clean, grams.cross, grams.attacked)]
    whole = [of_means(g, chosen) for g in (grams.clean, grams.cross, grams.attacked)]
    halves = [_half_norm(g, chosen) for g in (grams.clean, grams.attacked)]
    return Agreement(
        cosine=_over_root(whole[1], whole[0], whole[2]),
        self_cosine=_over_root(pairs[2], halves[1], halves[1]),
        cross_cosine=_over_root(pairs[1], halves[0], halves[1]),
        disattenuated=_over_root(pairs[1], pairs[0], pairs[2]),
    )


def _half_norm(grams: Tensor, chosen: Tensor) -> Tensor:
    """Squared norm of a half's gradient, averaged over the splits into halves."""
    c = chosen.double()
    m = c.sum(1)
    return (2 * (c @ grams.diagonal()) / m + (m - 2) * mean_of_pairs(grams, chosen)) / m


def _over_root(top: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return top / sqrt(left right), NaN unless both are positive."""
    # Roots first: the product of two tiny squared norms would underflow.
    defined = (left > 0) & (right > 0)
    below = left.clamp(min=0).sqrt() * right.clamp(min=0).sqrt()
    return torch.where(defined, top / torch.where(defined, below, 1.0), torch.nan)


def sign_counts(a: Tensor, b: Tensor) -> tuple[int, int]:
    """Count coordinates whose signs agree (docs/method.md E.4).

    Args:
        a: any shape.
        b: the same shape.

    Returns:
        Coordinates of equal sign, and coordinates where neither is 0.
    """
    signs = a.sign() * b.sign()
    return int((signs > 0).sum()), int((signs != 0).sum())


def trend(curves: Float[Tensor, "r e"], radii: Float[Tensor, " e"]) -> Float[Tensor, " r"]:
    """Return Spearman's rank correlation of each curve with the radius (docs/method.md E.4).

    Args:
        curves: one row per choice of blocks, one column per radius.
        radii: increasing.

    Returns:
        In [-1, 1]; NaN where a row has a gap.
    """
    whole = curves.isfinite().all(1).tolist()
    found = [
        spearman(row, radii) if full else torch.nan for row, full in zip(curves, whole, strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64)
