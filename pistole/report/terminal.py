"""The report on a terminal of 80 columns, in plain ASCII."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from pistole.report.rows import missing
from pistole.report.statistics import MEASURES, Interval
from pistole.report.tables import MAIN, TITLES, Metrics, cell, label, leads, points, signed, some
from pistole.report.transfer import sentence

WIDTH = 80


def accuracy_table(metrics: Metrics) -> Table:
    """Make the main table.

    Args:
        metrics: content of ``report/metrics.json``.

    Returns:
        A rich table: accuracies in percent, 95% intervals in brackets.
    """
    table = _table("model", ("lambda", "clean %", "robust %", "Sum"))
    shown = some(metrics, MAIN)
    best = max((model["sum"] for model in shown.values()), default=None)
    for name, model in shown.items():
        cells = [_percent(cell(model, key)) for key in MEASURES]
        style = "bold" if model["sum"] == best else ""
        table.add_row(Text(label(name)), _lambda(model), *cells, style=style)
    return table


def leads_table(metrics: Metrics) -> Table | None:
    """Make the table of PISTOLE's lead over the main table's models, on the same images.

    Args:
        metrics: content of ``report/metrics.json``.

    Returns:
        A rich table in percentage points; None without a row ``pistole`` or without another one.
    """
    table = _table("PISTOLE minus", ("clean", "robust", "Sum"))
    for name, parts in leads(metrics).items():
        if name in MAIN:
            table.add_row(Text(label(name)), *(_points(parts[key]) for key in MEASURES))
    return table if table.row_count else None


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Make a compact table of the ablation or of the controls.

    Args:
        rows: of one group of :func:`pistole.report.rows.comparison_groups`; single permutations
            are left out where their mean is.

    Returns:
        A rich table: percent, and PISTOLE's lead in the Sum with its interval.
    """
    table = _table("model", ("lambda", "clean", "robust", "Sum", "PISTOLE minus it"))
    for row in rows:
        if row["part_of_mean"]:
            continue
        lead = "" if row["lead"] is None else _points(row["lead"]["sum"])
        own = [points(row["own"][key].value) for key in MEASURES]
        table.add_row(Text(row["label"]), _lambda(row), *own, lead)
    return table


def sentences(metrics: Metrics) -> Iterator[str]:
    """Yield what ablation and controls say: the verdicts, then what limits them.

    Args:
        metrics: content of ``report/metrics.json``.

    Yields:
        Text of lines no longer than 80 characters.
    """
    ablation, controls = metrics["ablation"], metrics["controls"]
    told = [f"{controls['gain_statement']} {controls['statement']}".strip()]
    told += [controls["split"]["statement"] if controls["split"] else "", ablation["statement"]]
    told += [entry["statement"] for entry in controls["verdicts"] if entry["rival"] != "vanilla"]
    told += [metrics["caution"], controls["lambda_statement"], controls["amount_statement"]]
    told += [sentence(metrics.get("transfer", {}))]
    absent = missing(metrics)
    told += [f"Not evaluated: {'; '.join(absent)}." if absent else ""]
    lines = textwrap.TextWrapper(WIDTH, "- ", "  ", break_on_hyphens=False)
    yield from (lines.fill(text) for text in told if text)


def theory_lines(metrics: Metrics) -> Iterator[str]:
    """Yield a line per theory check.

    Args:
        metrics: content of ``report/metrics.json``.

    Yields:
        Verdict and name of the check.
    """
    for name, about in TITLES.items():
        if name in metrics["theory"]:
            yield f"{metrics['theory'][name]['verdict']:<10} {about}"


def _table(first: str, others: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True)
    for head in others:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _lambda(model: Mapping[str, Any]) -> str:
    return f"{model['lambda']:g}" if model.get("lambda") is not None else "-"


def _percent(interval: Interval) -> Text:
    return Text(f"{points(interval.value)} [{points(interval.low)}, {points(interval.high)}]")


def _points(lead: Interval) -> Text:
    return Text(f"{signed(lead.value)} [{signed(lead.low)}, {signed(lead.high)}]")
