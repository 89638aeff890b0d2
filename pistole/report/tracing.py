"""The commands that follow a number of the page back to its sources."""

import shlex

FILE = "report/metrics.json"


def trace_command(key: str) -> str:
    """Write the command that traces a number.

    Args:
        key: dotted key in ``report/metrics.json``, such as ``models.pistole.sum``.

    Returns:
        A line for a shell in the project's folder.
    """
    return f"pistole trace {shlex.quote(f'{FILE}:{key}')}"
