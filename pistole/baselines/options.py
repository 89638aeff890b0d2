"""Checks of a rule's options that several methods share."""

import math

from pistole.errors import UserError
from pistole.method.vectors import Real


def require_share(what: str, value: Real, *, zero: bool = False, one: bool = True) -> None:
    """Refuse what is no share of the coordinates.

    Args:
        what: name of the option, for the message.
        value: the option.
        zero: whether 0 is allowed.
        one: whether 1 is allowed.

    Raises:
        UserError: the value lies outside the interval.
    """
    inside = (value >= 0 if zero else value > 0) and (value <= 1 if one else value < 1)
    if not inside:
        bounds = f"{'[' if zero else '('}0, 1{']' if one else ')'}"
        raise UserError(f"{what} is {value}: give a share in {bounds}")


def require_number(what: str, value: Real) -> None:
    """Refuse NaN and infinity.

    Args:
        what: name of the option, for the message.
        value: the option.

    Raises:
        UserError: the value is not finite.
    """
    if not math.isfinite(value):
        raise UserError(f"{what} is {value}: give a finite number")


def require_count(method: str, count: int, wanted: int) -> None:
    """Refuse another number of task vectors than a method is defined for.

    Args:
        method: its name, for the message.
        count: number of vectors given.
        wanted: number of vectors that the method merges.

    Raises:
        UserError: the numbers differ.
    """
    if count != wanted:
        raise UserError(f"{method} got {count} task vectors: give exactly {wanted}")
