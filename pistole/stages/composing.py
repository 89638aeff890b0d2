"""Everything a merge needs, read once, so that models over lambda are composed in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pistole.baselines.registry import CHOSEN, compose, method_named
from pistole.files import load_tensors
from pistole.params import Params
from pistole.stages.towers import base_state, read_masks, read_vectors

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Ingredients:
    """Base, task vectors and masks.

    Attributes:
        theta_0: the base's parameters.
        tau_nat: natural task vector.
        tau_rob: robust task vector.
        masks: masks of the natural and of the robust vector, if the method needs them.
        variant: name of these masks.
        rescale: ``none`` or ``norm``.
        seed: of the run.
        statistics: what the method's preparation measured, if it has one.
    """

    theta_0: Tensors
    tau_nat: Tensors
    tau_rob: Tensors
    masks: tuple[Tensors, Tensors] | None
    variant: str | None
    rescale: str
    seed: int
    statistics: Tensors | None = None

    def compose(
        self, method: str, lam: float | None, options: Mapping[str, float] | None = None
    ) -> Tensors:
        """Merge.

        Args:
            method: a name of :data:`pistole.baselines.registry.METHODS`.
            lam: weight of the natural vector; None for methods without one.
            options: tuned options of the method; None means its official ones.

        Returns:
            The merged parameters.
        """
        return compose(
            method,
            self.theta_0,
            self.tau_nat,
            self.tau_rob,
            lam=lam,
            masks=self.masks,
            rescale=self.rescale,
            seed=self.seed,
            options=options,
            statistics=self.statistics,
        )


def read_ingredients(
    params: Params,
    method: str,
    base: Path,
    natural: Path,
    robust: Path,
    masks: Path | None,
    prepared: Path | None = None,
) -> Ingredients:
    """Read what a method needs.

    Args:
        params: ``stability.variant``, ``merge.rescale`` and ``seed`` are read.
        method: merging method; masks are read only if it needs them.
        base: what stage ``base`` wrote.
        natural: natural task vector.
        robust: robust task vector.
        masks: folder of stage ``masks``.
        prepared: folder with a folder per preparation.

    Returns:
        The ingredients on the CPU; a method that needs masks or a preparation is refused without
        them when it composes.
    """
    known = method_named(method)
    variant, statistics = known.masks, None
    if known.needs is not None and prepared is not None:
        statistics = load_tensors(prepared / known.needs / "statistics.safetensors")[0]
    if variant == CHOSEN:
        variant = params.stability.variant
    tau_nat, tau_rob = read_vectors(natural, robust, base)
    read = read_masks(masks, variant) if variant is not None and masks is not None else None
    return Ingredients(
        base_state(base)[0],
        tau_nat,
        tau_rob,
        read,
        variant,
        params.merge.rescale,
        params.seed,
        statistics,
    )
