"""report/metrics.json: every number of the page, as fractions of 1."""

from typing import Any

import numpy as np

from pistole.params import Params
from pistole.report.inputs import Results
from pistole.report.statistics import Interval, estimates, wilson

REFERENCE = "pistole"
Metrics = dict[str, Any]


def build_metrics(params: Params, results: Results) -> Metrics:
    """Summarise the results, with an interval for every accuracy and difference.

    Args:
        params: ``profile``, ``seed`` and ``report.bootstrap`` are read.
        results: what the stages wrote.

    Returns:
        The content of ``report/metrics.json``; ``differences`` holds PISTOLE minus the model.
    """
    names = list(results.models)
    own, leads = estimates(
        names,
        results.outcomes,
        resamples=params.report.bootstrap,
        seed=params.seed,
        reference=REFERENCE,
    )
    return {
        "profile": params.profile,
        "models": {name: _model(results, i, name, own[name]) for i, name in enumerate(names)},
        "frontier": {
            method: [
                {key: row[key] for key in ("lambda", "clean_mean", "robust_mean")}
                for row in curve.rows
            ]
            for method, curve in results.frontier.items()
        },
        "theory": {check: record.summary for check, record in results.theory.items()},
        "select": {"lambda": results.lambdas, "grid": results.select},
        "differences": {
            name: {key: {"value": lead.value, "ci95": _ends(lead)} for key, lead in parts.items()}
            for name, parts in leads.items()
        },
    }


def flat_metrics(metrics: Metrics) -> dict[str, float]:
    """Pick the headline numbers for a tracker.

    Args:
        metrics: content of ``report/metrics.json``.

    Returns:
        One number per name; names are paths such as ``sum/pistole``.
    """
    flat = {
        f"{key}/{name}": model[key]
        for name, model in metrics["models"].items()
        for key in ("clean_mean", "robust_mean", "sum")
    }
    for name, parts in metrics["differences"].items():
        flat[f"{REFERENCE}_minus/{name}"] = parts["sum"]["value"]
    return flat


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _model(results: Results, position: int, name: str, own: dict[str, Interval]) -> dict[str, Any]:
    """One model's entry; means have bootstrap intervals, single tasks have Wilson's."""
    summary = results.models[name]
    entry: dict[str, Any] = {key: interval.value for key, interval in own.items()}
    ends: dict[str, Any] = {key: _ends(interval) for key, interval in own.items()}
    for kind, word in enumerate(("clean", "robust")):
        right = {task: rows[:, position, kind] for task, rows in results.outcomes.items()}
        single = {task: wilson(int(np.sum(hits)), len(hits)) for task, hits in right.items()}
        entry[word] = {task: interval.value for task, interval in single.items()}
        ends[word] = {task: _ends(interval) for task, interval in single.items()}
    entry["ci95"] = ends
    entry["n"] = {task: len(rows) for task, rows in results.outcomes.items()}
    entry["digest"] = summary["digest"]
    if "lambda" in summary["lineage"]:
        entry["lambda"] = summary["lineage"]["lambda"]
    return entry
