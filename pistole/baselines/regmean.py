"""RegMean: regression of layers' outputs (Jin et al., ICLR 2023; docs/method.md C.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pistole.baselines.activations import NONE, ROWS
from pistole.baselines.rule import Rule
from pistole.baselines.sources import shares, source_named
from pistole.errors import UserError, require_choice
from pistole.method.vectors import Real

CONVOLUTIONS = ("mean", "patches")


@dataclass(frozen=True, kw_only=True)
class RegMean(Rule):
    """W = W_0 + alpha (sum_t G_t)^-1 sum_t G_t (W_t - W_0) for linear layers, else the mean.

    G_t = w_t (X_t^T X_t with its off-diagonals x ``off_diagonal``), of the inputs X_t that the
    layer has in model t on its own images. W is then what fits all models' outputs best; with
    alpha = 1 the base cancels. The weights of the vectors are the models' own. Data need:
    unlabelled images (256 in the official code).

    Statistics: per tensor ``natural/TENSOR`` and ``robust/TENSOR``, X^T X / rows in fp64, and
    ``axis/TENSOR``: the axis of the weight as matrix that the inputs run along (1 for x W^T, 0 for
    x W), or -1 for what is no linear layer and has no Gram matrix. Linear layers are all of
    :class:`pistole.baselines.activations.LinearInputs`.

    Defaults: off-diagonals x 0.95, FusionBench's value for CLIP (the paper's is 0.9 for language
    models). Deviations from the official code, which calls modules' hooks: attention's projections
    and the tower's last one count as linear layers too; and the damping below, in every G_t on
    both sides: so equal models give the model back, and directions that no input has the mean.

    Attributes:
        off_diagonal: factor of the Gram matrices' off-diagonals.
        damping: added to their diagonals, relative to the mean diagonal of their weighted mean.
        convolutions: ``mean`` as in the official code, or ``patches``: a convolution without
            overlap, such as a ViT's first layer, is a linear layer of its patches.
    """

    needs: ClassVar[str | None] = "regmean"
    off_diagonal: float = 0.95
    damping: float = 1e-6
    convolutions: str = "mean"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of its range.
        """
        super().__post_init__()
        require_choice("regmean convolutions", self.convolutions, CONVOLUTIONS)
        if not 0 <= self.off_diagonal <= 1:
            raise UserError(f"regmean off_diagonal is {self.off_diagonal}: give a number in [0, 1]")
        if not 0 <= self.damping <= 1:
            raise UserError(f"regmean damping is {self.damping}: give a number in [0, 1]")

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        own = shares(weights)
        axis = int(self.statistic(f"axis/{name}"))
        moved: Tensor
        if axis == NONE or (base.dim() > 2 and self.convolutions == "mean"):
            moved = sum(s * d.double() for s, d in zip(own, deltas, strict=True))  # type: ignore[assignment]
        else:
            grams = [self._gram(number, name) for number in range(len(deltas))]
            matrices = [delta.double().flatten(1) for delta in deltas]
            if axis == ROWS:
                matrices = [matrix.T for matrix in matrices]
            moved = regression(matrices, grams, own, self.damping)
            moved = (moved.T if axis == ROWS else moved).reshape(base.shape)
        return (base.double() + self.scaling * moved).float()

    def _gram(self, number: int, name: str) -> Tensor:
        gram = self.statistic(f"{source_named(number)}/{name}").double()
        diagonal = gram.diagonal().diag()
        return diagonal + self.off_diagonal * (gram - diagonal)


def regression(
    matrices: Sequence[Tensor], grams: Sequence[Tensor], weights: Sequence[Real], damping: float
) -> Tensor:
    """Solve argmin_W sum_t w_t ||X_t W^T - X_t W_t^T||^2, all terms damped alike.

    Args:
        matrices: W_t, [out, in], fp64.
        grams: X_t^T X_t, [in, in], fp64.
        weights: w_t, which sum to 1.
        damping: added to every Gram matrix's diagonal, relative to the mean diagonal of their
            weighted mean.

    Returns:
        W = (sum_t w_t W_t G_t) (sum_t w_t G_t)^-1, or the weighted mean if all inputs are 0.

    Raises:
        UserError: no damping, and the inputs leave W open.
    """
    pairs = list(zip(matrices, grams, weights, strict=True))
    total = sum(weight * gram for _, gram, weight in pairs)
    scale = float(total.diagonal().mean())  # type: ignore[union-attr]
    if scale == 0:
        return sum(weight * matrix for matrix, _, weight in pairs)  # type: ignore[return-value]
    ridge = damping * scale * torch.eye(len(grams[0])).to(grams[0])
    right = sum(weight * matrix @ (gram + ridge) for matrix, gram, weight in pairs)
    solved, info = torch.linalg.solve_ex(total + ridge, right.T)  # type: ignore[union-attr]
    if int(info) or not torch.isfinite(solved).all():
        raise UserError(
            f"the Gram matrices of {len(grams[0])} inputs have no inverse with regmean damping "
            f"{damping}: give a damping such as 1e-6"
        )
    return solved.T
