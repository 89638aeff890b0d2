"""How a command ends that did not end by itself: interrupted, or by a mistake of the package."""

import os
import platform
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

import typer

import pistole

STATUS_INTERRUPTED = 130
SWITCHES = ("--quiet", "--debug")
DEBUG = "PISTOLE_DEBUG"

RESUME = Path(".pistole/resume")
TRAINING = "the training's last state is in .pistole/resume"
BATCHES = "the outcomes of finished batches are in .pistole/resume"
KEPT = {"finetune": TRAINING, "pretrain": TRAINING, "evaluate": BATCHES, "frontier": BATCHES}
NOTHING = "outputs that were there are as they were, and none is half-written"


class InterruptError(Exception):
    """Ctrl-C while a command worked.

    Attributes:
        command: its name.
    """

    def __init__(self, command: str) -> None:
        """Name the command.

        Args:
            command: such as ``evaluate`` or ``data index``.
        """
        super().__init__(command)
        self.command = command


class Command(typer.core.TyperCommand):
    """A command that says by its exception which one was interrupted."""

    def invoke(self, ctx: typer.Context) -> object:
        """Run the command.

        Args:
            ctx: of the command.

        Returns:
            What it returns.

        Raises:
            InterruptError: Ctrl-C.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            names = []
            while ctx.parent is not None:  # the last one is the program
                names.insert(0, str(ctx.info_name))
                ctx = ctx.parent
            raise InterruptError(" ".join(names)) from None


def to_front(arguments: list[str]) -> list[str]:
    """Let the switches of all commands stand anywhere.

    Args:
        arguments: of the command line.

    Returns:
        The same with ``--quiet`` and ``--debug`` before the command; what follows ``--`` is no
        switch.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    head, tail = arguments[:end], arguments[end:]
    moved = [word for word in head if word in SWITCHES]
    return moved + [word for word in head if word not in SWITCHES] + tail


def interruption(command: str, arguments: list[str]) -> str:
    """Say what an interrupted command leaves behind, and how to go on.

    Args:
        command: its name.
        arguments: of the command line.

    Returns:
        One line.
    """
    again = "dvc repro" if "DVC_STAGE" in os.environ else _line(arguments)
    # A training that was stopped before its first save has left nothing.
    if command in KEPT and any(RESUME.glob(f"{command}*")):
        return f"interrupted: {KEPT[command]}: `{again}` goes on from there"
    return f"interrupted: {NOTHING}: `{again}` does it anew"


def crash(error: BaseException, arguments: list[str]) -> str:
    """Say all that a report of a mistake in the package needs.

    The traceback is written to a file of its own, or printed here where PISTOLE_DEBUG asks for it.

    Args:
        error: what was not foreseen.
        arguments: of the command line.

    Returns:
        Some lines.
    """
    told = "".join(traceback.format_exception(error))
    debug = bool(os.environ.get(DEBUG))
    where = "above" if debug else _written(told)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({Path(last[0].filename).name}:{last[0].lineno})" if last else ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"{told if debug else ''}"
        f"pistole: unexpected error: {text}{place}\n"
        f"  version    pistole {pistole.__version__}, python {platform.python_version()}\n"
        f"  platform   {platform.platform()}\n"
        f"  command    {_line(arguments)}\n"
        f"  traceback  {where}\n"
        "This is a mistake of pistole, not yours. Please report it with these lines and the\n"
        "traceback, as CONTRIBUTING.md says; --debug prints the traceback here.\n"
    )


def _written(text: str) -> str:
    """Write a traceback where it is in nobody's way; a full disk must not hide the error."""
    try:
        handle, name = tempfile.mkstemp(prefix="pistole-", suffix=".txt", text=True)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError:
        return f"could not be written: set {DEBUG}=1"
    return name


def _line(arguments: list[str]) -> str:
    return shlex.join(["pistole", *arguments])


def finish(text: str, status: int) -> None:
    """Write to standard error and end.

    Args:
        text: what to say.
        status: exit status.
    """
    sys.stderr.write(text)
    sys.stderr.flush()
    sys.exit(status)
