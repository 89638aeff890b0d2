"""Where each row of the table comes from, and what made it."""

from collections.abc import Mapping
from typing import Any

from pistole.params import SOURCES
from pistole.report import words
from pistole.report.inputs import Results
from pistole.report.statistics import MEASURES
from pistole.report.tracing import trace_command


def origins(results: Results) -> dict[str, Any]:
    """Collect the lineage of every row.

    Args:
        results: what the stages wrote.

    Returns:
        ``lineage``: a row's digest, what made it, from what, and the commands that trace its
        numbers; ``digests`` of the data; ``vectors``: statistics of the task vectors.
    """
    return {
        "lineage": [_line(name, summary) for name, summary in results.models.items()],
        "digests": _digests(results),
        "vectors": _vectors(results.recipes),
    }


def _vectors(recipes: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Statistics of the two task vectors, once for all merges that were made of the same two."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for method, recipe in recipes.items():
        key = tuple(recipe["vectors"][source] for source in SOURCES)
        found.setdefault(key, {"methods": [], **recipe["statistics"]})["methods"].append(method)
    return list(found.values())


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
        "commands": [trace_command(f"models.{name}.{measure}") for measure in MEASURES],
    }


def _digests(results: Results) -> dict[str, str]:
    """Data digests by task; all models have the same ones, or the report is refused."""
    tasks = next(iter(results.models.values()))["tasks"]
    return {task: tasks[task]["data_digest"] for task in results.outcomes}
