"""Figure: what the masks keep, by block and kind of tensor."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pistole.report.drawing import figure, styled, svg
from pistole.report.inputs import Row

ALTERNATIVE = "Heat maps of the mean mask and the kept norm by block and kind of tensor"
PANELS = (("mean_mask", "mean mask"), ("l2_retention", "l2 norm kept"))
WRITTEN = 130  # cells of a panel that still have room for their value
OUTSIDE = "outside blocks"


def split_name(layer: str) -> tuple[str, str]:
    """Split a tensor's name into its block and its kind.

    Args:
        layer: such as ``transformer.resblocks.3.mlp.c_fc.weight``.

    Returns:
        Such as ``resblocks 3`` and ``mlp.c_fc.weight``; a tensor outside of the blocks has the
        block :data:`OUTSIDE`.
    """
    parts = layer.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdigit() and place:
            return f"{parts[place - 1]} {part}", ".".join(parts[place + 1 :])
    return OUTSIDE, layer


def draw(rows: Sequence[Row], variant: str) -> str:
    """Draw the atlas of one score's masks.

    Args:
        rows: statistics of the masks: variant, source, layer, numbers.
        variant: whose masks.

    Returns:
        SVG: a column per vector, a row of panels per measure.
    """
    own = [row for row in rows if row["variant"] == variant and row["layer"] != "all"]
    names = [split_name(str(row["layer"])) for row in own]
    blocks = [b for b in dict.fromkeys(b for b, _ in names) if b != OUTSIDE]
    kinds = list(dict.fromkeys(k for b, k in names if b != OUTSIDE))
    loose = list(dict.fromkeys(k for b, k in names if b == OUTSIDE))
    sources = list(dict.fromkeys(row["source"] for row in own))
    columns, lines = [*kinds, *loose], [*blocks, *([OUTSIDE] if loose else [])]
    with styled():
        made = figure(2.4 + 0.42 * len(columns) * len(sources), 2.6 + 0.36 * len(lines) * 2)
        panels = made.subplots(len(PANELS), len(sources), squeeze=False)
        for across, (key, title) in zip(panels, PANELS, strict=True):
            for axes, source in zip(across, sources, strict=True):
                cells = np.full((len(lines), len(columns)), np.nan)
                for row, (block, kind) in zip(own, names, strict=True):
                    if row["source"] == source:
                        cells[lines.index(block), columns.index(kind)] = row[key]
                image = _panel(axes, cells)
                axes.set_title(f"{source} vector: {title}")
                axes.set_yticks(range(len(lines)), lines if source == sources[0] else [])
                shown = columns if key == PANELS[-1][0] else []
                axes.set_xticks(range(len(columns)), shown, rotation=90)
            made.colorbar(image, ax=list(across), shrink=0.9, pad=0.01)
        return svg(made)


def _panel(axes: Axes, cells: np.ndarray) -> object:
    image = axes.imshow(cells, cmap="cividis", aspect="auto", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    if cells.size <= WRITTEN:
        for (i, j), value in np.ndenumerate(cells):
            if np.isfinite(value):
                ink = "white" if value < 0.55 else "black"
                told = f"{value:.2f}".removeprefix("0")
                axes.text(j, i, told, ha="center", va="center", fontsize=8, color=ink)
    return image
