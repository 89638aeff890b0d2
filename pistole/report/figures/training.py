"""Figure: losses of the fine-tunes."""

from collections.abc import Sequence

import numpy as np

from pistole.report.drawing import BLUE, COLOURS, figure, legend_above, styled, svg
from pistole.report.inputs import Row


def draw(curves: dict[str, Sequence[Row]]) -> str:
    """Draw the fine-tuning losses.

    Args:
        curves: source -> rows of step and loss.

    Returns:
        SVG with one panel per trained source: the loss per step and its running mean.
    """
    with styled():
        made, handles = figure(3.5 * len(curves) + 0.4, 3.0), {}
        panels = made.subplots(1, len(curves), squeeze=False)[0]
        for axes, (source, rows) in zip(panels, curves.items(), strict=True):
            loss = np.array([row["loss"] for row in rows], dtype=float)
            step = np.array([row["step"] for row in rows], dtype=float)
            width = max(1, len(loss) // 20)
            smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
            colour = COLOURS.get(source, BLUE)
            handles["each step"] = axes.plot(step, loss, color="#bbbbbb", lw=0.8)[0]
            handles[f"mean of {width} steps ({source})"] = axes.plot(
                step[width - 1 :], smooth, color=colour
            )[0]
            axes.set(title=f"{source} source", xlabel="step")
        panels[0].set_ylabel("training loss")
        legend_above(made, handles, columns=3)
        return svg(made)
