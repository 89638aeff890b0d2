"""Figure: robust against clean accuracy over lambda."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pistole.report.drawing import (
    COLOURS,
    GREY,
    MARKERS,
    SKY,
    figure,
    legend_above,
    outside_text,
    styled,
    svg,
)
from pistole.report.inputs import Results
from pistole.report.tables import CONTROLS, label

END_POINTS = ("base", "natural", "robust")
SHORT = 12  # letters of a legend's entry of which four fit on a line
SAME_PLACE = (45, 22)  # pixels across and up: two ends this close share one label


def draw(results: Results) -> str:
    """Draw robust against clean accuracy over lambda, one line per method.

    Args:
        results: curves, and the models measured as the curves are.

    Returns:
        SVG: lines in percent, rings at the merged models of the table, markers at the sources.
    """
    with styled():
        made = figure(6.4, 4.6)
        axes, handles = made.subplots(), {}
        lines = {
            method: 100 * np.array([[r["clean_mean"], r["robust_mean"]] for r in curve.rows])
            for method, curve in results.frontier.items()
        }
        for method, line in lines.items():
            (handles[label(method)],) = axes.plot(
                line[:, 0],
                line[:, 1],
                color=COLOURS.get(method, SKY),
                marker=MARKERS.get(method, "x"),
                ls="--" if method in CONTROLS else "-",
                ms=4,
            )
        for name, (clean, robust) in results.anchors.items():
            spot = {"color": COLOURS.get(name, SKY), "ls": "none", "zorder": 5}
            if name in END_POINTS:
                spot |= {"marker": MARKERS[name], "ms": 9, "mec": "white"}
                (handles[label(name)],) = axes.plot(100 * clean, 100 * robust, **spot)
            elif name in lines:
                axes.plot(100 * clean, 100 * robust, marker="o", ms=13, mfc="none", mew=1.6, **spot)
        rings = {"marker": "o", "ls": "none", "ms": 10, "mfc": "none", "mew": 1.6, "color": GREY}
        if any(name in lines for name in results.anchors):
            handles["merged model of the table"] = Line2D([], [], **rings)
        axes.set(
            xlabel="clean accuracy, % (mean over tasks)",
            ylabel="robust accuracy, % (mean over tasks)",
        )
        axes.margins(0.12)
        longest = max(len(label(method)) for method in lines)
        made.draw_without_rendering()  # label directions are on the screen: limits must be final
        for line, curve in zip(lines.values(), results.frontier.values(), strict=True):
            _label_ends(axes, line, [row["lambda"] for row in curve.rows], list(lines.values()))
        legend_above(made, handles, columns=4 if longest <= SHORT else 3)
        return svg(made)


def _label_ends(
    axes: Axes, line: np.ndarray, lambdas: Sequence[float], lines: list[np.ndarray]
) -> None:
    """Write lambda at both ends, once where the ends of several lines meet."""
    screen = [axes.transData.transform(other) for other in lines]
    own = next(pixels for other, pixels in zip(lines, screen, strict=True) if other is line)
    earlier = screen[: next(i for i, other in enumerate(lines) if other is line)]
    for end, inner in ((0, 1), (-1, -2)):
        if any((abs(pixels[end] - own[end]) < SAME_PLACE).all() for pixels in earlier):
            continue
        away = own[end] - own[inner] if len(own) > 1 else np.array([0.0, 1.0])
        outside_text(axes, f"λ = {lambdas[end]:g}", tuple(line[end]), tuple(away))
