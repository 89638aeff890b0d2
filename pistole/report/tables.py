"""Rows of the tables: their names, order and numbers; table.csv."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pistole.params.methods import OFFICIAL
from pistole.report.statistics import MEASURES, Interval, Measured

MAIN = ("base", "natural", "robust", "wise_ft", "vanilla", "pistole")
ABLATION = ("vanilla", "gism", "gism_pci", "gism_apt", "pistole")
PERMUTED = ("permuted_mask_1", "permuted_mask_2", "permuted_mask_3")
CONTROLS = (
    "wise_ft_matched",
    "uniform_shrink",
    *PERMUTED,
    "random_score",
    "self_mask",
    "magnitude_mask",
    "zero_nat",
)
POOL = "permuted_mask"  # the mean of the permutations
LABELS = {
    "base": "Base",
    "natural": "Natural",
    "robust": "Robust",
    "wise_ft": "WiSE-FT",
    "vanilla": "Vanilla",
    "gism": "GISM",
    "gism_pci": "GISM + PCI",
    "gism_apt": "GISM + APT",
    "pistole": "PISTOLE",
    "wise_ft_matched": "WiSE-FT, same retention",
    "uniform_shrink": "Uniform shrink",
    **{name: f"Permuted mask {name[-1]}" for name in PERMUTED},
    POOL: "Permuted mask, mean",
    "random_score": "Random score",
    "self_mask": "Self mask",
    "magnitude_mask": "Magnitude mask",
    "zero_nat": "No natural vector",
    "task_arithmetic": "Task arithmetic",
    "ties": "TIES",
    "dare": "DARE",
    "dare_ties": "DARE + TIES",
    "breadcrumbs": "Breadcrumbs",
    "pcb": "PCB-Merging",
    "consensus": "Consensus TA",
    "slerp": "SLERP",
    "fisher": "Fisher",
    "regmean": "RegMean",
    "led": "LED-Merging",
    "obm": "OBM",
    "ada_task": "AdaMerging, task-wise",
    "ada_layer": "AdaMerging, layer-wise",
    "ada_task_mix": "AdaMerging, task-wise, mixed",
    "ada_layer_mix": "AdaMerging, layer-wise, mixed",
    "atlas": "aTLAS",
    "concrete": "Concrete TA",
    "concrete_am": "Concrete AdaMerging",
    "distac_vanilla": "DisTaC + vanilla",
    "distac_task_arithmetic": "DisTaC + task arithmetic",
    "distac_ties": "DisTaC + TIES",
    "distac_pistole": "DisTaC + PISTOLE",
    "pistole_scaled": "PISTOLE, scaled",
    "uniform_soup": "Uniform soup",
    "greedy_soup": "Greedy soup",
    "robustness_soup": "Robustness soup",
}
TITLES = {  # what the theory checks are about
    "interference": "Interference contraction (Theorem 1)",
    "pci_trace": "PCI against the Hessian trace (Theorem 2)",
    "merge_path": "Curvature along the merge path",
    "agreement": "Agreement of the gradients over the attack radius",
    "linear_frontier": "Straightness of the frontiers",
    "conflict_map": "Conflict of heads and layers",
}
Metrics = dict[str, Any]


def label(name: str) -> str:
    """Return the name of a model or method as the paper writes it.

    Args:
        name: its key.

    Returns:
        The label; an unknown key is its own label.
    """
    if name.endswith(OFFICIAL):
        return f"{label(name.removesuffix(OFFICIAL))} (official)"
    return LABELS.get(name, name)


def in_order(named: Mapping[str, Any]) -> dict[str, Any]:
    """Put models in the order of the paper's table.

    Args:
        named: model -> anything; JSON files have lost the order.

    Returns:
        The same entries, a method at official settings after the tuned one; unknown models last.
    """
    known = list(LABELS)

    def place(entry: tuple[str, Any]) -> tuple[int, bool]:
        stem = entry[0].removesuffix(OFFICIAL)
        return known.index(stem) if stem in known else len(known), stem != entry[0]

    return dict(sorted(named.items(), key=place))


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


def some(metrics: Metrics, names: Sequence[str]) -> dict[str, Any]:
    """Pick models.

    Args:
        metrics: content of ``report/metrics.json``.
        names: which, in the order wanted.

    Returns:
        Entries of ``metrics["models"]`` of those that were evaluated.
    """
    return {name: metrics["models"][name] for name in names if name in metrics["models"]}


def leads(metrics: Metrics) -> dict[str, Measured]:
    """Return PISTOLE's lead over every other model.

    Args:
        metrics: content of ``report/metrics.json``.

    Returns:
        model -> measure -> interval.
    """
    return {name: read(parts) for name, parts in in_order(metrics["differences"]).items()}


def told(interval: Interval) -> dict[str, Any]:
    """Write an interval as JSON can hold it.

    Args:
        interval: the interval; an end may be infinite.

    Returns:
        ``value`` and ``ci95``, in which null is an end that is not bounded.
    """
    ends = [end if math.isfinite(end) else None for end in (interval.low, interval.high)]
    return {"value": interval.value, "ci95": ends}


def read(parts: Mapping[str, Any]) -> Measured:
    """Read the intervals of all measures.

    Args:
        parts: measure -> what :func:`told` wrote.

    Returns:
        measure -> interval.
    """
    return {key: Interval(parts[key]["value"], *parts[key]["ci95"]) for key in MEASURES}


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
