"""Progress of long work: nested rich bars on a terminal, plain lines with an estimate in a log.

Everything goes to standard error, so that a command's output stays what it is. PISTOLE_QUIET (which
``--quiet`` sets) leaves only warnings.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, Task

Item = TypeVar("Item")
LOG_EVERY_SECONDS = 10.0
QUIET = "PISTOLE_QUIET"
WARNING = "warning:"
INDENT = "  "

_bars: "list[Progress]" = []  # the one display of the terminal, while something is counted


def quiet() -> bool:
    """Tell whether only warnings are wanted.

    Returns:
        True if PISTOLE_QUIET is set to something.
    """
    return bool(os.environ.get(QUIET))


def shown() -> bool:
    """Tell whether bars are drawn, which a note may change at no cost.

    Returns:
        True on a terminal that is not quiet.
    """
    return not quiet() and sys.stderr.isatty()


def say(text: str) -> None:
    """Print one line to standard error at once.

    Args:
        text: the line; a quiet command prints it only if it begins with ``warning:``.
    """
    if quiet() and not text.startswith(WARNING):
        return
    if _bars:
        _bars[-1].console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show how far some work is and how long it will still take.

    Counts inside of a count are shown below it, and go when they are finished.

    Args:
        what: a short name of the work.
        total: number of its parts; None if that is not known.

    Yields:
        A function to call after each part, with a note on it if there is something to say; in a
        log a line is written every ten seconds and for every note. Several ``parts`` may be told
        at once; those ``kept`` from a killed run count, but not for the time that is left.
    """
    if quiet():
        yield _nothing
    elif shown():
        with _display() as bars:
            task = bars.add_task(INDENT * len(bars.task_ids) + what, total=total)
            name = bars.tasks[-1].description

            def advance(note: str = "", parts: int = 1, *, kept: bool = False) -> None:
                bars.update(task, advance=parts, description=f"{name} {note}".rstrip())

            try:
                yield advance
            finally:
                if len(bars.task_ids) > 1:  # the outermost stays on the screen
                    bars.remove_task(task)
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


@contextlib.contextmanager
def _display() -> "Iterator[Progress]":
    """Give the display that there is, or open one for the outermost count."""
    if _bars:
        yield _bars[-1]
        return
    # Imported here: rich takes a tenth of a second, and most commands count nothing.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Parts(ProgressColumn):
        def render(self, task: "Task") -> Text:
            known = "" if task.total is None else f"/{task.total:.0f}"
            return Text(f"{task.completed:.0f}{known}" if task.completed or known else "")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Parts(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        _bars.append(bars)
        try:
            yield bars
        finally:
            _bars.remove(bars)


def _nothing(note: str = "", parts: int = 1, *, kept: bool = False) -> None:
    """Show no progress."""


def _lines(what: str, total: int | None) -> Callable[..., None]:
    start = last = time.monotonic()
    done = found = 0

    def advance(note: str = "", parts: int = 1, *, kept: bool = False) -> None:
        nonlocal done, found, last
        done, found, now = done + parts, found + parts * kept, time.monotonic()
        due = now - last >= LOG_EVERY_SECONDS or (done == total and now - start >= 1)
        if note or due:
            said = f" {note}," if note else ""
            say(f"{what}:{said} {_so_far(done, total, now - start, found)}")
            last = now

    return advance


def _so_far(done: int, total: int | None, seconds: float, found: int) -> str:
    if total is None or done == found:
        return f"{done}{'' if total is None else f'/{total}'}, {seconds:.0f} s"
    left = seconds / (done - found) * (total - done)
    return f"{done}/{total}, {seconds:.0f} s, about {left:.0f} s left"
