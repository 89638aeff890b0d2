"""Merging methods by name, with options from the command line."""

import difflib
from collections.abc import Sequence
from dataclasses import fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from pistole.baselines.arithmetic import TaskArithmetic
from pistole.baselines.linear import Linear
from pistole.baselines.rule import Rule
from pistole.baselines.ties import Ties
from pistole.errors import UserError

RULES: dict[str, type[Rule]] = {  # those that need no data
    "linear": Linear,
    "task_arithmetic": TaskArithmetic,
    "ties": Ties,
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
        options[option] = _value(setting, text, get_args(hints[option]) or (hints[option],))
    return rule(**options)


def _value(setting: str, text: str, kinds: Sequence[type]) -> Any:
    """Read the text as the first of an option's types that it fits, the narrowest first."""
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
    expected = " or ".join(kind.__name__ for kind in kinds)
    raise UserError(f"--set {setting}: {text!r} is no {expected}: correct it")
