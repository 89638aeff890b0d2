"""Rows of the table of ablation and controls, for page and terminal alike."""

from collections.abc import Mapping
from typing import Any

from pistole.report.statistics import MEASURES
from pistole.report.tables import PERMUTED, POOL, Metrics, cell, label, read

Row = dict[str, Any]
WHAT = {
    "vanilla": "no masks",
    "gism": "masks from the gradients at the fine-tuned models",
    "gism_pci": "these gradients, with the samples weighted by PCI",
    "gism_apt": "gradients along the ascent path instead",
    "pistole": "both: the whole method",
    "wise_ft_matched": "base plus the robust vector, as much of it as the masked merge keeps; no "
    "masks, no natural vector",
    "uniform_shrink": "each layer of each vector times one number, so that it keeps the norm that "
    "its mask leaves; no selection within a layer",
    "permuted_mask_1": "each layer's mask values on random coordinates of the layer",
    "permuted_mask_2": "another permutation",
    "permuted_mask_3": "another permutation",
    POOL: "mean of the permutations, image by image; its interval covers images, not permutations",
    "random_score": "masks made from noise instead of gradients; how much they mask differs",
    "self_mask": "each vector masked by the gradient of its own objective",
    "magnitude_mask": "masks made from the size of the other vector instead of gradients; how much "
    "they mask differs",
    "zero_nat": "the base in the place of the natural model: the masked robust vector alone",
}


def comparison_groups(metrics: Metrics) -> list[Row]:
    """Collect the rows of ablation and controls.

    Args:
        metrics: content of ``report/metrics.json``.

    Returns:
        Groups with rows, each with ``title`` and ``rows``: name, label, what it is, lambda, its
        own measures, and PISTOLE's lead over it (None for PISTOLE itself or without it).
    """
    ablation, controls = metrics["ablation"], metrics["controls"]
    pooled = controls["pooled"]
    single = [_row(metrics, name, part_of_mean=False) for name in ablation["models"]]
    control = [
        _row(metrics, name, part_of_mean=pooled is not None and name in PERMUTED)
        for name in controls["models"]
    ]
    if pooled is not None:
        last = max(i for i, row in enumerate(control) if row["name"] in PERMUTED)
        control.insert(last + 1, _pooled(pooled, control[last]["lambda"]))
    groups = [("Ablation", single), ("Controls", control)]
    return [{"title": title, "rows": rows} for title, rows in groups if rows]


def missing(metrics: Metrics) -> list[str]:
    """Name the rows of ablation and controls that were not evaluated.

    Args:
        metrics: content of ``report/metrics.json``.

    Returns:
        Labels.
    """
    return [label(name) for part in ("ablation", "controls") for name in metrics[part]["missing"]]


def _row(metrics: Metrics, name: str, part_of_mean: bool) -> Row:
    model, lead = metrics["models"][name], metrics["differences"].get(name)
    return {
        "name": name,
        "label": label(name),
        "what": WHAT[name],
        "lambda": model.get("lambda"),
        "own": {key: cell(model, key) for key in MEASURES},
        "lead": read(lead) if lead else None,
        "part_of_mean": part_of_mean,
    }


def _pooled(pooled: Mapping[str, Any], lam: float | None) -> Row:
    return {
        "name": POOL,
        "label": label(POOL),
        "what": WHAT[POOL],
        "lambda": lam,
        "own": {key: cell(dict(pooled), key) for key in MEASURES},
        "lead": read(pooled["difference"]) if pooled["difference"] else None,
        "part_of_mean": False,
    }
