"""All merging methods by name, with one signature (docs/method.md C)."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from pistole.baselines import linear
from pistole.errors import UserError
from pistole.method.merge import merge
from pistole.method.vectors import Params, Real

Masks = tuple[Params, Params]


@dataclass(frozen=True)
class MergeMethod:
    """A merging method.

    Attributes:
        compose: from base, natural vector, robust vector and lambda (``lam``) to the merged
            parameters; also ``masks`` and ``rescale`` if it needs masks.
        needs_masks: whether it reads the masks.
    """

    compose: Callable[..., Params]
    needs_masks: bool


METHODS: dict[str, MergeMethod] = {
    "wise_ft": MergeMethod(linear.wise_ft, needs_masks=False),
    "vanilla": MergeMethod(linear.vanilla, needs_masks=False),
    "pistole": MergeMethod(merge, needs_masks=True),
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
        UserError: unknown method (names the nearest one), masks that are needed and not given, or
            ingredients that cannot be merged.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0)[0]
        raise UserError(
            f"no merging method '{name}': did you mean '{near}'? There are {', '.join(METHODS)}"
        )
    method = METHODS[name]
    if not method.needs_masks:
        return method.compose(theta_0, tau_nat, tau_rob, lam=lam)
    if masks is None:
        raise UserError(f"method '{name}' needs masks: run stage masks and give its result")
    return method.compose(theta_0, tau_nat, tau_rob, masks=masks, lam=lam, rescale=rescale)
