"""Values as text for reading."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

LONG = 1e4  # a number this large shows all its digits before the point


def number(value: object, key: str = "") -> str:
    """Format a value for reading.

    Args:
        value: anything JSON can hold.
        key: its name; radii and step sizes of images are written as fractions of 255, ends of an
            interval with a word between them.

    Returns:
        Its text: four digits, more for large numbers; None is ``null`` and a list is separated by
        commas.
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        between = " to " if key.endswith("ci95") and len(value) == 2 else ", "
        return between.join(number(item, key) for item in value)
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    if key.split(".")[-1] in ("eps", "alpha", "radii"):
        share = Fraction(value * 255).limit_denominator(8)
        if abs(float(share) / 255 - value) < 1e-9:
            return f"{float(share):g}/255"
    if LONG <= abs(value) < 1e9:
        return f"{value:.0f}"
    digits, _, power = f"{value:.4g}".partition("e")
    return f"{digits}e{int(power)}" if power else digits


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Write a tree of values as dotted keys.

    Args:
        tree: nested mappings.
        prefix: key of the tree itself.

    Returns:
        Dotted key -> formatted value, in the tree's order.
    """
    flat: dict[str, str] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = number(value, path)
    return flat


def listed(parts: Sequence[str]) -> str:
    """Write a list in words.

    Args:
        parts: at least one.

    Returns:
        Such as ``a, b and c``.
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
