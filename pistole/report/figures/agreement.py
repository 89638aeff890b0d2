"""Figure of the check ``agreement``."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from pistole.report.drawing import BLUE, GREY, SKY, VERMILION, figure, legend_above, styled, svg
from pistole.report.inputs import Recorded, Row

TITLE = "Gradient agreement over the attack radius (paper's Fig. 1)"
ALTERNATIVE = "Cosine of clean and adversarial gradients over the attack radius, at three models"
CAPTION = (
    "Raw: on the same images, with its 95% interval; shaded: the middle 80% of the layers. Noise "
    "floor: the adversarial gradients of two disjoint halves of the images. Disattenuated: across "
    "halves, corrected for that noise; hollow where noise hides a gradient's direction on too many "
    "halves for an interval, and left out of the picture far outside [-1, 1]."
)
SHOWN = (
    "model",
    "eps",
    "cosine",
    "cosine_low",
    "cosine_high",
    "self_cosine",
    "disattenuated",
    "disattenuated_low",
    "disattenuated_high",
    "sign_agreement",
)
FLOOR, CEILING = -0.6, 1.15


def numbers(record: Recorded) -> list[Row]:
    """Return the rows that the page shows behind the figure.

    Args:
        record: what the check wrote.

    Returns:
        Rows of whole models.
    """
    return [{key: row[key] for key in SHOWN} for row in record.rows if row["layer"] == "all"]


def draw(record: Recorded) -> str:
    """Draw the cosine over the radius, one panel per model (docs/method.md E.4).

    Args:
        record: what the check wrote.

    Returns:
        SVG.
    """
    models = list(dict.fromkeys(row["model"] for row in record.rows))
    with styled():
        made, handles = figure(3.0 * max(len(models), 1) + 0.4, 3.6), {}
        panels = made.subplots(1, max(len(models), 1), sharey=True, squeeze=False)[0]
        for axes, model in zip(panels, models, strict=False):
            _panel(axes, [row for row in record.rows if row["model"] == model], handles)
            axes.set_title(f"at the {model} model")
            axes.set_xlabel("attack radius, 1/255")
        panels[0].set(ylabel="cosine of two gradients", ylim=(FLOOR, CEILING))
        legend_above(made, handles, columns=4)
        return svg(made)


def _panel(axes: Axes, rows: Sequence[Row], handles: dict[str, object]) -> None:
    whole = [row for row in rows if row["layer"] == "all"]
    radius = [255 * row["eps"] for row in whole]
    axes.axhline(0, color=GREY, lw=0.8)
    layers = [
        [_float(row["cosine"]) for row in rows if row["layer"] != "all" and row["eps"] == at["eps"]]
        for at in whole
    ]
    if all(layers):
        low, high = np.nanquantile(np.array(layers, dtype=float), (0.1, 0.9), axis=1)
        axes.fill_between(radius, low, high, color=SKY, alpha=0.3, lw=0)
        handles["layers, middle 80%"] = Patch(color=SKY, alpha=0.3, lw=0)
    floor = [_float(row["self_cosine"]) for row in whole]
    handles["noise floor"] = axes.plot(radius, floor, ":", color=GREY)[0]
    handles["raw"] = _line(axes, whole, "cosine", BLUE, "o-")
    handles["disattenuated"] = _line(axes, whole, "disattenuated", VERMILION, "D--")
    noisy = [
        (x, y)
        for x, row in zip(radius, whole, strict=True)
        if row["disattenuated_low"] == "" and FLOOR < (y := _float(row["disattenuated"])) < CEILING
    ]
    places = np.array(noisy, dtype=float).reshape(-1, 2).T
    handles["disattenuated, too noisy for an interval"] = axes.plot(
        *places, "D", ls="none", mfc="none", mec=VERMILION, ms=5
    )[0]


def _line(axes: Axes, whole: Sequence[Row], name: str, colour: str, style: str) -> object:
    """Draw the values that have an interval."""
    keys = ("eps", name, f"{name}_low", f"{name}_high")
    x, value, low, high = (
        np.array([[_float(row[key]) for key in keys] for row in whole if row[f"{name}_low"] != ""])
        .reshape(-1, 4)
        .T
    )
    sides = np.clip([value - low, high - value], 0, None)  # round-off at radius 0
    look = {"color": colour, "ms": 4, "mec": "white", "mew": 0.5, "elinewidth": 1}
    return axes.errorbar(255 * x, value, sides, fmt=style, **look)


def _float(value: object) -> float:
    return float(value) if isinstance(value, float | int) else math.nan
