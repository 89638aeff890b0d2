"""All merging methods by name, with one signature (docs/method.md A.10, C)."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pistole.baselines import controls, linear
from pistole.errors import UserError
from pistole.method.merge import merge
from pistole.method.vectors import Params, Real

Masks = tuple[Params, Params]
CHOSEN = "chosen"  # the masks of stability.variant


@dataclass(frozen=True)
class MergeMethod:
    """A merging method.

    Attributes:
        compose: from base, natural vector, robust vector (and masks, if it needs them) and lambda
            (``lam``) to the merged parameters.
        masks: name of the masks it reads: a score variant, ``magnitude``, ``random``, or
            ``chosen`` for the variant of the parameters; None if it reads none.
        matched: whether it is a control, merged with PISTOLE's lambda.
        drawn: whether it draws random numbers and so takes the run's ``seed``.
    """

    compose: Callable[..., Params]
    masks: str | None = None
    matched: bool = False
    drawn: bool = False


METHODS: dict[str, MergeMethod] = {
    "wise_ft": MergeMethod(linear.wise_ft),
    "vanilla": MergeMethod(linear.vanilla),
    "gism": MergeMethod(merge, "gism"),
    "gism_pci": MergeMethod(merge, "gism_pci"),
    "gism_apt": MergeMethod(merge, "gism_apt"),
    "pistole": MergeMethod(merge, CHOSEN),
    "wise_ft_matched": MergeMethod(controls.wise_ft_matched, CHOSEN, matched=True),
    "uniform_shrink": MergeMethod(controls.uniform_shrink, CHOSEN, matched=True),
    **{
        f"permuted_mask_{draw}": MergeMethod(
            partial(controls.permuted_mask, draw=draw), CHOSEN, matched=True, drawn=True
        )
        for draw in (1, 2, 3)
    },
    "self_mask": MergeMethod(controls.self_mask, CHOSEN, matched=True),
    "magnitude_mask": MergeMethod(merge, "magnitude", matched=True),
    "random_score": MergeMethod(merge, "random", matched=True),
    "zero_nat": MergeMethod(controls.zero_nat, CHOSEN, matched=True),
}


def method_named(name: str) -> MergeMethod:
    """Look a method up.

    Args:
        name: a key of :data:`METHODS`.

    Returns:
        The method.

    Raises:
        UserError: unknown method; names the nearest one.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0)[0]
        raise UserError(
            f"no merging method '{name}': did you mean '{near}'? There are {', '.join(METHODS)}"
        )
    return METHODS[name]


def compose(
    name: str,
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    *,
    lam: Real,
    masks: Masks | None = None,
    rescale: str = "none",
    seed: int = 0,
) -> Params:
    """Merge with the method of that name.

    Args:
        name: a key of :data:`METHODS`.
        theta_0: the base.
        tau_nat: natural task vector, same names and shapes.
        tau_rob: robust task vector, same names and shapes.
        lam: weight of the natural vector, in [0, 1].
        masks: M_nat and M_rob; only methods that need masks read them.
        rescale: ``none`` or ``norm``, for methods with masks.
        seed: of the run, for methods that draw.

    Returns:
        The merged parameters.

    Raises:
        UserError: unknown method, masks that are needed and not given, or ingredients that cannot
            be merged.
    """
    method = method_named(name)
    if method.masks is None:
        return method.compose(theta_0, tau_nat, tau_rob, lam=lam)
    if masks is None:
        raise UserError(f"method '{name}' needs masks: give --masks, the folder of 'pistole masks'")
    drawn = {"seed": seed} if method.drawn else {}
    return method.compose(theta_0, tau_nat, tau_rob, masks=masks, lam=lam, rescale=rescale, **drawn)
