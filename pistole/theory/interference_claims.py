"""What the table of the contraction check says of each claim (docs/method.md A.3.4, A.6, E.1)."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from pistole.theory.interference_table import ROUNDING, Row

RISES_WHEN_TIGHT = ("score_clip",)  # proven in docs/method.md A.3.4; all other readings fall


def curves(rows: Iterable[Row], over: str, *along: str) -> list[list[Row]]:
    """Split rows into curves.

    Args:
        rows: of one grid.
        over: column of the abscissa.
        *along: columns that are constant on a curve, beside gradient and point.

    Returns:
        The curves without rows that have no rho_w, each sorted by its abscissa.
    """
    found: dict[tuple, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[over]):
        if row["rho_w"] is not None:
            place = tuple(row[name] for name in ("gradient", "point", *along))
            found.setdefault(place, []).append(row)
    return list(found.values())


def identity_error(rows: Iterable[Row]) -> float:
    """Return the largest relative difference of A(M)/A(1) and rho_w (Theorem 1 (i)).

    Args:
        rows: any rows.

    Returns:
        0 if no row has both.
    """
    return max(
        (
            abs(row["envelope_ratio"] - row["rho_w"]) / (row["rho_w"] or 1.0)
            for row in rows
            if row["rho_w"] is not None and row["envelope_ratio"] is not None
        ),
        default=0.0,
    )


def never_rises(values: Sequence[float]) -> bool:
    """Tell whether no value is above the one before it, up to rounding.

    Args:
        values: in order.

    Returns:
        Whether they never rise.
    """
    return all(after <= before * (1 + ROUNDING) for before, after in pairwise(values))


def log_convex(curve: Sequence[Row]) -> bool:
    """Tell whether log rho_w over kappa bends upwards everywhere (Theorem 1 (ii)).

    Args:
        curve: rows sorted by kappa; those with rho_w = 0 are left out.

    Returns:
        Whether no point lies above the chord of its neighbours, up to rounding.
    """
    points = [(row["kappa"], math.log(row["rho_w"])) for row in curve if row["rho_w"] > 0]
    return all(
        b <= a + (c - a) * (y - x) / (z - x) + ROUNDING
        for (x, a), (y, b), (z, c) in zip(points, points[1:], points[2:], strict=False)
    )


def direction(values: Sequence[float]) -> str:
    """Name the course of some values, up to rounding.

    Args:
        values: in order.

    Returns:
        ``rises``, ``falls``, ``unchanged`` or ``mixed``.
    """
    falls, rises = never_rises(values), never_rises(values[::-1])
    return {(True, True): "unchanged", (True, False): "falls", (False, True): "rises"}.get(
        (falls, rises), "mixed"
    )


def cap_directions(rows: Sequence[Row]) -> dict[str, str]:
    """Say per reading of the cap what rho_w does as the cap tightens, at every place.

    Args:
        rows: of the grid ``cap``.

    Returns:
        cap mode -> direction over falling q; ``mixed`` if places differ.
    """
    found: dict[str, set[str]] = {}
    for curve in curves(rows, "q", "cap_mode"):
        course = direction([row["rho_w"] for row in reversed(curve)])
        found.setdefault(curve[0]["cap_mode"], set()).add(course)
    told = {}
    for mode, courses in found.items():
        moving = courses - {"unchanged"}
        told[mode] = "mixed" if len(moving) > 1 else next(iter(moving), "unchanged")
    return told


def cap_verdict(course: str) -> str:
    """Judge the paper's claim that a tighter cap lowers rho, for one reading of the cap.

    Args:
        course: of :func:`cap_directions`.

    Returns:
        ``undecided`` if rho_w does not depend on q, or only one q was measured.
    """
    return {"falls": "holds", "unchanged": "undecided"}.get(course, "fails")


def as_proven(courses: dict[str, str]) -> bool:
    """Tell whether every reading of the cap moves rho_w as docs/method.md A.3.4 proves.

    Args:
        courses: of :func:`cap_directions`.

    Returns:
        Whether ``score_clip`` never lowers rho_w and the other readings never raise it.
    """
    return all(
        course in ("unchanged", "rises" if mode in RISES_WHEN_TIGHT else "falls")
        for mode, course in courses.items()
    )


def jointly(verdicts: Sequence[str]) -> str:
    """Judge a claim with several parts.

    Args:
        verdicts: of the parts.

    Returns:
        ``fails`` if any part does, ``holds`` if there are parts and all of them do.
    """
    if "fails" in verdicts:
        return "fails"
    return "holds" if verdicts and set(verdicts) == {"holds"} else "undecided"


def above(rows: Sequence[Row], limit: float) -> str:
    """Judge the claim that all estimates are above a limit.

    Args:
        rows: with ``low`` and ``high``; those without an estimate are left out.
        limit: the limit.

    Returns:
        ``holds`` if all intervals are clear above it, ``fails`` if one is clear below it.
    """
    sides = [
        "holds" if row["low"] > limit else "fails" if row["high"] < limit else "undecided"
        for row in rows
        if row["estimate"] is not None
    ]
    return jointly(sides)


def below(rows: Sequence[Row], limit: float) -> str:
    """Judge the claim that all estimates are below a limit.

    Args:
        rows: with ``low`` and ``high``; those without an estimate are left out.
        limit: the limit.

    Returns:
        ``holds`` if all intervals are clear below it, ``fails`` if one is clear above it.
    """
    mirrored = [
        row | {"low": -row["high"], "high": -row["low"]}
        for row in rows
        if row["estimate"] is not None
    ]
    return above(mirrored, -limit)
