"""Figure of the check ``interference``."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from pistole.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    figure,
    legend_above,
    styled,
    svg,
)
from pistole.report.inputs import Recorded, Row

TITLE = "Interference contraction (Theorem 1)"
ALTERNATIVE = (
    "Share of the interference envelope that the masks leave, over kappa and over the cap, and the "
    "loss change of masked, uniformly shrunk and unmasked vectors"
)
CAPTION = (
    "Top: what the masks leave of the first-order interference envelope A(M) = Σ|g|·M·|τ|, at the "
    "run's γ. Dots measured, blue line by the identity of Theorem 1. A mask is selective where it "
    "lies below a permuted mask and uniform shrinkage of the same size. Middle: the same share for "
    "four readings of the cap; further left is tighter. Bottom: change of the true loss when the "
    "other source's vector is added, with its 95% interval over images; rings are the first-order "
    "term, which is all that the theorem speaks of."
)
CAPS = {
    "none": (GREY, "x"),
    "score_clip": (VERMILION, "o"),
    "renorm": (BLUE, "s"),
    "mask_cap": (GREEN, "^"),
    "zero_top": (PURPLE, "D"),
}
CHANGES = {"unmasked": (ORANGE, "^"), "uniform": (SKY, "s"), "masked": (VERMILION, "o")}
SHOWN = (
    "gradient",
    "point",
    "kappa",
    "rho_w",
    "rho_max",
    "interference_ratio",
    "selectivity",
    "selectivity_permuted",
    "selective_layers",
)
Handles = dict[str, Any]


def numbers(record: Recorded) -> list[Row]:
    """Return the rows that the page shows behind the figure.

    Args:
        record: what the check wrote.

    Returns:
        The contraction over kappa at the run's gamma.
    """
    return [{name: row[name] for name in SHOWN} for row in _over_kappa(record.rows)]


def _of(rows: Sequence[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def _over_kappa(rows: Sequence[Row]) -> list[Row]:
    """Rows of the grid over kappa at the gamma of the run, or the nearest that the grid has."""
    grid = _of(rows, grid="kappa")
    own = next((row["gamma"] for row in _of(rows, grid="layer")), 1.0)
    gamma = min((row["gamma"] for row in grid), key=lambda g: abs(g - own), default=own)
    return _of(grid, gamma=gamma)


def draw(record: Recorded) -> str:
    """Draw contraction over kappa, over the cap, and the loss change (docs/method.md A.6, E.1).

    Args:
        record: what the check wrote.

    Returns:
        SVG with three parts, one below the other.
    """
    over_kappa = _over_kappa(record.rows)
    gradients, points = (
        list(dict.fromkeys(row[key] for row in over_kappa)) or [""] for key in ("gradient", "point")
    )
    with styled():
        made = figure(9.4, 2.5 * len(gradients) + 6.4)
        parts = made.subfigures(3, 1, height_ratios=[2.5 * len(gradients), 2.9, 3.3])
        _contractions(parts[0], over_kappa, gradients, points)
        _caps(parts[1], _of(record.rows, grid="cap", point=points[0]), gradients, points[0])
        _losses(parts[2], _of(record.rows, grid="loss"), gradients, points)
        return svg(made)


def _place(gradient: str, point: str) -> str:
    place = f"{gradient} source" if point == "source" else f"{point} model"
    return f"{gradient} gradient at the {place}"


def _contractions(part: Any, rows: list[Row], gradients: list[str], points: list[str]) -> None:
    """One row of panels per gradient, one column per point.

    A permuted mask keeps the retention r and has selectivity S_perm, so its envelope ratio is
    r / S_perm; uniform shrinkage with the same retention has the ratio r itself.
    """
    handles: Handles = {}
    panels = part.subplots(len(gradients), len(points), sharex=True, sharey=True, squeeze=False)
    for (i, gradient), (j, point) in itertools.product(enumerate(gradients), enumerate(points)):
        ours = _of(rows, gradient=gradient, point=point)
        _contraction(panels[i, j], sorted(ours, key=lambda row: row["kappa"]), handles)
        panels[i, j].set_title(_place(gradient, point))
    for axes in panels[-1]:
        axes.set_xlabel("κ")
    part.supylabel("share of the interference left", fontsize=10)
    legend_above(part, dict(reversed(handles.items())), columns=4)


def _contraction(axes: Axes, rows: Sequence[Row], handles: dict[str, Line2D]) -> None:
    kappa = [row["kappa"] for row in rows]
    permuted = [_ratio(row["retention_l1"], row["selectivity_permuted"]) for row in rows]
    uniform = [_positive(row["retention_l1"]) for row in rows]
    handles["uniform, same retention"] = axes.plot(kappa, uniform, ":", color=GREY)[0]
    handles["permuted mask"] = axes.plot(kappa, permuted, "--", color=ORANGE)[0]
    predicted = [_positive(row["rho_w"]) for row in rows]
    handles["predicted: ρ_w"] = axes.plot(kappa, predicted, color=BLUE)[0]
    measured = [_positive(row["envelope_ratio"]) for row in rows]
    handles["measured: A(M) / A(1)"] = axes.plot(
        kappa, measured, "o", color=VERMILION, ms=5, mec="white"
    )[0]
    _kappa_axis(axes, kappa)
    axes.set(yscale="log")


def _caps(part: Any, rows: list[Row], gradients: list[str], point: str) -> None:
    """rho_w over q at equal steps, one line per reading of the cap."""
    handles: Handles = {}
    panels = part.subplots(1, len(gradients), sharey=True, squeeze=False)[0]
    levels = sorted({row["q"] for row in rows})
    for axes, gradient in zip(panels, gradients, strict=True):
        for mode in dict.fromkeys(row["cap_mode"] for row in rows):
            ours = sorted(_of(rows, gradient=gradient, cap_mode=mode), key=lambda row: row["q"])
            places = [levels.index(row["q"]) for row in ours]
            colour, marker = CAPS.get(mode, (GREY, "x"))
            values = [_number(row["rho_w"]) for row in ours]
            (handles[mode],) = axes.plot(places, values, color=colour, marker=marker, ms=4.5)
        axes.set_xticks(range(len(levels)), [f"{q:g}" for q in levels])
        axes.set(title=_place(gradient, point), xlabel="q of the cap (1 = no cap)")
    panels[0].set(ylabel="ρ_w", ylim=(0, None))
    if handles:
        legend_above(part, handles, columns=len(handles))


def _losses(part: Any, rows: list[Row], gradients: list[str], points: list[str]) -> None:
    """True change with its interval, and the first-order term, by point."""
    handles: Handles = {}
    panels = part.subplots(1, len(gradients), squeeze=False)[0]
    for axes, gradient in zip(panels, gradients, strict=True):
        axes.axhline(0, color=GREY, lw=1)
        for number, (kind, (colour, marker)) in enumerate(CHANGES.items()):
            ours = {r["point"]: r for r in _of(rows, gradient=gradient, quantity=kind)}
            found = [ours[point] for point in points if point in ours]
            places = [points.index(row["point"]) + 0.24 * (number - 1) for row in found]
            ends = [[_number(row[key]) for row in found] for key in ("low", "estimate", "high")]
            axes.vlines(places, ends[0], ends[2], color=colour, lw=1.6)
            style = {"color": colour, "ls": "none", "marker": marker}
            (handles[kind],) = axes.plot(places, ends[1], ms=6, **style)
            first = [_number(row["first_order"]) for row in found]
            axes.plot([p + 0.09 for p in places], first, ms=6, mfc="none", mew=1.4, **style)
        axes.set_xticks(range(len(points)), [f"at {point}" for point in points])
        axes.set(title=f"{gradient} loss", xlim=(-0.5, len(points) - 0.5))
        axes.grid(visible=False, axis="x")
    panels[0].set_ylabel("change of the mean loss (nats)")
    ring = {"marker": "o", "ls": "none", "ms": 6, "mfc": "none", "mew": 1.4, "color": GREY}
    handles["hollow: first-order term"] = Line2D([], [], **ring)
    legend_above(part, handles, columns=4)


def _number(value: object) -> float:
    return float(value) if isinstance(value, float | int) else math.nan


def _positive(value: object) -> float:
    """The value if a log axis can show it, else a gap."""
    return float(value) if isinstance(value, float | int) and value > 0 else math.nan


def _ratio(top: object, bottom: object) -> float:
    return _positive(top) / _positive(bottom)


def _kappa_axis(axes: Axes, kappa: Sequence[float]) -> None:
    """Equal steps per doubling, and room for 0."""
    smallest = min((k for k in kappa if k > 0), default=1.0)
    axes.set_xscale("symlog", base=2, linthresh=smallest, linscale=0.7)
    axes.xaxis.set_major_locator(FixedLocator(kappa))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{k:g}" for k in kappa]))
    axes.xaxis.set_minor_locator(NullLocator())
