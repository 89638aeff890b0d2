"""The figures, as SVG text that is equal for equal numbers."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from pistole.report.drawing import (
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    ORANGE,
    SKY,
    VERMILION,
    figure,
    legend_above,
    outside_text,
    styled,
    svg,
)
from pistole.report.inputs import Recorded, Results, Row
from pistole.report.tables import label

END_POINTS = ("base", "natural", "robust")
PANEL_KEYS = ("gradient", "point")
SAME_PLACE = 14.0  # pixels: two ends this close share one label


def draw_all(results: Results) -> dict[str, str]:
    """Draw every figure that the results allow.

    Args:
        results: what the stages wrote.

    Returns:
        Name -> SVG document; ``training`` is absent if both sources were brought, not trained.
    """
    drawn = {
        "frontier": frontier(results),
        "interference": interference(results.theory["interference"].rows),
        "pci_trace": pci_trace(results.theory["pci_trace"]),
    }
    curves = {name: record.rows for name, record in results.sources.items() if record.rows}
    if curves:
        drawn["training"] = training(curves)
    return drawn


def frontier(results: Results) -> str:
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
        made.draw_without_rendering()  # label directions are on the screen: limits must be final
        for line, curve in zip(lines.values(), results.frontier.values(), strict=True):
            _label_ends(axes, line, [row["lambda"] for row in curve.rows], list(lines.values()))
        legend_above(made, handles, columns=4)
        return svg(made)


def _label_ends(
    axes: Axes, line: np.ndarray, lambdas: Sequence[float], lines: list[np.ndarray]
) -> None:
    """Write lambda at both ends, once where the ends of several lines meet."""
    screen = [axes.transData.transform(other) for other in lines]
    own = next(pixels for other, pixels in zip(lines, screen, strict=True) if other is line)
    earlier = screen[: next(i for i, other in enumerate(lines) if other is line)]
    for end, inner in ((0, 1), (-1, -2)):
        if any(np.hypot(*(pixels[end] - own[end])) < SAME_PLACE for pixels in earlier):
            continue
        away = own[end] - own[inner] if len(own) > 1 else np.array([0.0, 1.0])
        outside_text(axes, f"λ = {lambdas[end]:g}", tuple(line[end]), tuple(away))


def interference(rows: Sequence[Row]) -> str:
    """Draw how the interference envelope shrinks with kappa (docs/method.md A.6).

    A permuted mask keeps the retention r and has selectivity S_perm, so its envelope ratio is
    r / S_perm; uniform shrinkage with the same retention has the ratio r itself.

    Args:
        rows: columns gradient, point, kappa, envelope_ratio, rho_w, selectivity_permuted,
            retention_l1.

    Returns:
        SVG with one row of panels per gradient and one column per point.
    """
    gradients, points = (list(dict.fromkeys(row[key] for row in rows)) for key in PANEL_KEYS)
    with styled():
        made, handles = figure(3.0 * max(len(points), 1) + 0.4, 2.7 * max(len(gradients), 1)), {}
        panels = made.subplots(
            max(len(gradients), 1), max(len(points), 1), sharex=True, sharey=True, squeeze=False
        )
        for (i, gradient), (j, point) in itertools.product(enumerate(gradients), enumerate(points)):
            ours = [row for row in rows if (row["gradient"], row["point"]) == (gradient, point)]
            _contraction(panels[i, j], sorted(ours, key=lambda row: row["kappa"]), handles)
            place = f"{gradient} source" if point == "source" else f"{point} model"
            panels[i, j].set_title(f"{gradient} gradient at the {place}")
        for axes in panels[-1]:
            axes.set_xlabel("κ")
        made.supylabel("share of the interference left", fontsize=10)
        legend_above(made, dict(reversed(handles.items())), columns=4)
        return svg(made)


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


def pci_trace(record: Recorded) -> str:
    """Draw PCI against the value that Theorem 2 predicts, and the fit over eta.

    Args:
        record: the table (model, inputs, eta, pci, trace_over_2p) and the summary.

    Returns:
        SVG: the scatter at the chosen eta; rank correlation and slope over eta.
    """
    with styled():
        made, handles = figure(7.4, 4.4), {}
        panels = made.subplot_mosaic([["dots", "rank"], ["dots", "slope"]], width_ratios=[1.45, 1])
        handles["PCI = Tr / 2p"] = _scatter(panels["dots"], record, handles)
        steps = sorted(record.summary.get("by_eta", []), key=lambda step: step["eta"])
        for key, name in (("rank", "spearman"), ("slope", "slope")):
            axes = panels[key]
            axes.axhline(1, color=GREY, lw=1)
            values = [math.nan if step[name] is None else step[name] for step in steps]
            axes.plot([step["eta"] for step in steps], values, "o-", color=BLUE, ms=4)
            axes.axvline(record.summary["eta"], color=GREY, lw=1, ls=":")
            etas = [record.summary["eta"], *(step["eta"] for step in steps)]
            axes.set_xlim(min(etas) / 1.5, max(etas) * 1.5)  # first: one dot has no scale
            axes.set_xscale("log")
        panels["rank"].set(
            title="rank correlation (Spearman)", ylim=(min(-0.05, *panels["rank"].get_ylim()), 1.05)
        )
        panels["rank"].tick_params(labelbottom=False)
        panels["slope"].set(title="slope (1 = as predicted)", xlabel="η (dotted: chosen)")
        legend_above(made, handles, columns=3)
        return svg(made)


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


def training(curves: dict[str, Sequence[Row]]) -> str:
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
