"""Rows of the tables: for the page, for table.csv and for the terminal."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from pistole.report.statistics import MEASURES, Interval

LABELS = {
    "base": "Base",
    "natural": "Natural",
    "robust": "Robust",
    "wise_ft": "WiSE-FT",
    "vanilla": "Vanilla",
    "pistole": "PISTOLE",
}
Metrics = dict[str, Any]


def label(name: str) -> str:
    """Return the name of a model or method as the paper writes it.

    Args:
        name: its key.

    Returns:
        The label; an unknown key is its own label.
    """
    return LABELS.get(name, name)


def in_order(named: Mapping[str, Any]) -> dict[str, Any]:
    """Put models in the order of the paper's table.

    Args:
        named: model -> anything; JSON files have lost the order.

    Returns:
        The same entries; unknown models last.
    """
    known = list(LABELS)
    return dict(
        sorted(named.items(), key=lambda i: known.index(i[0]) if i[0] in known else len(known))
    )


def points(value: float) -> str:
    """Format an accuracy in percent.

    Args:
        value: fraction of 1.

    Returns:
        One decimal, no sign of percent.
    """
    return f"{100 * value:.1f}"


def signed(value: float) -> str:
    """Format a difference in percentage points.

    Args:
        value: difference of fractions.

    Returns:
        One decimal with its sign; no sign for what rounds to zero.
    """
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text


def cell(model: dict[str, Any], key: str) -> Interval:
    """Return one mean of a model with its interval.

    Args:
        model: its entry in ``metrics["models"]``.
        key: a name of :data:`pistole.report.statistics.MEASURES`.

    Returns:
        The interval.
    """
    return Interval(model[key], *model["ci95"][key])


def task_cell(model: dict[str, Any], kind: str, task: str) -> Interval:
    """Return one task's accuracy with its interval.

    Args:
        model: its entry in ``metrics["models"]``.
        kind: ``clean`` or ``robust``.
        task: the dataset.

    Returns:
        The interval.
    """
    return Interval(model[kind][task], *model["ci95"][kind][task])


def leads(metrics: Metrics) -> dict[str, dict[str, Interval]]:
    """Return PISTOLE's lead over every other model.

    Args:
        metrics: content of ``report/metrics.json``.

    Returns:
        model -> measure -> interval.
    """
    return {
        name: {key: Interval(part["value"], *part["ci95"]) for key, part in parts.items()}
        for name, parts in in_order(metrics["differences"]).items()
    }


def csv_table(metrics: Metrics, summaries: Mapping[str, Any]) -> str:
    """Write the table with all digits.

    Args:
        metrics: content of ``report/metrics.json``.
        summaries: model -> summary of its evaluation.

    Returns:
        One line per model: lambda, means with interval ends, every task, then what identifies
        the row: seed, digests of model and data, attack.
    """
    rows = []
    for name, model in in_order(metrics["models"]).items():
        row: dict[str, Any] = {"model": name, "lambda": model.get("lambda", "")}
        for key in MEASURES:
            low, high = model["ci95"][key]
            row |= {key: model[key], f"{key}_low": low, f"{key}_high": high}
        for kind in ("clean", "robust"):
            row |= {f"{kind}/{task}": value for task, value in model[kind].items()}
        row |= {f"n/{task}": n for task, n in model["n"].items()}
        about = summaries[name]
        row |= {"seed": about["seed"], "digest": about["digest"]}
        row |= {f"data_digest/{task}": about["tasks"][task]["data_digest"] for task in model["n"]}
        rows.append(row | {"attack": json.dumps(about["attack"], sort_keys=True)})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def terminal_table(metrics: Metrics) -> Table:
    """Make the table for a terminal of 80 columns, in plain ASCII.

    Args:
        metrics: content of ``report/metrics.json``.

    Returns:
        A rich table: accuracies in percent, 95% intervals in brackets.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model", no_wrap=True)
    for head in ("lambda", "clean %", "robust %", "Sum"):
        table.add_column(head, justify="right", no_wrap=True)
    best = max(model["sum"] for model in metrics["models"].values())
    for name, model in in_order(metrics["models"]).items():
        lam = f"{model['lambda']:g}" if "lambda" in model else "-"
        cells = [_terminal_cell(cell(model, key)) for key in MEASURES]
        style = "bold" if model["sum"] == best else ""
        table.add_row(Text(label(name)), lam, *cells, style=style)
    return table


def _terminal_cell(interval: Interval) -> Text:
    return Text(f"{points(interval.value)} [{points(interval.low)}, {points(interval.high)}]")


def terminal_leads(metrics: Metrics) -> Table:
    """Make the table of PISTOLE's lead on the same images, in plain ASCII.

    Args:
        metrics: content of ``report/metrics.json``.

    Returns:
        A rich table in percentage points.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("PISTOLE minus", no_wrap=True)
    for head in ("clean", "robust", "Sum"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, parts in leads(metrics).items():
        cells = [
            Text(f"{signed(lead.value)} [{signed(lead.low)}, {signed(lead.high)}]")
            for lead in (parts[key] for key in MEASURES)
        ]
        table.add_row(Text(label(name)), *cells)
    return table
