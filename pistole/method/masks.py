"""GISM: from scores to complementary masks, with four readings of the cap (docs/method.md A.3)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pistole.errors import UserError, require_choice
from pistole.method.layers import GRANULARITIES, gather, layers, scatter
from pistole.method.vectors import Params, Real, require_finite, require_same_layout

CAP_MODES = ("none", "score_clip", "renorm", "mask_cap", "zero_top")


@dataclass(frozen=True)
class MaskSettings:
    """How scores become masks.

    Attributes:
        gamma: exponent on the normalised score, in (0, 1].
        kappa: exponent of the mask, >= 0; 0 gives all ones.
        q: quantile level of the cap, in (0, 1]; 1 means no cap.
        cap_mode: reading of the cap: one of :data:`CAP_MODES`.
        granularity: what is normalised together, see :func:`pistole.method.layers.layers`.
    """

    gamma: Real
    kappa: Real
    q: Real
    cap_mode: str
    granularity: str = "tensor"

    def __post_init__(self) -> None:
        """Refuse settings outside the method's definition.

        Raises:
            UserError: a value is out of its range, or a name is unknown.
        """
        if not 0 < self.gamma <= 1:
            raise UserError(f"gamma is {self.gamma}: give a number in (0, 1]")
        if not 0 <= self.kappa < math.inf:
            raise UserError(f"kappa is {self.kappa}: give a number >= 0")
        if not 0 < self.q <= 1:
            raise UserError(f"q is {self.q}: give a quantile level in (0, 1]; 1 means no cap")
        for name, known in (("cap_mode", CAP_MODES), ("granularity", GRANULARITIES)):
            require_choice(name, getattr(self, name), known)


def quantile(values: Tensor, q: Real) -> float:
    """Return a quantile with linear interpolation, of any number of values.

    ``torch.quantile`` takes the rank in the values' precision: among the millions of values of one
    layer it misses the right one (releases before 2.15 refuse more than 2^24).

    Args:
        values: any shape, not empty.
        q: level in [0, 1].

    Returns:
        The value at rank q (d - 1) of the sorted values.
    """
    flat = values.detach().flatten().cpu()  # kthvalue is not deterministic on CUDA
    rank = q * (flat.numel() - 1)
    below = math.floor(rank)
    low = torch.kthvalue(flat, below + 1).values.item()
    if rank == below:
        return low
    high = torch.kthvalue(flat, below + 2).values.item()
    return low + (rank - below) * (high - low)


def _share(scores: Tensor, highest: float) -> Tensor:
    # A GPU divides by a scalar through its reciprocal, which can end one rounding above 1.
    return (scores / highest).clamp(max=1)


def normalise_scores(scores: Tensor, *, gamma: Real, q: Real = 1, cap_mode: str = "none") -> Tensor:
    """Map the scores of one layer to [0, 1] (docs/method.md A.3.2, A.3.4).

    Args:
        scores: s >= 0, any shape; one layer.
        gamma: g~ = (s / max s)^gamma.
        q: quantile level of the cap.
        cap_mode: ``renorm`` (R2) clips s at Q_q(s) and divides by it instead of the maximum,
            ``score_clip`` (R1) clips g~ at Q_q(g~), ``zero_top`` (R4) puts g~ above Q_q(g~) to 1
            so that the mask is 0 there; ``none`` and ``mask_cap`` (R3) leave g~ alone.

    Returns:
        g~ in [0, 1]; all 0 for a layer without gradient.
    """
    highest = scores.max().item() if scores.numel() else 0.0
    if highest == 0:
        return torch.zeros_like(scores)
    if cap_mode == "renorm":
        cap = quantile(scores, q)
        if cap == 0:  # the limit of an ever smaller cap, which keeps g~ monotone in q
            return (scores > 0).to(scores.dtype)
        return _share(scores.clamp(max=cap), cap) ** gamma
    normalised = _share(scores, highest) ** gamma
    if cap_mode == "score_clip":
        return normalised.clamp(max=quantile(normalised, q))
    if cap_mode == "zero_top":
        return normalised.masked_fill(normalised > quantile(normalised, q), 1)
    return normalised


def stability_mask(scores: Tensor, settings: MaskSettings) -> Tensor:
    """Suppress what the other objective is sensitive to: M = (1 - g~)^kappa (docs/method.md A.3.3).

    Args:
        scores: s >= 0 of the *other* objective, any shape; one layer.
        settings: exponents and cap; ``mask_cap`` (R3) clips M at Q_q(M).

    Returns:
        M in [0, 1], the shape of ``scores``; all ones for a layer without gradient.

    Raises:
        UserError: a score is negative or not finite.
    """
    if not (torch.isfinite(scores) & (scores >= 0)).all():
        raise UserError("a stability score is negative or not finite: run stage stability again")
    normalised = normalise_scores(
        scores, gamma=settings.gamma, q=settings.q, cap_mode=settings.cap_mode
    )
    mask = (1 - normalised) ** settings.kappa
    if settings.cap_mode == "mask_cap" and mask.numel():
        mask = mask.clamp(max=quantile(mask, settings.q))
    return mask


def masks_from_scores(scores: Params, settings: MaskSettings) -> Params:
    """Make the mask of every layer (docs/method.md A.2, A.3).

    Args:
        scores: s >= 0 of the *other* objective.
        settings: exponents, cap and granularity.

    Returns:
        M with the names and shapes of ``scores``.

    Raises:
        UserError: a score is negative or not finite.
    """
    masks = {name: torch.empty_like(value) for name, value in scores.items()}
    for parts in layers(scores, settings.granularity).values():
        scatter(stability_mask(gather(scores, parts), settings), parts, masks)
    return masks


def complementary_masks(
    scores_nat: Params, scores_rob: Params, settings: MaskSettings
) -> tuple[Params, Params]:
    """Mask each task vector where the other objective is sensitive (docs/method.md A.3.3).

    Args:
        scores_nat: sensitivity of the natural loss.
        scores_rob: sensitivity of the robust loss, same names and shapes.
        settings: exponents, cap and granularity.

    Returns:
        M_nat, made from scores_rob, and M_rob, made from scores_nat.
    """
    require_same_layout(scores_nat, scores_rob, "robust scores")
    require_finite(scores_nat, "natural scores")
    require_finite(scores_rob, "robust scores")
    return masks_from_scores(scores_rob, settings), masks_from_scores(scores_nat, settings)


def mask_statistics(masks: Params, tau: Params) -> dict[str, dict[str, float]]:
    """Tell how much of a task vector a mask keeps (docs/method.md A.3.3).

    Args:
        masks: M.
        tau: the task vector it belongs to, same names and shapes.

    Returns:
        layer -> ``mean_mask``, ``l1_retention`` = ||M*tau||_1 / ||tau||_1 and ``l2_retention``;
        1 where tau is 0. The entry ``all`` is over all layers together.
    """
    require_same_layout(masks, tau, "task vector")
    rows, total = {}, torch.zeros(6, dtype=torch.float64)
    for name, mask in masks.items():
        m, t = mask.detach().double().cpu(), tau[name].detach().double().abs().cpu()
        kept = m * t
        sums = torch.stack((m.sum(), kept.sum(), t.sum(), kept.square().sum(), t.square().sum()))
        sums = torch.cat((sums, torch.tensor([m.numel()], dtype=torch.float64)))
        rows[name], total = _retention(sums), total + sums
    return rows | {"all": _retention(total)}


def _retention(sums: Tensor) -> dict[str, float]:
    mask, kept_1, whole_1, kept_2, whole_2, size = sums.tolist()
    return {
        "mean_mask": mask / size if size else 1.0,
        "l1_retention": kept_1 / whole_1 if whole_1 else 1.0,
        "l2_retention": math.sqrt(kept_2 / whole_2) if whole_2 else 1.0,
    }
