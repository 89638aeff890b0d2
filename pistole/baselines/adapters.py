"""How rules, soups and conditioned vectors take the arguments that all methods share."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pistole.baselines.catalogue import Entry
from pistole.errors import UserError
from pistole.method.merge import merge, require_ingredients
from pistole.method.vectors import Params, Real

Options = Mapping[str, Any]
Statistics = Mapping[str, Tensor]
UNIT = (1.0, 1.0)


def by_rule(
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    *,
    lam: Real | None,
    options: Options,
    statistics: Statistics,
    seed: int,
    entry: Entry,
) -> Params:
    """Merge with a rule of the catalogue (docs/method.md C).

    Args:
        theta_0: the base.
        tau_nat: natural task vector.
        tau_rob: robust task vector.
        lam: weight of the natural vector, in [0, 1]; None for the vectors as they are, the
            official point.
        options: of the rule, beside the official ones.
        statistics: what the rule's preparation measured; empty if it has none.
        seed: of the run, for rules that draw.
        entry: the rule.

    Returns:
        The merged parameters.
    """
    require_ingredients(theta_0, tau_nat, tau_rob, 0 if lam is None else lam)
    weights = UNIT if lam is None else (2 * lam, 2 * (1 - lam))
    given = {**entry.fixed, **options}
    if entry.draws:
        given["seed"] = seed
    return entry.rule(**given, statistics=statistics)(theta_0, (tau_nat, tau_rob), weights)


def soup(
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    *,
    lam: Real | None,
    options: Options,
) -> Params:
    """Mix the base and both models: theta_0 + a tau_nat + b tau_rob (docs/method.md C.1).

    Args:
        theta_0: the base.
        tau_nat: natural task vector.
        tau_rob: robust task vector.
        lam: None; the two weights take its place.
        options: a as ``natural`` and b as ``robust``, any number; each 1/2 unless given.

    Returns:
        The merged parameters.
    """
    require_ingredients(theta_0, tau_nat, tau_rob, 0 if lam is None else lam)
    a, b = (options.get(side, 0.5) for side in ("natural", "robust"))
    return {name: base + (a * tau_nat[name] + b * tau_rob[name]) for name, base in theta_0.items()}


def scaled(
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    *,
    lam: Real,
    masks: tuple[Params, Params],
    rescale: str,
    options: Options,
) -> Params:
    """PISTOLE with the final factor that task arithmetic has: theta_0 + s (theta - theta_0).

    Args:
        theta_0: the base.
        tau_nat: natural task vector.
        tau_rob: robust task vector.
        lam: weight of the natural vector, in [0, 1].
        masks: M_nat and M_rob.
        rescale: ``none`` or ``norm``.
        options: s as ``scaling``; 1 unless given.

    Returns:
        The merged parameters.
    """
    merged = merge(theta_0, tau_nat, tau_rob, masks, lam=lam, rescale=rescale)
    factor = options.get("scaling", 1.0)
    return {name: base + factor * (merged[name] - base) for name, base in theta_0.items()}


def conditioned(
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    *,
    statistics: Statistics,
    inner: Callable[..., Params],
    **rest: Any,
) -> Params:
    """Merge the vectors that DisTaC made of the given ones (docs/method.md C.4).

    Args:
        theta_0: the base.
        tau_nat: natural task vector, of which only the layout counts.
        tau_rob: robust task vector, of which only the layout counts.
        statistics: the conditioned vectors, as ``natural/TENSOR`` and ``robust/TENSOR``.
        inner: the method that merges them.
        **rest: what the inner method takes.

    Returns:
        The merged parameters.

    Raises:
        UserError: a conditioned tensor is missing.
    """
    require_ingredients(theta_0, tau_nat, tau_rob, 0)
    try:
        made = [{n: statistics[f"{side}/{n}"] for n in theta_0} for side in ("natural", "robust")]
    except KeyError as error:
        raise UserError(
            f"the preparation 'distac' lacks {error.args[0]!r}: run stage prepare@distac again"
        ) from error
    return inner(theta_0, *made, **rest)
