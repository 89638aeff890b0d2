"""Figure of the check ``conflict_map``."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pistole.report.drawing import BLUE, GREY, ORANGE, VERMILION, figure, styled, svg
from pistole.report.inputs import Recorded, Row

TITLE = "Conflict map of heads and layers"
ALTERNATIVE = "Heat maps of conflict and sensitivity per head or layer, and losses over depth"
CAPTION = (
    "Above: optimisation conflict (1 - cos) / 2 of the natural and robust gradients, functional "
    "sensitivity (KL when the head is zeroed), both at the base, their rank product, and the mean "
    "size of the loss change when the merged model takes the head from another model; for a tower "
    "without heads, conflicts and masks of its blocks. Below: the robust task vector added to the "
    "first or to the last blocks of the base alone."
)
MAPS = (
    ("oc_base", "conflict OC"),
    ("fs_base", "sensitivity FS, nats"),
    ("score_base", "score (rank product)"),
    ("loss_impact", "loss change, nats"),
)
SHOWN = (
    "layer",
    "head",
    "oc_base",
    "oc_merged",
    "tc",
    "fs_base",
    "score_base",
    "loss_impact",
    "sum_impact",
    "mask_nat",
    "mask_rob",
)
BY_BLOCK = ("layer", "size", "oc_base", "oc_merged", "tc", "mask_nat", "mask_rob")
MOST_ROWS = 40
WRITTEN = 40  # heads whose values are written into the map


def numbers(record: Recorded) -> list[Row]:
    """Return the rows that the page shows behind the figure.

    Args:
        record: what the check wrote.

    Returns:
        The heads of the largest scores, or the blocks of a tower without heads.
    """
    heads = _level(record, "head")
    if heads:
        first = sorted(heads, key=lambda row: -row["score_base"])[:MOST_ROWS]
        return [{key: row[key] for key in SHOWN} for row in first]
    blocks = _level(record, "block")[:MOST_ROWS]
    return [{key: row[key] for key in BY_BLOCK} for row in blocks]


def draw(record: Recorded) -> str:
    """Draw the map and the losses over depth (docs/method.md E.6).

    Args:
        record: what the check wrote.

    Returns:
        SVG.
    """
    heads = _level(record, "head")
    with styled():
        made = figure(9.4, 6.2 if heads else 6.6)
        above, below = made.subfigures(2, 1, height_ratios=[1.1, 1] if heads else [1.3, 1])
        if heads:
            for axes, (key, title) in zip(above.subplots(1, len(MAPS)), MAPS, strict=True):
                _heat(above, axes, heads, key, title)
        else:
            _blocks(above.subplots(), _level(record, "block"))
        clean, robust = below.subplots(1, 2)
        for axes, kind in ((clean, "clean"), (robust, "robust")):
            _depth(axes, record.summary.get("prefix", []), kind)
        robust.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
        return svg(made)


def _level(record: Recorded, level: str) -> list[Row]:
    return [row for row in record.rows if row["level"] == level]


def _heat(made: Figure, axes: Axes, heads: Sequence[Row], key: str, title: str) -> None:
    layers = list(dict.fromkeys(row["layer"] for row in heads))
    width = 1 + max(int(row["head"]) for row in heads)
    values = np.full((len(layers), width), np.nan)
    for row in heads:
        values[layers.index(row["layer"]), int(row["head"])] = _float(row[key])
    image = axes.imshow(values, cmap="cividis", aspect="auto", vmin=0)
    axes.grid(visible=False)
    axes.set(title=title, xlabel="head", ylabel="attention layer" if key == MAPS[0][0] else "")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if len(heads) <= WRITTEN:
        middle = np.nanmax(values) / 2
        for (i, j), value in np.ndenumerate(values):
            ink = "white" if value < middle else "black"
            axes.text(j, i, f"{value:#.2g}", ha="center", va="center", fontsize=7.5, color=ink)
    else:
        made.colorbar(image, ax=axes, shrink=0.9)


def _blocks(axes: Axes, blocks: Sequence[Row]) -> None:
    place = np.arange(len(blocks))
    drawn = (
        ("oc_base", "conflict OC, base", VERMILION, "o-"),
        ("oc_merged", "conflict OC, merged", ORANGE, "s-"),
        ("tc", "task-vector conflict TC", BLUE, "^-"),
        ("mask_nat", "mean mask, natural", GREY, ":"),
        ("mask_rob", "mean mask, robust", GREY, "--"),
    )
    for key, name, colour, style in drawn:
        axes.plot(place, [_float(r[key]) for r in blocks], style, color=colour, ms=4, label=name)
    names = [row["layer"].replace("trunk.", "").replace("transformer.", "") for row in blocks]
    axes.set_xticks(place, names, rotation=60, ha="right", fontsize=8)
    axes.set(title="blocks from input to output (no attention heads in this tower)")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def _depth(axes: Axes, rows: Sequence[Row], kind: str) -> None:
    """Loss over the number of moved blocks; none and all moved belong to both lines."""
    total = max((row["of"] for row in rows), default=0)
    for end, colour, style in (("first", VERMILION, "o-"), ("last", BLUE, "s--")):
        line = sorted(
            (row["blocks"], row[f"{kind}_loss"])
            for row in rows
            if row["end"] == end or row["blocks"] in (0, total)
        )
        axes.plot(
            [x for x, _ in line], [y for _, y in line], style, color=colour, label=f"{end} blocks"
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=f"{kind} loss", xlabel=f"blocks with the robust vector, of {total}")
    axes.set_ylabel("cross-entropy, nats")


def _float(value: object) -> float:
    return float(value) if isinstance(value, float | int) else math.nan
