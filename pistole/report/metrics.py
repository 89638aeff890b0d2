"""report/metrics.json: every number of the page, as fractions of 1."""

from typing import Any

import numpy as np

from pistole.params import Params
from pistole.report.caveats import caution
from pistole.report.controls import REFERENCE, ablation, comparisons, controls
from pistole.report.inputs import Results
from pistole.report.statistics import Interval, Measured, Paired, compare, mcnemar, wilson
from pistole.report.tables import POOL, told
from pistole.report.transfer import told as pool_told

Metrics = dict[str, Any]


def compare_models(params: Params, results: Results) -> Paired:
    """Measure all models on the same images, with one bootstrap draw for all of them.

    Args:
        params: ``seed`` and ``report.bootstrap`` are read.
        results: what the stages wrote.

    Returns:
        What every model and every difference is estimated from.
    """
    names, resamples = list(results.models), params.report.bootstrap
    return compare(names, results.outcomes, resamples=resamples, seed=params.seed)


def build_metrics(params: Params, results: Results, paired: Paired) -> Metrics:
    """Summarise the results, with an interval for every accuracy and difference.

    Args:
        params: ``profile`` and ``merge.lambda`` are read.
        results: what the stages wrote.
        paired: of :func:`compare_models`.

    Returns:
        The content of ``report/metrics.json``; ``differences`` holds PISTOLE minus the model, and
        ``transfer`` is there only if the transfer pool was used.
    """
    names = list(results.models)
    models = {name: _model(results, i, name, paired.mean([name])) for i, name in enumerate(names)}
    sections = _sections(params, results, paired, models)
    return {
        "profile": params.profile,
        "models": models,
        **sections,
        "caution": caution(comparisons(list(sections.values()))),
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
            name: {key: told(lead) for key, lead in paired.lead([REFERENCE], [name]).items()}
            for name in names
            if REFERENCE in names and name != REFERENCE
        },
        "mcnemar": {
            name: _mcnemar(results, names.index(REFERENCE), i)
            for i, name in enumerate(names)
            if REFERENCE in names and name != REFERENCE
        },
        **({} if results.transfer is None else {"transfer": pool_told(results.transfer)}),
    }


def _mcnemar(results: Results, reference: int, other: int) -> dict[str, Any]:
    """Per task: images that only the reference or only the model gets right, and the p."""
    found: dict[str, Any] = {}
    for kind, word in enumerate(("clean", "robust")):
        found[word] = {}
        for task, rows in results.outcomes.items():
            only, lost, p = mcnemar(rows[:, reference, kind], rows[:, other, kind])
            found[word][task] = {"only_reference": only, "only_model": lost, "p": p}
    return found


def _sections(
    params: Params, results: Results, paired: Paired, models: dict[str, Any]
) -> dict[str, Any]:
    images = sum(len(rows) for rows in results.outcomes.values())
    variant = results.models.get(REFERENCE, {}).get("lineage", {}).get("variant")
    chosen = params.merge.lambda_ == "selected"
    return {
        "ablation": ablation(paired, models, images, variant),
        "controls": controls(paired, models, images, chosen=chosen),
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
    pooled, split = (metrics["controls"][key] for key in ("pooled", "split"))
    if pooled and pooled["difference"]:
        flat[f"{REFERENCE}_minus/{POOL}"] = pooled["difference"]["sum"]["value"]
    for step in metrics["ablation"]["steps"]:
        flat[f"step/{step['from']}_to_{step['to']}"] = step["sum"]["value"]
    for name, part in (split["shares"] if split else {}).items():
        flat[f"share_of_gain/{name}"] = part["share"]["value"]
    return flat


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _model(results: Results, position: int, name: str, own: Measured) -> dict[str, Any]:
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
