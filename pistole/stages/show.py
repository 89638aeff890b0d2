"""Command ``show``: the tables and verdicts of a finished run on the terminal."""

import json
from pathlib import Path

from rich.console import Console

from pistole.errors import UserError
from pistole.files import read_json
from pistole.report import terminal
from pistole.report.rows import comparison_groups


def run(report: Path, *, as_json: bool = False) -> None:
    """Print what ``metrics.json`` says and where the page is.

    Args:
        report: folder of stage ``report``.
        as_json: print what ``metrics.json`` has of the profile, the models and the theory checks.

    Raises:
        UserError: there is no report, or an older version wrote it.
    """
    metrics = read_json(report / "metrics.json")
    if "controls" not in metrics:
        raise UserError(f"{report / 'metrics.json'} is of an older version: run stage report again")
    if as_json:
        shown = {key: metrics[key] for key in ("profile", "models", "theory")}
        print(json.dumps(shown, indent=2))
        return
    counts = next(iter(metrics["models"].values()))["n"].values()
    console = Console(highlight=False, markup=False)
    console.print(
        f"Profile {metrics['profile']}: means over {len(counts)} tasks, {sum(counts)} test images,"
        " [95% interval]\n"
    )
    console.print(terminal.accuracy_table(metrics))
    leads = terminal.leads_table(metrics)
    if leads is not None:
        console.print("\nOn the same images (paired bootstrap), in percentage points:\n")
        console.print(leads)
    for group in comparison_groups(metrics):
        console.print(f"\n{group['title']}, %; last column: PISTOLE's lead in the Sum, points\n")
        console.print(terminal.comparison_table(group["rows"]))
    console.print()
    for text in terminal.sentences(metrics):
        console.print(text, soft_wrap=True)
    if metrics["theory"]:
        console.print("\nTheory checks\n")
        for line in terminal.theory_lines(metrics):
            console.print(line, soft_wrap=True)
    page = (report / "index.html").resolve()
    here = Path.cwd()
    shown = page.relative_to(here) if page.is_relative_to(here) else page
    console.print(f"\nReport: {shown}", soft_wrap=True)
