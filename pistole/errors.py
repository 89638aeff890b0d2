"""The one error type that a user's mistake raises."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend: one line with what is wrong, its value and the remedy.

    The command line prints the message without a traceback and exits with status 2.
    """


def require_choice(what: str, value: object, known: Iterable[str]) -> None:
    """Refuse a name that is none of those known.

    Args:
        what: what is chosen, for the message.
        value: the choice.
        known: what there is to choose from.

    Raises:
        UserError: the value is none of them; lists them.
    """
    names = tuple(known)
    if value not in names:
        raise UserError(f"{what} is {value!r}: choose one of {', '.join(names)}")


def require_name(what: str, value: str, known: Iterable[str]) -> None:
    """Refuse an unknown name of many, with the nearest one.

    Args:
        what: what has that name, for the message.
        value: the name.
        known: all names.

    Raises:
        UserError: the name is unknown; suggests the nearest and lists them all.
    """
    names = tuple(known)
    if value not in names:
        near = difflib.get_close_matches(value, names, n=1, cutoff=0)[0]
        raise UserError(f"no {what} {value!r}: did you mean {near!r}? There are {', '.join(names)}")
