"""All merging methods by name, with one signature (docs/method.md C)."""

import difflib
from dataclasses import dataclass
from typing import Protocol

from pistole.baselines import linear
from pistole.errors import UserError
from pistole.method.merge import merge
from pistole.method.vectors import Params, Real

Masks = tuple[Params, Params]


class Compose(Protocol):
    """The signature of every merging method."""

    def __call__(
        self,
        theta_0: Params,
        tau_nat: Params,
        tau_rob: Params,
        *,
        lam: Real,
        masks: Masks | None,
        rescale: str,
    ) -> Params:
        """Merge."""
        ...


@dataclass(frozen=True)
class MergeMethod:
    """A merging method.

    Attributes:
        compose: from base, vectors, lambda and masks to the merged parameters.
        needs_masks: whether it reads the masks.
    """

    compose: Compose
    needs_masks: bool


def _vanilla(
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    *,
    lam: Real,
    masks: Masks | None,
    rescale: str,
) -> Params:
    del masks, rescale
    return linear.vanilla(theta_0, tau_nat, tau_rob, lam=lam)


def _wise_ft(
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    *,
    lam: Real,
    masks: Masks | None,
    rescale: str,
) -> Params:
    del masks, rescale
    return linear.wise_ft(theta_0, tau_nat, tau_rob, lam=lam)


def _pistole(
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    *,
    lam: Real,
    masks: Masks | None,
    rescale: str,
) -> Params:
    if masks is None:
        raise UserError("method 'pistole' needs masks: run stage masks and give its result")
    return merge(theta_0, tau_nat, tau_rob, masks, lam=lam, rescale=rescale)


METHODS: dict[str, MergeMethod] = {
    "wise_ft": MergeMethod(_wise_ft, needs_masks=False),
    "vanilla": MergeMethod(_vanilla, needs_masks=False),
    "pistole": MergeMethod(_pistole, needs_masks=True),
}


def compose(
    name: str,
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    *,
    lam: Real,
    masks: Masks | None = None,
    rescale: str = "none",
) -> Params:
    """Merge with the method of that name.

    Args:
        name: a key of :data:`METHODS`.
        theta_0: the base.
        tau_nat: natural task vector, same names and shapes.
        tau_rob: robust task vector, same names and shapes.
        lam: weight of the natural vector, in [0, 1].
        masks: M_nat and M_rob; only methods with ``needs_masks`` read them.
        rescale: ``none`` or ``norm``, for methods with masks.

    Returns:
        The merged parameters.

    Raises:
        UserError: unknown method (names the nearest one), or ingredients that cannot be merged.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0)[0]
        raise UserError(
            f"no merging method '{name}': did you mean '{near}'? There are {', '.join(METHODS)}"
        )
    return METHODS[name].compose(theta_0, tau_nat, tau_rob, lam=lam, masks=masks, rescale=rescale)
