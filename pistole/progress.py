"""Progress of long work: a rich bar on a terminal, plain lines with an estimate in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")
LOG_EVERY_SECONDS = 10.0


def say(text: str) -> None:
    """Print one line to standard error at once.

    Args:
        text: the line.
    """
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Iterate and show how far the work is and how long it will still take.

    Args:
        items: what to iterate over.
        what: a short name of the work.
        total: number of items; ``len(items)`` if left out.

    Yields:
        The items.
    """
    total = len(items) if total is None else total  # type: ignore[arg-type]
    if sys.stderr.isatty():
        yield from _bar(items, what, total)
    else:
        yield from _lines(items, what, total)


def _bar(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    from rich.console import Console

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description=what)


def _lines(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS or (done == total and now - start >= 1):
            left = (now - start) / done * (total - done)
            say(f"{what}: {done}/{total}, {now - start:.0f} s, about {left:.0f} s left")
            last = now
