"""Figure: what the masks keep, by block and kind of tensor."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from pistole.report.drawing import figure, styled, svg
from pistole.report.inputs import Row

ALTERNATIVE = "Heat maps of the mean mask and the kept norm by block and kind of tensor"
PANELS = (("mean_mask", "mean mask"), ("l2_retention", "l2 norm kept"))
OUTSIDE = "outside blocks"
KINDS = (  # kind of tensor, and parts of names that tell it; the first that fits
    ("norms", ("ln_", "norm", "bn", "layer_scale", "ls_")),
    ("biases", ("bias",)),
    ("attention in", ("in_proj", "qkv", "q_proj", "k_proj", "v_proj")),
    ("attention out", ("out_proj", "attn.proj")),
    ("MLP in", ("c_fc", "fc1")),
    ("MLP out", ("c_proj", "fc2")),
    ("depthwise", ("conv_dw",)),
    ("pointwise", ("conv_pw",)),
    ("convolutions", ("conv", "patch_embed", "downsample", "stem")),
)
OTHER = "others"
LETTERS = 9  # px of a value in its cell


def split_name(layer: str) -> tuple[str, str]:
    """Tell a tensor's block and its kind from its name.

    Args:
        layer: such as ``transformer.resblocks.3.mlp.c_fc.weight``.

    Returns:
        Such as ``resblocks 3`` and ``MLP in``; a tensor outside of the blocks has the block
        :data:`OUTSIDE`.
    """
    kind = next((k for k, told in KINDS if any(part in layer for part in told)), OTHER)
    parts = layer.split(".")
    for before, part in pairwise(parts[:-1]):
        if part.isdigit():
            return f"{before} {part}", kind
    return OUTSIDE, kind


def draw(rows: Sequence[Row], variant: str) -> str:
    """Draw the atlas of one score's masks: means over the tensors of a block and kind.

    Args:
        rows: statistics of the masks: variant, source, layer, numbers.
        variant: whose masks.

    Returns:
        SVG: a column of panels per vector, a row of panels per measure.
    """
    own = [row for row in rows if row["variant"] == variant and row["layer"] != "all"]
    places = [split_name(str(row["layer"])) for row in own]
    blocks = list(dict.fromkeys(block for block, _ in places if block != OUTSIDE))
    blocks += [OUTSIDE] * any(block == OUTSIDE for block, _ in places)
    kinds = [k for k in (*(k for k, _ in KINDS), OTHER) if any(k == kind for _, kind in places)]
    sources = list(dict.fromkeys(row["source"] for row in own))
    with styled():
        made = figure(7.4, 1.9 + 0.52 * len(blocks))
        panels = made.subplots(len(PANELS), len(sources), squeeze=False, sharex=True, sharey=True)
        for across, (key, title) in zip(panels, PANELS, strict=True):
            for axes, source in zip(across, sources, strict=True):
                cells: dict[tuple[str, str], list[float]] = {}
                for row, place in zip(own, places, strict=True):
                    if row["source"] == source:
                        cells.setdefault(place, []).append(float(row[key]))
                _panel(axes, [[cells.get((b, k), []) for k in kinds] for b in blocks])
                axes.set_title(f"{source} vector: {title}")
        panels[0][0].set_yticks(range(len(blocks)), blocks)
        for axes in panels[-1]:
            axes.set_xticks(range(len(kinds)), kinds, rotation=40, ha="right")
        return svg(made)


def _panel(axes: Axes, cells: Sequence[Sequence[Sequence[float]]]) -> None:
    means = np.array([[np.mean(c) if c else np.nan for c in line] for line in cells])
    axes.imshow(means, cmap="cividis", aspect="auto", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for (i, j), value in np.ndenumerate(means):
        if np.isfinite(value):
            ink, told = "white" if value < 0.45 else "black", f"{value:.2f}"
            axes.text(j, i, told, ha="center", va="center", fontsize=LETTERS, color=ink)
