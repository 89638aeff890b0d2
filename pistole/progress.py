"""Progress of long work: a rich bar on a terminal, plain lines with an estimate in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
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


@contextlib.contextmanager
def counting(what: str, total: int) -> Iterator[Callable[..., None]]:
    """Show how far some work is and how long it will still take.

    Args:
        what: a short name of the work.
        total: number of its parts.

    Yields:
        A function to call after each part, with a note on it if there is something to say; in a
        log a line is written every ten seconds and for every note.
    """
    if sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(what, total=total)

            def advance(note: str = "") -> None:
                bar.update(task, advance=1, description=f"{what} {note}".rstrip())

            yield advance
    else:
        yield _lines(what, total)


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
    with counting(what, total) as advance:
        for item in items:
            yield item
            advance()


def _bar() -> Progress:
    from rich.console import Console

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def _lines(what: str, total: int) -> Callable[..., None]:
    start = last = time.monotonic()
    done = 0

    def advance(note: str = "") -> None:
        nonlocal done, last
        done, now = done + 1, time.monotonic()
        due = now - last >= LOG_EVERY_SECONDS or (done == total and now - start >= 1)
        if note or due:
            left = (now - start) / done * (total - done)
            said = f" {note}," if note else ""
            say(f"{what}:{said} {done}/{total}, {now - start:.0f} s, about {left:.0f} s left")
            last = now

    return advance
