"""Merging methods by name, with options from the command line."""

from collections.abc import Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pistole.baselines.arithmetic import Analogy, Negation
from pistole.baselines.catalogue import CATALOGUE
from pistole.baselines.linear import Linear
from pistole.baselines.registry import METHODS
from pistole.baselines.rule import Rule
from pistole.baselines.soups import RobustnessSoup, UniformSoup
from pistole.errors import UserError, require_name

# Those that need no data. An entry with options of its own is its rule with --set.
RULES: dict[str, type[Rule]] = {
    **{n: e.rule for n, e in CATALOGUE.items() if e.rule.needs is None and not e.fixed},
    "linear": Linear,
    "robustness_soup": RobustnessSoup,
    "task_analogy": Analogy,
    "task_negation": Negation,
    "uniform_soup": UniformSoup,
}
WORDS = {"true": True, "false": False}


def rule_named(name: str, settings: Sequence[str] = ()) -> Rule:
    """Make a merging method.

    Args:
        name: a key of :data:`RULES`.
        settings: options as ``NAME=VALUE``; the rest keep their defaults.

    Returns:
        The method.

    Raises:
        UserError: an unknown method, one that only a pipeline can run, an unknown option, or a
            value that the option cannot have.
    """
    if name in METHODS and name not in RULES:
        raise UserError(
            f"{name} needs what only a pipeline has (lambda, scores or images): list it in methods "
            "of params.yaml (docs/guides/merge-checkpoints.md); files alone are merged by "
            f"{', '.join(sorted(RULES))}"
        )
    require_name("merging method for files", name, sorted(RULES))
    rule = RULES[name]
    hints = get_type_hints(rule)
    known = sorted(field.name for field in fields(rule) if field.name != "statistics")
    options: dict[str, Any] = {}
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not equals or option not in known:
            raise UserError(
                f"--set {setting}: {name} has the options {', '.join(known)}: give NAME=VALUE"
            )
        options[option] = _value(setting, text, hints[option])
    return rule(**options)


def _value(setting: str, text: str, hint: Any) -> Any:
    """Read the text as the first of an option's types that it fits, the narrowest first."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    several = next((kind for kind in kinds if get_origin(kind) is tuple), None)
    if several is not None and ("," in text or len(kinds) == 1):
        return tuple(_value(setting, part, get_args(several)[0]) for part in text.split(","))
    if NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float, str):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise UserError(f"--set {setting}: {text!r} is no {expected}: correct it")
