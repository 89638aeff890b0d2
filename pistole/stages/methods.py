"""Merging methods by name, with options from the command line."""

import difflib
from collections.abc import Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pistole.baselines.arithmetic import Analogy, Negation, TaskArithmetic
from pistole.baselines.breadcrumbs import Breadcrumbs
from pistole.baselines.consensus import Consensus
from pistole.baselines.dare import Dare
from pistole.baselines.linear import Linear
from pistole.baselines.pcb import Pcb
from pistole.baselines.rule import Rule
from pistole.baselines.slerp import Slerp
from pistole.baselines.soups import RobustnessSoup, UniformSoup
from pistole.baselines.ties import Ties
from pistole.errors import UserError

RULES: dict[str, type[Rule]] = {  # those that need no data
    "breadcrumbs": Breadcrumbs,
    "consensus": Consensus,
    "dare": Dare,
    "linear": Linear,
    "pcb": Pcb,
    "robustness_soup": RobustnessSoup,
    "slerp": Slerp,
    "task_analogy": Analogy,
    "task_arithmetic": TaskArithmetic,
    "task_negation": Negation,
    "ties": Ties,
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
        UserError: an unknown method or option, or a value that the option cannot have.
    """
    if name not in RULES:
        near = difflib.get_close_matches(name, RULES, n=1, cutoff=0)[0]
        raise UserError(
            f"no merging method {name!r} for files: did you mean {near!r}? There are "
            f"{', '.join(sorted(RULES))}"
        )
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
