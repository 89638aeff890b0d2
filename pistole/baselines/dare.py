"""DARE: drop and rescale (Yu et al., ICML 2024; docs/method.md C)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pistole.baselines.options import require_share
from pistole.baselines.rule import Rule, Walk, weighted_sum
from pistole.baselines.ties import Election, Ties
from pistole.errors import UserError, require_choice
from pistole.method.vectors import Real
from pistole.seeds import generator

THEN = ("arithmetic", "ties")


@dataclass(frozen=True, kw_only=True)
class Dare(Rule):
    """Merge tau_t * delta_t / (1 - p), delta_t ~ Bernoulli(1 - p), by arithmetic or TIES.

    ``then``: ``arithmetic`` is theta_0 + alpha sum_t w_t tau'_t; ``ties`` trims and elects the
    rescaled vectors, with ``density`` and ``reduce`` of TIES (density 1 trims nothing, as peft and
    mergekit do it). The draws are a function of ``seed``, the tensor's name and the vector's
    number, so that neither the order of tensors nor their files count.

    Data need: none, but random: with p = 0.9 the rescaled coordinates are ten times as long, and a
    single draw says little; report at least three seeds. Defaults: p = 0.9, the paper's for large
    language models, with the official scripts' alpha 1 and top 20%; FusionBench takes p = 0.5 and
    alpha 0.3. mergekit 0.1.5 rescales each tensor to its l1 norm before, not by 1 / (1 - p).
    """

    drop: float = 0.9
    seed: int = 0
    then: str = "arithmetic"
    density: float = 0.2
    reduce: str = "mean"

    def __post_init__(self) -> None:  # noqa: D105
        super().__post_init__()
        require_share("drop", self.drop, zero=True, one=False)
        require_choice("then", self.then, THEN)
        self._ties()
        if not isinstance(self.seed, int):
            raise UserError(f"seed is {self.seed!r}: give a whole number")

    def _ties(self) -> Ties:
        return Ties(density=self.density, reduce=self.reduce, scaling=self.scaling)

    def kept(self, name: str, number: int, shape: torch.Size) -> Tensor:
        """Draw which coordinates of one tensor of one vector stay.

        Args:
            name: of the tensor.
            number: of the vector, from 0.
            shape: of the tensor.

        Returns:
            True with probability 1 - p, independently for every coordinate.
        """
        source = generator(self.seed, "dare", number, name)
        return torch.rand(shape, generator=source) >= self.drop

    def dropped(self, name: str, deltas: Sequence[Tensor]) -> list[Tensor]:
        """Drop and rescale one tensor of every vector (docs/method.md C, DARE).

        Args:
            name: of the tensor.
            deltas: one per vector.

        Returns:
            New tensors, of the same expectation.
        """
        if not self.drop:
            return list(deltas)
        return [
            delta.masked_fill(~self.kept(name, number, delta.shape), 0).div_(1 - self.drop)
            for number, delta in enumerate(deltas)
        ]

    def survey(self, walk: Walk, weights: Sequence[Real]) -> Election | None:
        """Let TIES look at the vectors that are left.

        Args:
            walk: gives the task vectors tensor by tensor.
            weights: of the vectors.

        Returns:
            What TIES needs to know; None for arithmetic.
        """

        def left() -> Iterator[tuple[str, list[Tensor]]]:
            for name, deltas in walk():
                yield name, self.dropped(name, deltas)

        return self._ties().survey(left, weights) if self.then == "ties" else None

    def tensor(  # noqa: D102
        self,
        name: str,
        base: Tensor,
        deltas: Sequence[Tensor],
        weights: Sequence[Real],
        survey: Any,
    ) -> Tensor:
        left = self.dropped(name, deltas)
        if self.then == "ties":
            return self._ties().tensor(name, base, left, weights, survey)
        return base + self.scaling * weighted_sum(left, weights)
