"""The theory checks as the page shows them."""

from collections.abc import Mapping
from typing import Any

from pistole.report import figures
from pistole.report.inputs import Recorded
from pistole.report.tables import TITLES
from pistole.report.values import flatten, number

TOLD = ("claim", "measurement", "verdict", "statement")
SMALL = 12  # numbers of a dict that the page still shows
SHORT = 4  # numbers of a list that the page still shows
Summary = Mapping[str, Any]


def view(name: str, record: Recorded) -> dict[str, Any]:
    """Collect what the page shows of one check.

    Args:
        name: the check.
        record: its summary and table.

    Returns:
        Words, verdict, further findings, numbers (and ``keys``, those of single numbers in
        ``metrics.json``), and figure and rows where the check has a figure.
    """
    summary, module = record.summary, figures.CHECKS.get(name)
    numbers, left_out = shown_numbers(summary)
    rows = module.numbers(record) if module else []
    return {
        "name": name,
        "title": module.TITLE if module else TITLES[name],
        "caption": module.CAPTION if module else None,
        **{key: summary.get(key, "") for key in TOLD},
        "notes": [text for key, text in summary.items() if key.endswith("_statement")],
        "numbers": numbers,
        "keys": {
            told: f"theory.{name}.{key}"
            for told in numbers
            if _is_number(summary, key := told.replace(": ", ".", 1))
        },
        "left_out": left_out,
        "columns": list(rows[0]) if rows else [],
        "rows": rows,
    }


def shown_numbers(summary: Summary) -> tuple[dict[str, str], list[str]]:
    """Choose the numbers of a summary that fit on the page.

    Args:
        summary: summary of a check.

    Returns:
        Key -> text of single numbers, short lists and small dicts; and the keys of what is
        too long, which stays in ``metrics.json``.
    """
    shown: dict[str, str] = {}
    left_out = []
    for key, value in summary.items():
        if key in TOLD or key.endswith("_statement"):
            continue
        leaves = _leaves(value)
        if leaves is None or (isinstance(value, Mapping) and leaves > SMALL):
            left_out.append(key)
        elif isinstance(value, Mapping):
            shown |= flatten(value, f"{key}: ")
        else:
            shown[key] = number(value, key)
    return shown, left_out


def _leaves(value: object) -> int | None:
    """How many numbers a value shows; None if it holds something too long for one line."""
    if isinstance(value, Mapping):
        parts = [_leaves(part) for part in value.values()]
        return None if None in parts else sum(part for part in parts if part is not None)
    if isinstance(value, list | tuple):
        short = len(value) <= SHORT and not any(
            isinstance(i, Mapping | list | tuple) for i in value
        )
        return 1 if short else None
    return 1


def _is_number(tree: object, key: str) -> bool:
    """Tell whether a dotted key, whose parts may hold dots themselves, leads to one number."""
    if not isinstance(tree, Mapping):
        return not key and isinstance(tree, int | float)
    return any(
        _is_number(value, key[len(name) + 1 :])
        for name, value in tree.items()
        if key == name or key.startswith(f"{name}.")
    )
