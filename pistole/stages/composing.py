"""Everything a merge needs, read once, so that models over lambda are composed in memory."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pistole.baselines.registry import METHODS, compose
from pistole.errors import UserError
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
        rescale: ``none`` or ``norm``.
    """

    theta_0: Tensors
    tau_nat: Tensors
    tau_rob: Tensors
    masks: tuple[Tensors, Tensors] | None
    rescale: str

    def compose(self, method: str, lam: float) -> Tensors:
        """Merge.

        Args:
            method: a name of :data:`pistole.baselines.registry.METHODS`.
            lam: weight of the natural vector.

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
        )


def read_ingredients(
    method: str,
    base: Path,
    natural: Path,
    robust: Path,
    masks: Path | None,
    variant: str,
    rescale: str,
) -> Ingredients:
    """Read what a method needs.

    Args:
        method: merging method; masks are read only if it needs them.
        base: what stage ``base`` wrote.
        natural: natural task vector.
        robust: robust task vector.
        masks: folder of stage ``masks``.
        variant: which score variant's masks.
        rescale: ``none`` or ``norm``.

    Returns:
        The ingredients on the CPU.

    Raises:
        UserError: there is no such method, or it needs masks and none are given.
    """
    if method not in METHODS:
        raise UserError(f"merging method '{method}' is unknown: use one of {', '.join(METHODS)}")
    needs = METHODS[method].needs_masks
    if needs and masks is None:
        raise UserError(
            f"method '{method}' needs masks: give --masks, the folder of 'pistole masks'"
        )
    tau_nat, tau_rob = read_vectors(natural, robust, base)
    read = read_masks(masks, variant) if needs and masks is not None else None
    return Ingredients(base_state(base)[0], tau_nat, tau_rob, read, rescale)
