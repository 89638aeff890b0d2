"""The figures, one module each, as SVG text that is equal for equal numbers."""

from types import ModuleType

from pistole.report.figures import (
    agreement,
    conflict_map,
    frontier,
    interference,
    linear_frontier,
    merge_path,
    pci_trace,
    training,
)
from pistole.report.inputs import Results

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
    "frontier": "Robust against clean accuracy over lambda, one line per merging method",
    "training": "Training loss of the two sources over steps",
    **{name: module.ALTERNATIVE for name, module in CHECKS.items()},
}


def draw_all(results: Results) -> dict[str, str]:
    """Draw every figure that the results allow.

    Args:
        results: what the stages wrote.

    Returns:
        Name -> SVG document; ``training`` is absent if both sources were brought, not trained.
    """
    drawn = {"frontier": frontier.draw(results)}
    drawn |= {
        name: module.draw(results.theory[name])
        for name, module in CHECKS.items()
        if name in results.theory
    }
    curves = {name: record.rows for name, record in results.sources.items() if record.rows}
    if curves:
        drawn["training"] = training.draw(curves)
    return drawn
