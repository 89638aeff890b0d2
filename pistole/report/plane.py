"""The plane of clean and robust accuracy: every row's point, and every method's frontier.

Two pictures, because two measurements: the table's ensemble on all test images, and the frontier's
weaker attack on a part of them. A height in one is not a height in the other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from pistole.report.chart import (
    FONT,
    HEIGHT,
    INK,
    SOFT,
    WIDTH,
    Chart,
    chart_over,
    frame,
    marker,
    text,
)
from pistole.report.families import Look, looks
from pistole.report.inputs import Recorded, Results
from pistole.report.statistics import Z
from pistole.report.tables import MAIN, Metrics, label, points

STROKES = ("1", "2", "3", "x", "+", "P")  # markers without an inside
AXES = ("clean accuracy, %", "robust accuracy, %")
ENDS = ("base", "natural", "robust")
SAME_PLACE = 60  # px: ends of curves this close share one label


@dataclass(frozen=True)
class Spot:
    """A point of the plane.

    Attributes:
        name: key of the row.
        clean: percent.
        robust: percent.
        told: what hovering tells.
        ends: low and high of clean, low and high of robust, percent; None without an interval.
    """

    name: str
    clean: float
    robust: float
    told: str
    ends: tuple[float, float, float, float] | None = None


def draw_points(metrics: Metrics) -> str:
    """Draw every row of the table with its intervals.

    Args:
        metrics: content of ``report/metrics.json``.

    Returns:
        SVG.
    """
    spots = [_spot(name, model) for name, model in metrics["models"].items()]
    ends = [s.ends for s in spots if s.ends]
    chart = chart_over([v for e in ends for v in e[:2]], [v for e in ends for v in e[2:]])
    styles = looks(metrics["models"])
    spots.sort(key=lambda s: (not styles[s.name].quiet, s.name in MAIN, s.clean + s.robust))
    chart.taken += [_box(chart, s) for s in spots]
    made = frame(chart, *AXES)
    names = dict(_names(chart, spots[::-1], styles))
    for spot in spots:
        made += [_group(spot.name, styles[spot.name]), _cross(chart, spot, styles[spot.name])]
        made += [_mark(chart, spot, styles[spot.name], 7), names[spot.name], "</g>"]
    return _document(made)


def draw_frontiers(results: Results) -> str:
    """Draw every method's curve over lambda, and the rows of the table measured as the curves are.

    Args:
        results: curves, and the models measured alike.

    Returns:
        SVG: rings are merged models of the table, filled markers base and sources.
    """
    curves = {name: _curve(name, record) for name, record in results.frontier.items()}
    own = [
        Spot(name, 100 * clean, 100 * robust, f"{label(name)}, as in the table")
        for name, (clean, robust) in results.anchors.items()
        if name in ENDS or name in curves
    ]
    everything = [*own, *(spot for line in curves.values() for spot in line)]
    chart = chart_over([s.clean for s in everything], [s.robust for s in everything])
    chart.taken += [_box(chart, s) for s in everything]
    chart.taken += [box for line in curves.values() for box in _along(chart, line)]
    styles = looks([*results.anchors, *curves])
    made = frame(chart, *AXES)
    order = sorted(curves, key=lambda n: (not styles[n].quiet, n in MAIN))
    titles = [_clearest(curves, name) for name in order[::-1]]
    names = dict(_names(chart, [s for s in own if s.name in ENDS] + titles, styles))
    for name in order:
        made += [_group(name, styles[name]), _line(chart, curves[name], styles[name])]
        made += [_mark(chart, spot, styles[name], 4) for spot in curves[name]]
        made += [_ring(chart, spot, styles[name]) for spot in own if spot.name == name]
        made += [names[name], "</g>"]
    for spot in own:
        if spot.name in ENDS:
            made += [_group(spot.name, styles[spot.name])]
            made += [_mark(chart, spot, styles[spot.name], 8), names[spot.name], "</g>"]
    return _document(made + _lambdas(chart, results.frontier, curves))


def swatch(look: Look) -> str:
    """Draw a row's marker alone, for a list of rows.

    Args:
        look: how it is drawn.

    Returns:
        A small SVG.
    """
    return (
        '<svg class="swatch" viewBox="0 0 16 16" aria-hidden="true">'
        f'<path d="{marker(look.shape, 8, 8, 5)}" {_paint(look)}/></svg>'
    )


def _document(made: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        "font-family=\"system-ui, 'DejaVu Sans', sans-serif\">"
    )
    return "\n".join([head, *(part for part in made if part), "</svg>"]) + "\n"


def _spot(name: str, model: Mapping[str, Any]) -> Spot:
    lam = model.get("lambda")  # none: a source, a soup, its authors' own setting
    about = "" if lam is None else f", λ = {lam:g}"
    lines = [label(name) + about]
    for key, word in (("clean_mean", "clean"), ("robust_mean", "robust"), ("sum", "Sum")):
        low, high = model["ci95"][key]
        lines.append(f"{word} {points(model[key])} [{points(low)}, {points(high)}]")
    ends = [100 * end for key in ("clean_mean", "robust_mean") for end in model["ci95"][key]]
    clean, robust = 100 * model["clean_mean"], 100 * model["robust_mean"]
    return Spot(name, clean, robust, "\n".join(lines), tuple(ends))


def _curve(name: str, record: Recorded) -> list[Spot]:
    found = []
    for row in record.rows:
        told = [f"{label(name)}, λ = {row['lambda']:g}"]
        for kind in ("clean", "robust"):
            half = _half(row, kind, record.summary["images"])
            ends = f" ± {100 * half:.1f}" if half is not None else ""
            told.append(f"{kind} {points(row[f'{kind}_mean'])}{ends}")
        place = 100 * row["clean_mean"], 100 * row["robust_mean"]
        found.append(Spot(name, *place, "\n".join(told)))
    return found


def _half(row: Mapping[str, Any], kind: str, images: int) -> float | None:
    """Half of the 95% interval of a mean over tasks, by the normal law; images are independent."""
    shares = np.array([v for key, v in row.items() if key.startswith(f"{kind}/")], dtype=float)
    if not len(shares):
        return None
    return float(Z * np.sqrt(np.sum(shares * (1 - shares) / images)) / len(shares))


def _paint(look: Look) -> str:
    stroke = f'stroke="{look.colour}"'
    if look.shape in STROKES:
        return f'class="mark" fill="none" {stroke} stroke-width="3"'
    if look.hollow:
        return f'class="mark hollow" fill="#ffffff" {stroke} stroke-width="2.2"'
    return f'class="mark full" fill="{look.colour}" stroke="#ffffff" stroke-width="1"'


def _group(name: str, look: Look) -> str:
    quiet = ' opacity="0.5"' if look.quiet else ""
    kind = "m quiet" if look.quiet else "m"
    return f'<g class="{kind}" data-name="{escape(name)}" data-family="{look.family}"{quiet}>'


def _mark(chart: Chart, spot: Spot, look: Look, r: float) -> str:
    path = marker(look.shape, chart.x(spot.clean), chart.y(spot.robust), r)
    return f'<path d="{path}" {_paint(look)}><title>{escape(spot.told)}</title></path>'


def _ring(chart: Chart, spot: Spot, look: Look) -> str:
    path = marker("o", chart.x(spot.clean), chart.y(spot.robust), 11)
    return f'<path d="{path}" fill="none" stroke="{look.colour}" stroke-width="2.2"/>'


def _cross(chart: Chart, spot: Spot, look: Look) -> str:
    if spot.ends is None:
        return ""
    x, y = chart.x(spot.clean), chart.y(spot.robust)
    left, right = chart.x(spot.ends[0]), chart.x(spot.ends[1])
    low, high = chart.y(spot.ends[2]), chart.y(spot.ends[3])
    path = f"M{left:.1f} {y:.1f}H{right:.1f}M{x:.1f} {low:.1f}V{high:.1f}"
    return (
        f'<path class="bar" d="{path}" stroke="{look.colour}" stroke-width="1.3" opacity="0.55"/>'
    )


def _line(chart: Chart, line: Sequence[Spot], look: Look) -> str:
    path = "M" + "L".join(f"{chart.x(s.clean):.1f} {chart.y(s.robust):.1f}" for s in line)
    dash = ' stroke-dasharray="7 4"' if look.hollow or look.quiet else ""
    width = "2.6" if line[0].name in MAIN else "1.5"
    return f'<path d="{path}" fill="none" stroke="{look.colour}" stroke-width="{width}"{dash}/>'


def _box(chart: Chart, spot: Spot) -> tuple[float, float, float, float]:
    x, y = chart.x(spot.clean), chart.y(spot.robust)
    return x - 7, y - 7, x + 7, y + 7


def _along(chart: Chart, line: Sequence[Spot]) -> list[tuple[float, float, float, float]]:
    """Boxes along a curve, so that no label covers it."""
    found = []
    for before, after in pairwise(line):
        for share in np.linspace(0, 1, 9):
            x = chart.x(before.clean + share * (after.clean - before.clean))
            y = chart.y(before.robust + share * (after.robust - before.robust))
            found.append((x - 3, y - 3, x + 3, y + 3))
    return found


def _clearest(curves: Mapping[str, Sequence[Spot]], name: str) -> Spot:
    """Where a curve is named: its point that is furthest from all other curves."""
    others = [s for other, line in curves.items() if other != name for s in line]

    def room(spot: Spot) -> float:
        gaps = [math.hypot(spot.clean - s.clean, spot.robust - s.robust) for s in others]
        return min(gaps, default=0.0)

    return max(curves[name], key=room)


def _names(
    chart: Chart, spots: Sequence[Spot], styles: Mapping[str, Look]
) -> list[tuple[str, str]]:
    """Write each name where there is room; the others are shown when they are pointed at."""
    made = []
    for spot in spots:
        x, y = chart.x(spot.clean), chart.y(spot.robust)
        found = None if styles[spot.name].quiet else chart.place(label(spot.name), x, y, FONT - 1)
        hidden = "" if found else ' display="none"'
        x, y, anchor = found or (x + 12, y - 10, "start")
        if not found and x > 0.7 * WIDTH:
            x, anchor = x - 24, "end"
        made.append(
            (
                spot.name,
                f'<text class="name ink" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
                f'fill="{INK}" font-size="{FONT - 1}" stroke="#ffffff" stroke-width="4" '
                f'paint-order="stroke"{hidden}>{escape(label(spot.name))}</text>',
            )
        )
    return made


def _lambdas(chart: Chart, lines: Mapping[str, Recorded], curves: Mapping[str, Any]) -> list[str]:
    """Write lambda at both ends of the curves, once where the ends of several curves meet."""
    made: list[str] = []
    there: list[tuple[str, float, float]] = []
    for name, record in lines.items():
        for at in (0, -1):
            spot, told = curves[name][at], f"λ = {record.rows[at]['lambda']:g}"
            x, y = chart.x(spot.clean), chart.y(spot.robust)
            if any(told == t and math.hypot(x - a, y - b) < SAME_PLACE for t, a, b in there):
                continue
            found = chart.place(told, x, y, FONT - 3)
            if found:
                there.append((told, x, y))
                made.append(text(told, *found, class_="soft", font_size=str(FONT - 3), fill=SOFT))
    return made
