"""The one-page HTML report: self-contained, without scripts, equal bytes for equal numbers."""

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pistole.params import Params
from pistole.report import words
from pistole.report.inputs import Recorded, Results
from pistole.report.statistics import LEVEL, MEASURES
from pistole.report.tables import cell, label, leads, points, signed, task_cell

TEMPLATES = Path(__file__).parent / "templates"
TITLES = {
    "interference": "Interference contraction (Theorem 1)",
    "pci_trace": "PCI against the Hessian trace (Theorem 2)",
}
ALTERNATIVES = {
    "frontier": "Robust against clean accuracy over lambda, one line per merging method",
    "interference": "Share of the interference envelope that the masks leave, over kappa",
    "pci_trace": "Measured PCI against the value predicted by the Hessian trace",
    "training": "Training loss of the two sources over steps",
}


def render(
    params: Params, results: Results, metrics: dict[str, Any], figures: Mapping[str, str]
) -> str:
    """Write the page.

    Args:
        params: shown in full.
        results: what the stages wrote.
        metrics: content of ``report/metrics.json``.
        figures: name -> SVG document.

    Returns:
        The HTML document.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"points": points, "signed": signed, "label": label, "number": number}
    values = params.model_dump(by_alias=True, mode="json")
    return environment.get_template("index.html.j2").render(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        level=f"{LEVEL:.0%}",
        headline=words.headline(metrics, leads(metrics)),
        metrics=metrics,
        measures=MEASURES,
        cell=cell,
        task_cell=task_cell,
        leads=leads(metrics),
        tasks=list(results.outcomes),
        images=sum(len(rows) for rows in results.outcomes.values()),
        best={key: max(m[key] for m in metrics["models"].values()) for key in MEASURES},
        figures={name: inline(document, name) for name, document in figures.items()},
        frontier=_frontier_notes(results),
        beyond_lambda=words.beyond_lambda(metrics["frontier"]),
        checks=[_check(name, record) for name, record in results.theory.items()],
        stability=results.stability,
        unreliable=words.unreliable(results.stability),
        weaknesses=words.weaknesses(values["attack"]["evaluate"]),
        values=values,
        eps=number(values["attack"]["eps"], "eps"),
        attack=flatten(next(iter(results.models.values()))["attack"]),
        notes=_notes(results),
        lineage=[_line(name, summary) for name, summary in results.models.items()],
        digests=_digests(results),
        recipes=results.recipes,
        params=flatten(values),
    )


def inline(document: str, name: str) -> Markup:
    """Prepare an SVG document for a page that holds several.

    Args:
        document: a standalone SVG document.
        name: prefix that keeps its ids apart from those of other figures.

    Returns:
        The ``svg`` element, scaled by the page, with a text alternative.
    """
    body = document[document.index("<svg") :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', body)
    body = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", body, count=2)
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    return Markup(body.replace("<svg", f'<svg role="img" aria-label="{ALTERNATIVES[name]}"', 1))


def number(value: object, key: str = "") -> str:
    """Format a value for reading.

    Args:
        value: anything JSON can hold.
        key: its name; radii and step sizes of images are written as fractions of 255.

    Returns:
        Its text; None is ``null`` and a list is separated by commas.
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(number(item, key) for item in value)
    if isinstance(value, float) and key.split(".")[-1] in ("eps", "alpha"):
        share = Fraction(value * 255).limit_denominator(8)
        if abs(float(share) / 255 - value) < 1e-9:
            return f"{float(share):g}/255"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Write a tree of values as dotted keys.

    Args:
        tree: nested mappings.
        prefix: key of the tree itself.

    Returns:
        Dotted key -> formatted value, in the tree's order.
    """
    flat: dict[str, str] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = number(value, path)
    return flat


def _frontier_notes(results: Results) -> dict[str, Any]:
    curve = next(iter(results.frontier.values()))
    return {"images": int(curve.summary["images"]), "attack": flatten(curve.summary["attack"])}


def _check(name: str, record: Recorded) -> dict[str, Any]:
    """A theory check; the id of an image and long lists stay in the table on disk."""
    summary = record.summary
    told = ("claim", "measurement", "verdict")
    numbers = {
        key: value
        for key, value in flatten({k: v for k, v in summary.items() if k not in told}).items()
        if not isinstance(summary.get(key), list)
        or not any(isinstance(i, dict) for i in summary[key])
    }
    rows = record.rows if name == "interference" else summary.get("by_eta", [])
    return {
        "name": name,
        "title": TITLES[name],
        **{key: summary[key] for key in told},
        "numbers": numbers,
        "columns": list(rows[0]) if rows else [],
        "rows": rows,
    }


def _notes(results: Results) -> list[str]:
    """What the attack did differently on a task, each said once."""
    found: dict[str, None] = {}
    for summary in results.models.values():
        for task in results.outcomes:
            found |= dict.fromkeys(f"{task}: {note}" for note in summary["tasks"][task]["notes"])
    return list(found)


def _line(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """One row's way back: what made it, and the digests of what it was made from."""
    lineage = summary["lineage"]
    made_from = {
        f"{source} vector": digest for source, digest in lineage.get("vectors", {}).items()
    }
    if lineage.get("checkpoint_sha256"):
        made_from["file"] = lineage["checkpoint_sha256"]
    base = lineage.get("base_digest" if lineage["record"] != "model.json" else "digest")
    if base:
        made_from["base"] = base
    return {
        "name": name,
        "digest": summary["digest"],
        "origin": words.origin(lineage),
        "made_from": made_from,
    }


def _digests(results: Results) -> dict[str, str]:
    """Data digests by task; all models have the same ones, or the report is refused."""
    tasks = next(iter(results.models.values()))["tasks"]
    return {task: tasks[task]["data_digest"] for task in results.outcomes}
