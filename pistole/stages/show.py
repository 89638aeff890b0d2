"""Command ``show``: the table of a finished run on the terminal."""

from pathlib import Path

from rich.console import Console

from pistole.files import read_json
from pistole.report.tables import terminal_leads, terminal_table


def run(report: Path) -> None:
    """Print the table of ``metrics.json`` and where the page is.

    Args:
        report: folder of stage ``report``.
    """
    metrics = read_json(report / "metrics.json")
    counts = next(iter(metrics["models"].values()))["n"].values()
    console = Console(highlight=False, markup=False)
    console.print(
        f"Profile {metrics['profile']}: means over {len(counts)} tasks, {sum(counts)} test images,"
        " [95% interval]\n"
    )
    console.print(terminal_table(metrics))
    if metrics["differences"]:
        console.print("\nOn the same images (paired bootstrap), in percentage points:\n")
        console.print(terminal_leads(metrics))
    page = (report / "index.html").resolve()
    here = Path.cwd()
    shown = page.relative_to(here) if page.is_relative_to(here) else page
    console.print(f"\nReport: {shown}", soft_wrap=True)
