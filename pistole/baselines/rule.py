"""What every merging method to compare with is: a rule that merges one tensor at a time.

A rule sees the task vectors of one tensor, and of all others only what one survey of the whole
vectors tells (a threshold, the sign of a sum). So the same rule merges models in memory and models
that are larger than memory, tensor by tensor from their files (docs/method.md C).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from pistole.baselines.options import require_number
from pistole.errors import UserError
from pistole.method.vectors import Params, Real, require_finite, require_same_layout

SOURCES = ("natural", "robust")  # of task vectors, in order
Walk = Callable[[], Iterator[tuple[str, list[Tensor]]]]


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """A merging method with its options, which are the official ones unless given.

    Attributes:
        scaling: factor of what is added to the base.
        needs: name of the statistics that the method reads (class attribute); None if it merges
            from the vectors alone.
        elementwise: whether :meth:`tensor` merges each coordinate by itself, given the survey, with
            operations that round alike in a part of a tensor and in the whole (no sum over
            coordinates, no random draw, no fused multiply-add). A part at a time is then enough.
        statistics: what a preparation measured; ``natural/TENSOR`` and ``robust/TENSOR`` by the
            source, or other names that the method's own module states.
    """

    needs: ClassVar[str | None] = None
    elementwise: ClassVar[bool] = False
    scaling: float = 1.0
    statistics: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse options that mean nothing.

        Raises:
            UserError: an option is outside its range.
        """
        require_number("scaling", self.scaling)

    def statistic(self, key: str) -> Tensor:
        """Read one of the statistics that a preparation measured.

        Args:
            key: its name, such as ``natural/TENSOR``.

        Returns:
            The tensor as it was measured.

        Raises:
            UserError: the statistics lack it; names the preparation that measures it.
        """
        try:
            return self.statistics[key]
        except KeyError:
            raise UserError(
                f"the statistics of '{self.needs}' lack {key!r}: run 'pistole prepare "
                f"{self.needs}' with these models and give its folder"
            ) from None

    def survey(self, walk: Walk, weights: Sequence[Real]) -> Any:
        """Look at the whole vectors before the first tensor is merged.

        Args:
            walk: gives the task vectors tensor by tensor, sorted by name; every call begins anew.
            weights: of the vectors.

        Returns:
            What :meth:`tensor` needs to know of all tensors; None unless a method overrides this.
        """
        return None

    @abstractmethod
    def tensor(
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        """Merge one tensor.

        Args:
            name: of the tensor.
            base: the base's values, fp32.
            deltas: the task vectors' values, fp32, of the base's shape.
            weights: one per vector.
            survey: what :meth:`survey` gave.

        Returns:
            The merged values, fp32, of the base's shape; no argument is changed.
        """

    def __call__(
        self, theta_0: Params, vectors: Sequence[Params], weights: Sequence[Real]
    ) -> Params:
        """Merge models that are in memory.

        Args:
            theta_0: the base, of any floating dtype.
            vectors: task vectors, same names and shapes.
            weights: one per vector.

        Returns:
            The merged parameters in fp32, in the base's order.

        Raises:
            UserError: no vector, weights that are not one finite number per vector, or tensors of
                another layout or not finite.
        """
        require_weights(len(vectors), weights)
        require_finite(theta_0, "base")
        for number, vector in enumerate(vectors, 1):
            require_same_layout(theta_0, vector, f"task vector {number}")
            require_finite(vector, f"task vector {number}")

        def walk() -> Iterator[tuple[str, list[Tensor]]]:
            for name in sorted(theta_0):
                yield name, [vector[name].float() for vector in vectors]

        survey = self.survey(walk, weights)
        return {
            name: self.tensor(
                name, base.float(), [v[name].float() for v in vectors], weights, survey
            )
            for name, base in theta_0.items()
        }


def require_weights(count: int, weights: Sequence[Real]) -> None:
    """Refuse weights that do not belong to the vectors.

    Args:
        count: number of vectors.
        weights: one per vector.

    Raises:
        UserError: no vector, another number of weights, or a weight that is not finite.
    """
    if not count or len(weights) != count:
        raise UserError(f"{len(weights)} weights for {count} task vectors: give one per vector")
    for number, weight in enumerate(weights, 1):
        require_number(f"weight {number}", weight)


def weighted_sum(deltas: Sequence[Tensor], weights: Sequence[Real]) -> Tensor:
    """Return sum_t w_t tau_t.

    Args:
        deltas: one tensor per task vector, of one shape.
        weights: one per vector.

    Returns:
        A new tensor; the terms are added in the order of the vectors.
    """
    total = deltas[0] * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total += delta * weight
    return total
