"""Which class names and templates a dataset gets: its own files before the registry's lists."""

from collections.abc import Sequence
from pathlib import Path

from pistole.data.names import (
    CLASSNAMES,
    SINGLE,
    TEMPLATES,
    ClassList,
    read_class_list,
    read_templates,
    readable,
    require_order,
)
from pistole.data.registry import registry
from pistole.errors import UserError


def classes_of(
    name: str, folder: Path | None, own: Sequence[str] | None, what: str
) -> tuple[str, ...]:
    """Name the classes of a dataset in the order of its labels.

    Args:
        name: the dataset.
        folder: where its own ``classnames.txt`` lies, if it has one.
        own: what the data calls its classes, by label; None: it does not say.
        what: the data, for messages.

    Returns:
        Class names for prompts: of its own file, else of the registry, else the data's own.

    Raises:
        UserError: nothing names the classes, or the data has others or another order.
    """
    file = folder and folder / CLASSNAMES
    if file and file.is_file():
        lists = [read_class_list(file)]
    elif name in registry():
        lists = registry()[name].class_lists()
    elif own is not None:
        lists = [ClassList(tuple(own), tuple(readable(one) for one in own))]
    elif file:
        lists = [read_class_list(file)]  # says what is missing
    else:
        raise UserError(f"{what} does not name its classes: set data.sources.{name}.names")
    return (lists[0] if own is None else require_order(lists, own, what)).names


def templates_of(name: str, folder: Path | None, choice: str) -> list[str]:
    """Choose the templates of a dataset.

    Args:
        name: the dataset.
        folder: where its own templates lie, if it has some.
        choice: ``ensemble``, all of them, or ``single``, the one that TeCoA uses.

    Returns:
        Sentences with ``{c}`` for the class name: of its own file, else of the registry.

    Raises:
        UserError: it has none.
    """
    if choice == "single":
        return [SINGLE]
    file = folder and folder / TEMPLATES
    if file and (file.is_file() or name not in registry()):
        return read_templates(file)
    if name not in registry():
        raise UserError(
            f"dataset {name!r} has no templates: set data.sources.{name}.names to a folder with "
            f"{TEMPLATES}, or data.templates to single"
        )
    return registry()[name].prompts()
