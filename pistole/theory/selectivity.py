"""How sure the selectivity S of a mask is, given the images (docs/method.md A.6, E.1)."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pistole.errors import UserError
from pistole.method.scores import Micro
from pistole.method.vectors import Params, Real, require_same_layout
from pistole.seeds import generator

Z95 = 1.959963984540054  # 97.5% quantile of the standard normal


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval.

    Attributes:
        value: the estimate.
        standard_error: its standard deviation.
        low: value - 1.96 standard errors.
        high: value + 1.96 standard errors.
    """

    value: float
    standard_error: float
    low: float
    high: float


def normal_interval(value: Real, standard_error: Real) -> Estimate:
    """Return value +- 1.96 standard errors.

    Args:
        value: the estimate.
        standard_error: its standard deviation.

    Returns:
        Both with the interval.
    """
    reach = Z95 * standard_error
    return Estimate(float(value), float(standard_error), value - reach, value + reach)


def bootstrap_counts(parts: int, resamples: int, *, seed: int) -> Float[Tensor, "resamples parts"]:
    """Draw how often each part of the images occurs in samples with replacement (E.1).

    Args:
        parts: images, or blocks of images, at least 1.
        resamples: how many samples, at least 2.
        seed: of the draws.

    Returns:
        Counts from the multinomial law, with sum ``parts`` in each row.

    Raises:
        UserError: no part, or too few resamples for a standard deviation.
    """
    if parts < 1 or resamples < 2:
        raise UserError(f"{resamples} resamples of {parts} parts: give at least 2 of 1")
    drawn = torch.randint(parts, (resamples, parts), generator=generator(seed, "bootstrap"))
    return torch.zeros(resamples, parts).scatter_add_(1, drawn, torch.ones(resamples, parts))


def resampled_gradients(
    micro: Micro, counts: Float[Tensor, "resamples parts"], held: int
) -> Params:
    """Add up the gradients of parts as often as each resample has them (E.1).

    Args:
        micro: number of images of a part and their mean gradient, in turn; one per column.
        counts: of :func:`bootstrap_counts`.
        held: gradients of parts that memory has room for.

    Returns:
        name -> [resamples, ...], on the CPU: the gradient of the summed loss of a resample's
        images. It is not divided by their number, as no ratio of Theorem 1 depends on g's scale.
    """
    totals: Params = {}
    parts, columns = iter(micro), counts.split(held, dim=1)
    for some in columns:
        batch = list(itertools.islice(parts, some.shape[1]))
        weights = some * torch.tensor([float(images) for images, _ in batch])
        for name, like in batch[0][1].items():
            stacked = torch.stack([gradient[name].cpu().flatten() for _, gradient in batch])
            grown = (weights @ stacked).view(len(counts), *like.shape)
            totals[name] = totals[name] + grown if name in totals else grown
    return totals


class Aim:
    """Selectivity of several masks of one task vector under any gradient (docs/method.md A.6)."""

    def __init__(self, tau: Params, masks: Sequence[Params]) -> None:
        """Hold M |tau| for every mask.

        Args:
            tau: task vector.
            masks: in [0, 1], same names and shapes.
        """
        for mask in masks:
            require_same_layout(tau, mask, "mask")
        # The last row is the vector without a mask.
        self.kept = {
            name: torch.stack([*(mask[name] for mask in masks), torch.ones_like(value)]).flatten(1)
            * value.flatten().abs()
            for name, value in tau.items()
        }
        sums = sum(part.sum(1, dtype=torch.float64) for part in self.kept.values())
        self.retention = sums[:-1] / sums[-1]

    def selectivity(self, gradients: Params) -> Float[Tensor, "gradients masks"]:
        """Return S = r / rho_w over all layers, of every mask under every gradient.

        Args:
            gradients: name -> [gradients, ...]: g of the other objective.

        Returns:
            S; NaN where nothing interferes or nothing is left.
        """
        sums = sum(
            gradients[name].flatten(1).abs().double() @ kept.double().T
            for name, kept in self.kept.items()
        )
        return self.retention / (sums[:, :-1] / sums[:, -1:])


def resampled_selectivity(
    aim: Aim,
    sweep: Callable[[], Micro],
    counts: Float[Tensor, "resamples parts"],
    held: int,
) -> Float[Tensor, "resamples masks"]:
    """Return S of every mask from every resample of the images (E.1).

    Args:
        aim: the masks.
        sweep: yields number of images and mean gradient of every part; called once per ``held``
            resamples.
        counts: of :func:`bootstrap_counts`.
        held: gradients that memory has room for.

    Returns:
        S; NaN where nothing interferes.
    """
    chunks = counts.split(held)
    return torch.cat([aim.selectivity(resampled_gradients(sweep(), c, held)) for c in chunks])


@dataclass(frozen=True)
class Selectivity:
    """How well a mask aims, beside the mean of several permuted masks.

    Attributes:
        own: S of the mask.
        permuted: mean S of the permuted masks.
        gain: S over the mean S of the permuted masks: the part that is owed to the choice of
            coordinates within layers.
        rho_w: share of the envelope that the mask leaves, r / S.
    """

    own: Estimate
    permuted: Estimate
    gain: Estimate
    rho_w: Estimate


def selectivity_intervals(
    retention: Real, values: Float[Tensor, " masks"], resampled: Float[Tensor, "resamples masks"]
) -> Selectivity:
    """Turn resampled selectivities into intervals (docs/method.md E.1).

    The interval is the estimate +- 1.96 standard deviations of the resamples, not their
    percentiles: a resampled mean gradient carries the noise of the sample and that of the
    resampling, noise makes |g| more even, so all resamples lie nearer to 1 than the estimate.

    Args:
        retention: r of the mask.
        values: S from all images; the mask first, then its permutations, at least two.
        resampled: the same from resampled images.

    Returns:
        The intervals. Those of the permuted masks cover the draw of the permutation too.
    """
    own, permuted = values[0], values[1:]
    again, shuffled = resampled[:, 0], resampled[:, 1:].mean(1)
    # Of the mean over permutations, relative to that mean.
    draw = (permuted.std() / len(permuted) ** 0.5 / permuted.mean()).item()

    def interval(value: Tensor, samples: Tensor, drawn: float = 0.0) -> Estimate:
        spread = math.hypot(samples.std().item(), value.item() * drawn)
        return normal_interval(value.item(), spread)

    return Selectivity(
        own=interval(own, again),
        permuted=interval(permuted.mean(), shuffled, draw),
        gain=interval(own / permuted.mean(), again / shuffled, draw),
        rho_w=interval(retention / own, retention / again),
    )
