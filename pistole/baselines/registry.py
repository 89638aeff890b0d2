"""All merging methods by name, with one signature (docs/method.md A.10, C)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from pistole.baselines import controls, linear
from pistole.baselines.adapters import Options, Statistics, by_rule, conditioned, scaled, soup
from pistole.baselines.catalogue import CATALOGUE, FACTORS, WEIGHTS
from pistole.errors import UserError, require_name
from pistole.method.merge import merge
from pistole.method.vectors import Params, Real
from pistole.params.methods import OFFICIAL

Masks = tuple[Params, Params]
CHOSEN = "chosen"  # the masks of stability.variant
MASKED = frozenset({"masks", "rescale"})
OPTIONS = frozenset({"options"})
OPTIONS = frozenset({"options"})
RULED = OPTIONS | frozenset({"statistics", "seed"})


@dataclass(frozen=True)
class MergeMethod:
    """A merging method.

    Attributes:
        compose: from base, natural vector, robust vector, lambda (``lam``) and what it takes
            besides to the merged parameters.
        masks: name of the masks it reads: a score variant, ``magnitude``, ``random``, or
            ``chosen`` for the variant of the parameters; None if it reads none.
        takes: further arguments: ``masks`` and ``rescale``, ``seed``, ``options``, ``statistics``.
        matched: whether it is a control, merged with PISTOLE's lambda.
        needs: preparation whose statistics it reads; None if it reads none.
        has_axis: whether lambda means something to it; None is given to those without.
        tuned: further options, and the values that are tried on held-out images.
        searched: whether its options come from a search of its own, the greedy soup's.
    """

    compose: Callable[..., Params]
    masks: str | None = None
    takes: frozenset[str] = frozenset()
    matched: bool = False
    needs: str | None = None
    has_axis: bool = True
    tuned: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    searched: bool = False


def _masked(compose: Callable[..., Params], masks: str = CHOSEN, **more: bool) -> MergeMethod:
    return MergeMethod(compose, masks, MASKED, **more)


def _own() -> dict[str, MergeMethod]:
    found = {
        "wise_ft": MergeMethod(linear.wise_ft),
        "vanilla": MergeMethod(linear.vanilla),
        **{name: _masked(merge, name) for name in ("gism", "gism_pci", "gism_apt")},
        "pistole": _masked(merge),
        "wise_ft_matched": _masked(controls.wise_ft_matched, matched=True),
        "uniform_shrink": _masked(controls.uniform_shrink, matched=True),
    }
    for draw in (1, 2, 3):
        permuted = partial(controls.permuted_mask, draw=draw)
        found[f"permuted_mask_{draw}"] = MergeMethod(
            permuted, CHOSEN, MASKED | {"seed"}, matched=True
        )
    return found | {
        "self_mask": _masked(controls.self_mask, matched=True),
        "magnitude_mask": _masked(merge, "magnitude", matched=True),
        "random_score": _masked(merge, "random", matched=True),
        "zero_nat": _masked(controls.zero_nat, matched=True),
    }


def _compared() -> dict[str, MergeMethod]:
    found = {}
    for name, entry in CATALOGUE.items():
        tuned = MergeMethod(
            partial(by_rule, entry=entry),
            takes=RULED,
            needs=entry.rule.needs,
            tuned=entry.tuned,
        )
        found[name] = tuned
        found[f"{name}{OFFICIAL}"] = replace(tuned, has_axis=False, tuned={})
    return found


def _conditioned(inner: MergeMethod) -> MergeMethod:
    compose = inner.compose
    if "statistics" in inner.takes:
        compose = partial(compose, statistics={})  # these are DisTaC's, not the inner method's
    return replace(
        inner,
        compose=partial(conditioned, inner=compose),
        takes=inner.takes | {"statistics"},
        needs="distac",
    )


METHODS: dict[str, MergeMethod] = _own()
METHODS |= _compared()
METHODS |= {
    f"distac_{name}": _conditioned(METHODS[name])
    for name in ("vanilla", "task_arithmetic", "ties", "pistole")
    if name in METHODS
}
METHODS |= {
    "pistole_scaled": MergeMethod(scaled, CHOSEN, MASKED | OPTIONS, tuned={"scaling": FACTORS}),
    "uniform_soup": MergeMethod(soup, takes=OPTIONS, has_axis=False),
    "greedy_soup": MergeMethod(soup, takes=OPTIONS, has_axis=False, searched=True),
    "robustness_soup": MergeMethod(soup, takes=OPTIONS, has_axis=False, tuned=WEIGHTS),
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
    require_name("merging method", name, METHODS)
    return METHODS[name]


def compose(
    name: str,
    theta_0: Params,
    tau_nat: Params,
    tau_rob: Params,
    *,
    lam: Real | None,
    masks: Masks | None = None,
    rescale: str = "none",
    seed: int = 0,
    options: Options | None = None,
    statistics: Statistics | None = None,
) -> Params:
    """Merge with the method of that name.

    Args:
        name: a key of :data:`METHODS`.
        theta_0: the base.
        tau_nat: natural task vector, same names and shapes.
        tau_rob: robust task vector, same names and shapes.
        lam: weight of the natural vector, in [0, 1]; None for methods without a lambda.
        masks: M_nat and M_rob; only methods that need masks read them.
        rescale: ``none`` or ``norm``, for methods with masks.
        seed: of the run, for methods that draw.
        options: tuned options of the method; None means its official ones.
        statistics: what its preparation measured, for methods that need one.

    Returns:
        The merged parameters.

    Raises:
        UserError: unknown method, a lambda for a method without one, masks or statistics that are
            needed and not given, or ingredients that cannot be merged.
    """
    method = method_named(name)
    if not method.has_axis and lam is not None:
        raise UserError(f"lambda is {lam}, but method '{name}' has none: leave it out")
    if method.masks is not None and masks is None:
        raise UserError(f"method '{name}' needs masks: give --masks, the folder of 'pistole masks'")
    if method.needs is not None and statistics is None:
        raise UserError(
            f"method '{name}' needs --prepared, the folder of 'pistole prepare': add "
            f"'{method.needs}' to prepare.run"
        )
    given = {
        "masks": masks,
        "rescale": rescale,
        "seed": seed,
        "options": options or {},
        "statistics": statistics or {},
    }
    taken = {key: value for key, value in given.items() if key in method.takes}
    return method.compose(theta_0, tau_nat, tau_rob, lam=lam, **taken)
