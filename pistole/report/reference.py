"""Published numbers that the report shows beside measured ones."""

from pathlib import Path
from statistics import fmean
from typing import Any

from pistole.files import read_json

FOLDER = Path(__file__).parent / "references"
MEASURED = ("base", "natural", "robust")  # rows that a published model can be held against
EXACT = 1e-9


def reference_view(name: str, eps: float, metrics: dict[str, Any]) -> dict[str, Any]:
    """Put published and measured accuracies of the same tasks side by side.

    Args:
        name: a file of :data:`FOLDER`, without its ending.
        eps: attack radius of the run; robust columns are shown only where one was published.
        metrics: content of ``report/metrics.json``.

    Returns:
        ``title``, ``about``, ``tasks`` that both have, and ``tables``: kind -> column -> percent
        per task and, last, their mean; None where nothing was published at this radius.
    """
    document = read_json(FOLDER / f"{name}.json")
    published = document["models"]
    known = next(iter(published.values()))["clean"]
    own = {row: metrics["models"][row] for row in MEASURED if row in metrics["models"]}
    tasks = [task for task in known if all(task in model["clean"] for model in own.values())]
    tables = {
        "clean": _table(own, published, tasks, "clean", "clean"),
        "robust": _table(
            own, published, tasks, "robust", _radius(next(iter(published.values())), eps)
        ),
    }
    return {
        "title": document["title"],
        "about": document["about"],
        "tasks": tasks,
        "tables": tables,
    }


def _radius(model: dict[str, Any], eps: float) -> str | None:
    """The published radius that is the run's."""
    radii = [key for key in model if key != "clean"]
    return next((r for r in radii if abs(int(r.partition("/")[0]) / 255 - eps) < EXACT), None)


def _table(
    own: dict[str, Any], published: dict[str, Any], tasks: list[str], kind: str, key: str | None
) -> dict[str, list[float]] | None:
    if key is None or not tasks:
        return None
    columns = {row: [100 * model[kind][t] for t in tasks] for row, model in own.items()}
    columns |= {name: [model[key][t] for t in tasks] for name, model in published.items()}
    return {name: [*values, fmean(values)] for name, values in columns.items()}
