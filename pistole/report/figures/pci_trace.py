"""Figure of the check ``pci_trace``."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pistole.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILION,
    figure,
    legend_above,
    styled,
    svg,
)
from pistole.report.inputs import Recorded, Row

TITLE = "PCI against the Hessian trace (Theorem 2)"
ALTERNATIVE = "Measured PCI against the value predicted by the Hessian trace"
CAPTION = (
    "Left: one dot per image and model; the line is Theorem 2. Right: the agreement over the "
    "radius η with 95 % intervals. Shaded: the plateau on which PCI / η² does not change; smaller "
    "radii drown in rounding, larger ones leave the second order. Green: a single pair against "
    "the quadratic form along its own direction, without sampling noise. Dotted: the grid's "
    "radius nearest to the method's."
)
SHADE = "#d9ead3"
LOWEST, HIGHEST = -0.5, 2.0  # slopes shown: those of drowned radii are arbitrary


def numbers(record: Recorded) -> list[Row]:
    """Return the rows that the page shows behind the figure.

    Args:
        record: what the check wrote.

    Returns:
        One fit per radius, then the parts at the radius that decides.
    """
    summary = record.summary
    rows = [_fit_row(f"all, η = {step['eta']:g}", step) for step in summary.get("by_eta", [])]
    for key in ("by_inputs", "by_model", "by_group", "by_sign"):
        for part in summary.get(key, []):
            names = [part[name] for name in ("model", "inputs") if name in part]
            rows.append(_fit_row(", ".join(names) or f"{part['trace']} trace", part))
    return rows


def _fit_row(points: str, fit: Row) -> Row:
    row = {"points": points, "n": fit.get("n")}
    for name in ("spearman", "slope"):
        low, high = fit.get(f"{name}_ci95") or (None, None)
        row |= {name: fit[name], f"{name} low": low, f"{name} high": high}
    return row | {
        "R²": fit.get("r2"),
        "pair slope": fit.get("pair_slope"),
        "verdict": fit.get("verdict"),
    }


def draw(record: Recorded) -> str:
    """Draw PCI against the value that Theorem 2 predicts, and the fit over eta.

    Args:
        record: the table (model, inputs, eta, pci, trace_over_2p) and the summary.

    Returns:
        SVG: the scatter at the eta that decides; rank correlation and slope over eta.
    """
    summary = record.summary
    with styled():
        made, handles = figure(7.4, 4.6), {}
        panels = made.subplot_mosaic([["dots", "rank"], ["dots", "slope"]], width_ratios=[1.35, 1])
        handles["PCI = Tr / 2p"] = _scatter(panels["dots"], record, handles)
        steps = sorted(summary.get("by_eta", []), key=lambda step: step["eta"])
        _over_eta(panels["rank"], steps, "spearman", PURPLE)
        handles["all, mean over pairs"] = _over_eta(panels["slope"], steps, "slope", PURPLE)
        handles["all, single pair"] = _over_eta(panels["slope"], steps, "pair_slope", GREEN)
        for key in ("rank", "slope"):
            _eta_axis(panels[key], summary, [step["eta"] for step in steps])
        if summary.get("plateau"):
            handles["plateau in η"] = Patch(color=SHADE)
        panels["rank"].set(title="rank correlation (Spearman)")
        panels["rank"].set_ylim(min(-0.1, *panels["rank"].get_ylim()), 1.06)
        panels["rank"].tick_params(labelbottom=False)
        panels["slope"].set(title="slope (1 = as predicted)", xlabel="relative radius η")
        low, high = panels["slope"].get_ylim()
        panels["slope"].set_ylim(max(low, LOWEST), min(high, HIGHEST))
        legend_above(made, handles, columns=3)
        return svg(made)


def _over_eta(axes: Axes, steps: Sequence[Row], name: str, colour: str) -> Line2D:
    """A number of the fits over eta with its interval; gaps where it is not known."""
    axes.axhline(1, color=GREY, lw=1)
    etas = [step["eta"] for step in steps]
    values = [_number(step.get(name)) for step in steps]
    ends = [step.get(f"{name}_ci95") or (None, None) for step in steps]
    low, high = ([_number(pair[side]) for pair in ends] for side in (0, 1))
    axes.fill_between(etas, low, high, color=colour, alpha=0.18, lw=0)
    return axes.plot(etas, values, "o-", color=colour, ms=4)[0]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _eta_axis(axes: Axes, summary: Row, etas: Sequence[float]) -> None:
    if plateau := summary.get("plateau"):
        axes.axvspan(plateau["from"], plateau["to"], color=SHADE, lw=0, zorder=0)
    axes.axvline(summary.get("method_eta", summary["eta"]), color=GREY, lw=1, ls=":")
    shown = [summary["eta"], *etas]
    axes.set_xlim(min(shown) / 1.5, max(shown) * 1.5)  # first: one dot has no scale
    axes.set_xscale("log")


def _scatter(axes: Axes, record: Recorded, handles: dict[str, object]) -> Line2D:
    eta = record.summary["eta"]
    rows = [row for row in record.rows if math.isclose(row["eta"], eta)]
    both = np.array([[row["trace_over_2p"], row["pci"]] for row in rows], dtype=float).reshape(
        -1, 2
    )
    for inputs, colour, marker in (("clean", BLUE, "o"), ("adversarial", VERMILION, "^")):
        chosen = both[[row["inputs"] == inputs for row in rows]]
        handles[f"{inputs} images"] = axes.plot(
            chosen[:, 0], chosen[:, 1], marker, color=colour, ms=4, alpha=0.65, mec="none"
        )[0]
    (line,) = axes.plot([], [], color=GREY, lw=1)
    finite = both[np.isfinite(both).all(axis=1)]
    if len(finite):
        _spread_axes(axes, np.abs(finite))
        ends = np.array([finite.min(), finite.max()])
        line.set_data(ends, ends)
    axes.set(
        title=f"every image, η = {eta:g}", xlabel="predicted: Tr_w(H) / 2p", ylabel="measured: PCI"
    )
    return line


def _spread_axes(axes: Axes, sizes: np.ndarray) -> None:
    """Signed logarithmic axes where values span decades; at most four ticks a side."""
    positive = sizes[sizes > 0]
    if len(positive) == 0 or positive.max() < 30 * np.median(positive):
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(style="sci", scilimits=(0, 0), useMathText=True)
        return
    first = math.floor(math.log10(np.quantile(positive, 0.25)))
    last = max(math.ceil(math.log10(positive.max())), first + 1)
    step = math.ceil((last - first + 1) / 4)
    decades = [10.0**e for e in range(first, last + 1, step)]
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        getattr(axes, f"set_{name}scale")("symlog", linthresh=10.0**first, linscale=1.0)
        axis.set_major_locator(FixedLocator([-d for d in reversed(decades)] + [0.0] + decades))
        axis.set_minor_locator(NullLocator())
