"""The figures, one module each, as SVG text that is equal for equal numbers."""

from types import ModuleType

from pistole.report.figures import (
    agreement,
    conflict_map,
    interference,
    linear_frontier,
    mask_atlas,
    merge_path,
    pci_trace,
    training,
)
from pistole.report.inputs import Results
from pistole.report.plane import draw_frontiers, draw_points
from pistole.report.tables import Metrics

# A theory check's module has TITLE, CAPTION and ALTERNATIVE (text that stands for the figure),
# draw(record) -> SVG and numbers(record) -> rows shown behind the figure. The page shows a check
# without a module in words.
CHECKS: dict[str, ModuleType] = {
    "interference": interference,
    "pci_trace": pci_trace,
    "merge_path": merge_path,
    "agreement": agreement,
    "linear_frontier": linear_frontier,
    "conflict_map": conflict_map,
}
ALTERNATIVES = {
    "plane": "Robust against clean accuracy of every row of the table, with intervals",
    "frontier": "Robust against clean accuracy over lambda, one line per merging method",
    "mask_atlas": mask_atlas.ALTERNATIVE,
    "training": "Training loss of the two sources over steps",
    **{name: module.ALTERNATIVE for name, module in CHECKS.items()},
}


def draw_all(results: Results, metrics: Metrics, variant: str) -> dict[str, str]:
    """Draw every figure that the results allow.

    Args:
        results: what the stages wrote.
        metrics: content of ``report/metrics.json``.
        variant: score whose masks the merge uses.

    Returns:
        Name -> SVG document; ``training`` is absent if both sources were brought, not trained.
    """
    drawn = {
        "plane": draw_points(metrics),
        "frontier": draw_frontiers(results),
        "mask_atlas": mask_atlas.draw(results.masks, variant),
    }
    drawn |= {
        name: module.draw(results.theory[name])
        for name, module in CHECKS.items()
        if name in results.theory
    }
    curves = {name: record.rows for name, record in results.sources.items() if record.rows}
    if curves:
        drawn["training"] = training.draw(curves)
    return drawn
