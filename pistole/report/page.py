"""The one-page HTML report: self-contained, with equal bytes for equal numbers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from pistole.params import CHECKS, Params
from pistole.report import figures, theory, transfer, words
from pistole.report.families import FAMILIES, looks
from pistole.report.gallery import gallery_view
from pistole.report.inputs import Results, Row
from pistole.report.origins import origins
from pistole.report.plane import swatch
from pistole.report.reference import reference_view
from pistole.report.rows import comparison_groups, missing
from pistole.report.statistics import LEVEL, MEASURES
from pistole.report.summary import summary
from pistole.report.tables import (
    CONTROLS,
    MAIN,
    Metrics,
    cell,
    in_order,
    label,
    leads,
    points,
    signed,
    task_cell,
)
from pistole.report.tracing import trace_command
from pistole.report.values import flatten, number

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Content:
    """What the page is made of.

    Attributes:
        params: shown in full.
        results: what the stages wrote.
        metrics: content of ``report/metrics.json``.
        rows: of :func:`pistole.report.methods.method_rows`.
        drawn: figure -> SVG document.
        environment: what the page was made with: python, digest of the lock, versions.
    """

    params: Params
    results: Results
    metrics: Metrics
    rows: list[dict[str, Any]]
    drawn: Mapping[str, str]
    environment: Mapping[str, Any]


def render(content: Content) -> str:
    """Write the page.

    Args:
        content: what to show.

    Returns:
        The HTML document.
    """
    params, results, metrics = content.params, content.results, content.metrics
    return template("index.html.j2").render(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        level=f"{LEVEL:.0%}",
        cell=cell,
        task_cell=task_cell,
        figures={name: inline(document, name) for name, document in content.drawn.items()},
        summary=summary(params, results, metrics, content.rows),
        rows=content.rows,
        environment=content.environment,
        **_filters(content.rows, results),
        **_accuracies(metrics),
        reference=_reference(params, metrics),
        **_checks(results),
        **_scores(results),
        **_circumstances(params, results),
        **origins(results),
        gallery=_gallery(results),
    )


def template(name: str) -> Template:
    """Open a template of the page.

    Args:
        name: its file.

    Returns:
        The template.
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
    environment.filters["greek"] = lambda text: text.replace("lambda", "λ")
    environment.filters["trace"] = trace_command
    return environment.get_template(name)


def _filters(rows: list[dict[str, Any]], results: Results) -> dict[str, Any]:
    """The kinds of rows that there are, and how each row looks in the charts."""
    styles = looks(in_order({row["name"]: None for row in rows} | dict(results.frontier)))
    kinds = {look.family for look in styles.values()}
    return {
        "families": {key: title for key, title in FAMILIES.items() if key in kinds},
        "looks": styles,
        "swatches": {name: Markup(swatch(look)) for name, look in styles.items()},
    }


def _accuracies(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "metrics": metrics,
        "measures": MEASURES,
        "leads": {name: parts for name, parts in leads(metrics).items() if name in MAIN},
        "groups": comparison_groups(metrics),
        "missing": missing(metrics),
        "transfer_sentence": transfer.sentence(metrics.get("transfer", {})),
        "beyond_lambda": words.beyond_lambda(metrics["frontier"]),
    }


def _reference(params: Params, metrics: dict[str, Any]) -> dict[str, Any] | None:
    name = params.report.reference
    return None if name is None else reference_view(name, params.attack.eps, metrics)


def _gallery(results: Results) -> dict[str, Any] | None:
    return None if results.gallery is None else gallery_view(results.outcomes, *results.gallery)


def _checks(results: Results) -> dict[str, Any]:
    return {
        "checks": [theory.view(name, record) for name, record in results.theory.items()],
        "not_run": [name for name in CHECKS if name not in results.theory],
    }


def _scores(results: Results) -> dict[str, Any]:
    return {
        "stability": results.stability,
        "unreliable": words.unreliable(results.stability),
        "remedy": words.remedy(results.stability),
        "masks": _masks(results.masks),
    }


def _circumstances(params: Params, results: Results) -> dict[str, Any]:
    values = params.model_dump(by_alias=True, mode="json")
    return {
        "values": values,
        "tasks": list(results.outcomes),
        "images": sum(len(rows) for rows in results.outcomes.values()),
        "eps": number(values["attack"]["eps"], "eps"),
        "attack": flatten(next(iter(results.models.values()))["attack"]),
        "weaknesses": words.weaknesses(values["attack"]["evaluate"]),
        "notes": _notes(results),
        "frontier": _frontier_notes(results),
        "selected": {n: lam for n, lam in results.lambdas.items() if n not in CONTROLS},
        "params": flatten(values),
    }


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
    alternative = escape(figures.ALTERNATIVES[name])
    return Markup(body.replace("<svg", f'<svg role="img" aria-label="{alternative}"', 1))


def _frontier_notes(results: Results) -> dict[str, Any]:
    curve = next(iter(results.frontier.values()))
    return {"images": int(curve.summary["images"]), "attack": flatten(curve.summary["attack"])}


def _masks(rows: list[Row]) -> dict[str, Any]:
    """What each variant's masks keep of both vectors: pooled, and layer by layer."""
    table: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        layers = table.setdefault(str(row["variant"]), {})
        layers.setdefault(str(row["layer"]), {})[str(row["source"])] = row
    return {
        "pooled": [(variant, layers.pop("all", {})) for variant, layers in table.items()],
        "layers": {variant: list(layers.items()) for variant, layers in table.items()},
    }


def _notes(results: Results) -> list[str]:
    """What the attack did differently on a task, each said once."""
    found: dict[str, None] = {}
    for about in results.models.values():
        for task in results.outcomes:
            found |= dict.fromkeys(f"{task}: {note}" for note in about["tasks"][task]["notes"])
    return list(found)
