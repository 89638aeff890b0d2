"""Figure of the check ``linear_frontier``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pistole.report.drawing import (
    COLOURS,
    GREEN,
    GREY,
    MARKERS,
    PURPLE,
    SKY,
    figure,
    legend_above,
    styled,
    svg,
)
from pistole.report.inputs import Recorded, Row
from pistole.report.tables import label

TITLE = "Bend of the frontiers"
ALTERNATIVE = "Frontiers over lambda with the chords between their ends, and their bends"
CAPTION = (
    "Left: the curves on test images and, dashed, the chord between the ends of each. Right: the "
    "signed area between curve and chord, positive on the side of the larger clean + robust sum, "
    "with its 95% interval; hollow: held-out training images, without interval."
)
OTHERS = (SKY, PURPLE, GREEN, GREY)  # methods without a colour of their own
TEST, HELD_OUT = "test", "held-out"


def numbers(record: Recorded) -> list[Row]:
    """Return the rows that the page shows behind the figure.

    Args:
        record: what the check wrote.

    Returns:
        One row per curve.
    """
    return record.summary.get("methods", [])


def draw(record: Recorded) -> str:
    """Draw curves with their chords, and their bends (docs/method.md E.5).

    Args:
        record: what the check wrote.

    Returns:
        SVG.
    """
    shapes = record.summary.get("methods", [])
    names = list(dict.fromkeys(shape["method"] for shape in shapes))
    spare = [name for name in names if name not in COLOURS]
    colours = COLOURS | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(spare)}
    with styled():
        made = figure(8.6, 4.2)
        curves, bends = made.subplots(1, 2, width_ratios=[1.35, 1])
        handles = _curves(curves, [r for r in record.rows if r["images"] == TEST], colours)
        handles["chord"] = Line2D([], [], ls="--", lw=1.1, color=GREY)
        _bends(bends, shapes, names, colours)
        legend_above(made, handles, columns=5)
        return svg(made)


def _curves(axes: Axes, rows: Sequence[Row], colours: Mapping[str, str]) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        line = np.array([[r["clean"], r["robust"]] for r in rows if r["method"] == name])
        (handles[label(name)],) = axes.plot(
            *line.T, color=colours[name], marker=MARKERS.get(name, "x"), ms=4
        )
        axes.plot(*line[[0, -1]].T, "--", color=colours[name], lw=1.1)
    axes.set(
        title="curves and chords, test images",
        xlabel="clean accuracy, % (mean over tasks)",
        ylabel="robust accuracy, % (mean over tasks)",
    )
    axes.margins(0.08)
    return handles


def _bends(
    axes: Axes, shapes: Sequence[Mapping[str, Any]], names: Sequence[str], colours: Mapping
) -> None:
    axes.axvline(0, color=GREY, lw=1)
    for shape in shapes:
        place, colour = names.index(shape["method"]), colours[shape["method"]]
        value = _float(shape["bend"])
        if shape["images"] == HELD_OUT:
            axes.plot(value, place + 0.22, "o", mfc="none", mec=colour, mew=1.4, ms=6)
            continue
        low, high = _float(shape["bend_low"]), _float(shape["bend_high"])
        axes.plot([low, high], [place - 0.12] * 2, color=colour, lw=1.4)
        axes.plot(value, place - 0.12, MARKERS.get(shape["method"], "x"), color=colour, ms=6)
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set(
        title="bend", xlabel="area between curve and chord, points²", ylim=(len(names) - 0.5, -0.5)
    )
    axes.grid(visible=False, axis="y")


def _float(value: object) -> float:
    return float(value) if isinstance(value, float | int) else math.nan
