"""The one-page HTML report: self-contained, without scripts, equal bytes for equal numbers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pistole.params import CHECKS, SOURCES, Params
from pistole.report import figures, theory, words
from pistole.report.inputs import Results, Row
from pistole.report.reference import reference_view
from pistole.report.rows import comparison_groups, missing
from pistole.report.statistics import LEVEL, MEASURES
from pistole.report.tables import (
    CONTROLS,
    MAIN,
    cell,
    label,
    leads,
    points,
    signed,
    some,
    task_cell,
)
from pistole.report.values import flatten, number

TEMPLATES = Path(__file__).parent / "templates"


def render(
    params: Params, results: Results, metrics: dict[str, Any], drawn: Mapping[str, str]
) -> str:
    """Write the page.

    Args:
        params: shown in full.
        results: what the stages wrote.
        metrics: content of ``report/metrics.json``.
        drawn: figure -> SVG document.

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
    environment.filters["greek"] = lambda text: text.replace("lambda", "λ")
    return environment.get_template("index.html.j2").render(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        level=f"{LEVEL:.0%}",
        cell=cell,
        task_cell=task_cell,
        figures={name: inline(document, name) for name, document in drawn.items()},
        **_accuracies(metrics),
        reference=_reference(params, metrics),
        **_checks(results),
        **_scores(results),
        **_circumstances(params, results),
    )


def _accuracies(metrics: dict[str, Any]) -> dict[str, Any]:
    main = some(metrics, MAIN)
    return {
        "metrics": metrics,
        "measures": MEASURES,
        "headline": words.headline(metrics, leads(metrics)),
        "main": main,
        "others": {name: m for name, m in metrics["models"].items() if name not in MAIN},
        "best": {key: max((m[key] for m in main.values()), default=None) for key in MEASURES},
        "leads": {name: parts for name, parts in leads(metrics).items() if name in MAIN},
        "groups": comparison_groups(metrics),
        "missing": missing(metrics),
        "beyond_lambda": words.beyond_lambda(metrics["frontier"]),
    }


def _reference(params: Params, metrics: dict[str, Any]) -> dict[str, Any] | None:
    name = params.report.reference
    return None if name is None else reference_view(name, params.attack.eps, metrics)


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
        "lineage": [_line(name, summary) for name, summary in results.models.items()],
        "digests": _digests(results),
        "vectors": _vectors(results.recipes),
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


def _vectors(recipes: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Statistics of the two task vectors, once for all merges that were made of the same two."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for method, recipe in recipes.items():
        key = tuple(recipe["vectors"][source] for source in SOURCES)
        found.setdefault(key, {"methods": [], **recipe["statistics"]})["methods"].append(method)
    return list(found.values())


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
