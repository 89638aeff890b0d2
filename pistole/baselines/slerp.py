"""Spherical linear interpolation of two models (Shoemake 1985; docs/method.md C)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pistole.baselines.options import require_count
from pistole.baselines.rule import Rule, Walk
from pistole.errors import UserError, require_choice
from pistole.method.vectors import Real

SPACES = ("models", "vectors")
COLINEAR = 0.9995  # cosine above which the sphere is as good as flat
LEAST = 1e-8  # norm below which a tensor has no direction


@dataclass(frozen=True, kw_only=True)
class Slerp(Rule):
    """Per tensor: (sin((1-t) phi) a + sin(t phi) b) / sin(phi), phi the angle of a and b.

    a and b are the two fine-tuned models' tensors, as in mergekit (``space`` ``models``), or the
    task vectors' (``vectors``), added to the base. t = w_2 / (w_1 + w_2): at weights (1, 1) the
    middle, at (lambda, 1 - lambda) t = 1 - lambda. Tensors that are colinear (|cos| > 0.9995), as
    fine-tuned models mostly are, are interpolated straight. One that is 0 counts as orthogonal.
    ``scaling`` is the factor of what is then added to the base.

    Data need: none. Defaults: mergekit's threshold, norms and per-tensor spheres; it computes in
    single precision, this in double.
    """

    space: str = "models"

    def __post_init__(self) -> None:  # noqa: D105
        super().__post_init__()
        require_choice("space", self.space, SPACES)

    def survey(self, walk: Walk, weights: Sequence[Real]) -> float:
        """Turn the weights into a place between the two.

        Args:
            walk: not walked.
            weights: of the two vectors.

        Returns:
            t in [0, 1].

        Raises:
            UserError: another number of vectors than two, a negative weight, or both 0.
        """
        require_count("SLERP", len(weights), 2)
        if min(weights) < 0 or not sum(weights):
            raise UserError(
                f"SLERP got the weights {tuple(weights)}: give two of 0 or more, not both 0"
            )
        return weights[1] / sum(weights)

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        start = base.double()
        if self.space == "vectors":
            moved = slerp(deltas[0].double(), deltas[1].double(), survey)
        else:
            moved = slerp(start + deltas[0], start + deltas[1], survey) - start
        return (start + self.scaling * moved).float()


def slerp(a: Tensor, b: Tensor, t: Real) -> Tensor:
    """Interpolate on the sphere (docs/method.md C).

    Args:
        a: fp64, at t = 0.
        b: fp64 of the same shape, at t = 1.
        t: place between the two, in [0, 1].

    Returns:
        The tensor at t; on the straight line if the two are colinear.
    """
    norms = [part.norm().item() for part in (a, b)]
    lengths = [norm if norm > LEAST else 1.0 for norm in norms]
    cosine = ((a / lengths[0]) * (b / lengths[1])).sum().item()
    if abs(cosine) > COLINEAR:
        return (1 - t) * a + t * b
    phi = math.acos(cosine)
    return (math.sin((1 - t) * phi) * a + math.sin(t * phi) * b) / math.sin(phi)
