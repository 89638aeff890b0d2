"""Figure of the check ``merge_path``."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pistole.report.drawing import COLOURS, GREY, MARKERS, SKY, figure, legend_above, styled, svg
from pistole.report.inputs import Recorded, Row
from pistole.report.tables import label

TITLE = "Curvature along the merge path"
ALTERNATIVE = "Hessian trace, sharpness and top eigenvalue of both losses over lambda, by method"
CAPTION = (
    "Curvature of the natural loss (left) and of the robust loss at fixed adversarial images "
    "(right) along the merge path: over λ, and over the distance from the base at the bottom. "
    "Bars: 95 % from the parts of the images; for the eigenvalue, the residual. Below 0 lower is "
    "not flatter: the loss bends down."
)
# Columns of the table, each a row of panels if the table has it, and the half of its bar.
MEASURES = {
    "trace": "weighted trace",
    "sharpness": "mean sharpness",
    "top_eigenvalue": "top eigenvalue",
}
BARS = {
    "trace": ("trace_error", 1.96),
    "sharpness": ("sharpness_error", 1.96),
    "top_eigenvalue": ("top_residual", 1.0),
}


def numbers(record: Recorded) -> list[Row]:
    """Return the rows that the page shows behind the figure.

    Args:
        record: what the check wrote.

    Returns:
        A row per method and lambda with both losses beside each other.
    """
    merged: dict[tuple, Row] = {}
    for row in record.rows:
        place = (row["method"], row["lambda"])
        found = merged.setdefault(place, {"method": row["method"], "lambda": row["lambda"]})
        for key in ("distance", "select_sum"):
            if key in row:
                found[key] = row[key]
        for key in MEASURES:
            if key in row:
                found[f"{key} {row['loss']}"] = row[key]
    return list(merged.values())


def draw(record: Recorded) -> str:
    """Draw every measure of curvature over lambda, and the trace over the distance.

    Args:
        record: the table (method, lambda, loss, distance, and the measures with their errors).

    Returns:
        SVG with a column of panels per loss.
    """
    rows = record.rows
    columns = rows[0].keys() if rows else ()
    kinds = [("lambda", name) for name in MEASURES if name in columns]
    if "distance" in columns and kinds:
        kinds.append(("distance", kinds[0][1]))
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    with styled():
        made, handles = figure(7.4, 0.7 + 1.9 * max(len(kinds), 1)), {}
        panels = made.subplots(max(len(kinds), 1), max(len(losses), 1), squeeze=False)
        for i, (across, measure) in enumerate(kinds):
            for j, loss in enumerate(losses):
                axes = panels[i, j]
                ours = [row for row in rows if row["loss"] == loss]
                handles |= _curves(axes, ours, across, measure)
                if j == 0:
                    axes.set_ylabel(MEASURES[measure])
                if i == 0:
                    axes.set_title(f"{loss} loss")
                axes.set_xlabel("λ" if across == "lambda" else "distance from the base, ‖θ − θ₀‖")
        made.align_ylabels(panels[:, 0])
        legend_above(made, handles, columns=5)
        return svg(made)


def _curves(axes: Axes, rows: Sequence[Row], across: str, measure: str) -> dict[str, Line2D]:
    """One line per method in the order of lambda; bars where the measure has an error."""
    handles = {}
    axes.axhline(0, color=GREY, lw=0.8)
    column, factor = BARS[measure]
    for method in dict.fromkeys(row["method"] for row in rows):
        ours = sorted((r for r in rows if r["method"] == method), key=lambda r: r["lambda"])
        errors = [factor * _number(r.get(column)) for r in ours]
        drawn = axes.errorbar(
            [r[across] for r in ours],
            [_number(r[measure]) for r in ours],
            None if all(map(math.isnan, errors)) else errors,
            color=COLOURS.get(method, SKY),
            marker=MARKERS.get(method, "x"),
            ms=4,
            lw=1.5,
            elinewidth=0.8,
        )
        handles[label(method)] = drawn.lines[0]
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    return handles


def _number(value: object) -> float:
    """The value if there is one, else a gap."""
    return float(value) if isinstance(value, float | int) else math.nan
