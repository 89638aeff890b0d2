"""Stage ``report``: one page with the table, the figures, the parameters and the lineage."""

from pathlib import Path

from pistole.files import atomic_directory, write_json, write_text
from pistole.lineage.environment import made_with
from pistole.lineage.record import StageRun
from pistole.params import Params
from pistole.report.figures import draw_all
from pistole.report.inputs import read_results
from pistole.report.methods import method_rows
from pistole.report.metrics import build_metrics, compare_models, flat_metrics
from pistole.report.page import Content, render
from pistole.report.tables import csv_table


def run(
    params: Params, artifacts: Path, out: Path, record: StageRun | None = None
) -> dict[str, float]:
    """Read every stage's tables and write the report; nothing is computed with a model.

    Args:
        params: shown in full; ``models``, ``methods``, ``datasets`` and ``report`` are used.
        artifacts: folder of all stages' results.
        out: folder for ``index.html``, ``figures/``, ``table.csv`` and ``metrics.json``; other
            files in it are left alone.
        record: gets the page and the figures for the tracker.

    Returns:
        Mean accuracies and sums per model, and PISTOLE's lead in the sum.
    """
    results = read_results(params, artifacts)
    paired = compare_models(params, results)
    metrics = build_metrics(params, results, paired)
    figures = draw_all(results, metrics, params.stability.variant)
    rows = method_rows(metrics, paired)
    page = render(Content(params, results, metrics, rows, figures, made_with(Path())))
    with atomic_directory(out / "figures") as folder:
        for name, document in figures.items():
            write_text(folder / f"{name}.svg", document)
    write_text(out / "table.csv", csv_table(metrics, results.models))
    write_text(out / "index.html", page)
    write_json(out / "metrics.json", metrics)
    if record is not None:
        for name in figures:
            record.figure(out / "figures" / f"{name}.svg")
        record.artifact(out / "index.html")
        record.artifact(out / "metrics.json")
    return flat_metrics(metrics)
