"""Fisher merging (Matena and Raffel, NeurIPS 2022; docs/method.md C.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pistole.baselines.gradients import per_sample_gradients
from pistole.baselines.rule import Rule
from pistole.baselines.sources import shares, source_named
from pistole.errors import UserError, require_choice
from pistole.method.vectors import Params, Real, zeros_like

LABELS = ("sampled", "true", "all")
FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class Fisher(Rule):
    """theta_0 + alpha sum_t a_t F_t tau_t / sum_t a_t F_t, coordinate by coordinate.

    The weights of the vectors are the models' own: a_t = w_t. With alpha = 1 this is the weighted
    mean of the models themselves, since the base cancels. Data need: unlabelled images, as labels
    are drawn from the model (256 in the official code).

    Statistics: ``natural/TENSOR`` and ``robust/TENSOR``, the diagonals F_t, and ``norm/natural``
    and ``norm/robust``, their norms ||F_t|| over all tensors.

    Defaults: floor 1e-6 and normalisation on, as both public implementations have them. These
    deviate from the definition, and this rule from them: MergeLM squares gradients of batch means,
    where the definition has squares of single samples; it adds 1e-6 to F where Matena and Raffel
    take the larger; and Matena and Raffel floor F of one target model alone, which a merge of two
    equals does not have.

    Attributes:
        normalize: divide a_t by ||F_t||, so that a model with larger gradients does not outweigh.
        floor: least F of a coordinate; where no model is above it, the coordinate is their mean.
    """

    needs: ClassVar[str | None] = "fisher"
    normalize: bool = True
    floor: float = FLOOR

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: the floor is not positive, which would divide by 0.
        """
        super().__post_init__()
        if not self.floor > 0:
            raise UserError(f"fisher floor is {self.floor}: give a number > 0, such as {FLOOR:g}")

    def survey(self, walk: Any, weights: Sequence[Real]) -> list[float]:
        """Divide the models' weights by the norms of their Fisher diagonals.

        Args:
            walk: not used.
            weights: of the vectors.

        Returns:
            Weights that sum to 1.

        Raises:
            UserError: a norm is 0, so that there is nothing to divide by.
        """
        own = list(shares(weights))
        if not self.normalize:
            return own
        for number, weight in enumerate(own):
            key = f"norm/{source_named(number)}"
            norm = float(self.statistic(key))
            if not norm > 0:
                raise UserError(f"{key} is {norm:g}: give normalize=False, or measure it again")
            own[number] = weight / norm
        return shares(own)

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: list[float],
    ) -> Tensor:
        total = above = torch.zeros_like(base, dtype=torch.float64)
        for number, (share, delta) in enumerate(zip(survey, deltas, strict=True)):
            fisher = self.statistic(f"{source_named(number)}/{name}").double()
            part = share * fisher.clamp(min=self.floor)
            total, above = total + part, above + part * delta.double()
        return (base.double() + self.scaling * above / total).float()


def draw_labels(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one label per sample from the model's own probabilities.

    Args:
        log_probs: of the classes, [n, C].
        uniforms: one number of [0, 1) per sample, which the sample's id may decide.

    Returns:
        The class where the cumulated probabilities pass the number, [n].
    """
    cumulated = log_probs.double().softmax(1).cumsum(1)
    passed = (cumulated <= uniforms.to(cumulated)[:, None]).sum(1)
    return passed.clamp(max=log_probs.shape[1] - 1)  # the sum may end below 1 by rounding


def fisher_diagonal(
    log_probs: Callable[[Params, Tensor], Tensor],
    theta: Params,
    x: Tensor,
    *,
    labels: str = "sampled",
    truth: Tensor | None = None,
    uniforms: Tensor | None = None,
    together: int = 1,
) -> Params:
    """Measure F = E_x E_y (d log p_y / d theta)^2, of squares of single samples.

    Args:
        log_probs: from parameters and samples [n, ...] to log probabilities [n, C].
        theta: the point.
        x: the samples.
        labels: ``sampled``: one y per sample from the model's p, unbiased and the default;
            ``true``: the data's labels, the empirical Fisher; ``all``: the exact sum over y, at C
            gradients per sample.
        truth: the data's labels, for ``true``.
        uniforms: one number of [0, 1) per sample, for ``sampled``.
        together: gradients that memory holds at once.

    Returns:
        F by name.

    Raises:
        UserError: unknown ``labels``, or what it needs is not given.
    """
    require_choice("fisher labels", labels, LABELS)
    with torch.no_grad():
        parts = [log_probs(theta, part) for part in x.split(together)]
    predicted = torch.cat([part.log_softmax(1) for part in parts])
    weights, classes = torch.ones(len(x)).to(predicted), range(1)
    if labels == "true":
        chosen = _given(truth, "truth", labels)
    elif labels == "sampled":
        chosen = draw_labels(predicted, _given(uniforms, "uniforms", labels))
    else:
        classes = range(predicted.shape[1])

    def loss(point: Params, sample: Tensor, y: Tensor) -> Tensor:
        return log_probs(point, sample[None])[0].gather(0, y[None])[0]

    total = zeros_like(theta)
    for number in classes:
        if labels == "all":
            chosen = torch.full((len(x),), number, device=predicted.device)
            weights = predicted[:, number].exp()
        gradients = per_sample_gradients(loss, theta, (x, chosen), together)
        for found, weight in zip(gradients, weights.split(together), strict=True):
            for name, value in found.items():
                total[name] += torch.tensordot(weight, value.square(), dims=1) / len(x)
    return total


def _given(value: Tensor | None, name: str, labels: str) -> Tensor:
    if value is None:
        raise UserError(f"fisher labels is {labels!r} without {name}: give them")
    return value


def norm_of(diagonal: Params) -> Tensor:
    """Return ||F||_2 over all tensors, which the normalisation divides by.

    Args:
        diagonal: F by name.

    Returns:
        A number in fp64.
    """
    return torch.stack([value.double().norm() for value in diagonal.values()]).norm()
