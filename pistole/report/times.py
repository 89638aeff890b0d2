"""The page with what differs from run to run: time, cost, machine and environment of every stage.

The page itself has none of it, so that equal parameters, data and code give equal bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pistole.errors import UserError
from pistole.report.page import template

START, END = "<!-- times -->", "<!-- end of times -->"


@dataclass(frozen=True)
class Ran:
    """One stage of the run.

    Attributes:
        name: DVC's name of it.
        seconds: how long it took.
        cost: forward-equivalents that it was expected to take; None if unknown.
        environment: python, lock, versions, platform, device, device_name.
        where: who ran it, and on which machine.
        commit: of the code; None outside of git.
    """

    name: str
    seconds: float
    cost: float | None
    environment: Mapping[str, Any]
    where: str
    commit: str | None


def with_times(page: str, stages: Sequence[Ran], missing: Sequence[str]) -> str:
    """Put the times into the page.

    Args:
        page: content of ``report/index.html``.
        stages: those that have a receipt.
        missing: names of those that have none.

    Returns:
        The page with a table of stages and the environments that they ran in.

    Raises:
        UserError: the page is of an older version.
    """
    if START not in page or END not in page:
        raise UserError("report/index.html has no place for times: run stage report again")
    kinds: dict[str, list[Ran]] = {}
    for stage in stages:
        kinds.setdefault(stage.name.partition("@")[0], []).append(stage)
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    told = template("times.html.j2").render(
        kinds=kinds,
        stages=stages,
        missing=missing,
        total=sum(stage.seconds for stage in stages),
        cost=added([stage.cost for stage in stages]),
        environments=_environments(stages),
        clock=clock,
        added=added,
        large=large,
    )
    return before + told + after.lstrip("\n")


def added(costs: Sequence[float | None]) -> float | None:
    """Add costs.

    Args:
        costs: of stages.

    Returns:
        Their sum; None if none of them is known.
    """
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


def clock(seconds: float) -> str:
    """Write a duration.

    Args:
        seconds: its length.

    Returns:
        Such as ``1:02:03``, ``2:03`` minutes, or ``4.5 s`` below a minute.
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def large(value: float | None) -> str:
    """Write a number of passes.

    Args:
        value: the number.

    Returns:
        Three digits and k, M or G; a dash if it is unknown or nothing.
    """
    if not value:
        return "–"
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _environments(stages: Sequence[Ran]) -> list[dict[str, Any]]:
    """Every environment once, with the stages that ran in it."""
    found: dict[tuple, dict[str, Any]] = {}
    for stage in stages:
        about = stage.environment
        versions = ", ".join(f"{k} {v}" for k, v in sorted(about["versions"].items()))
        key = (
            stage.where,
            *(about[k] for k in ("python", "platform", "device", "device_name", "lock_sha256")),
            versions,
            stage.commit,
        )
        entry = found.setdefault(
            key,
            {**about, "told": versions, "where": stage.where, "commit": stage.commit, "stages": []},
        )
        entry["stages"].append(stage.name)
    return list(found.values())
