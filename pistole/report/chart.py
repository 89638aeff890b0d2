"""A chart as SVG text: scales, axes, markers and labels that do not cover each other.

Colours are attributes, so that a file opened alone is right on white; the page's style sheet
overrides them by class in the dark.
"""

import math
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 620, 540
LEFT, RIGHT, TOP, BOTTOM = 74, 18, 16, 66
FONT = 17  # px of a picture that is 620 wide: 8 px of text at half of that
INK, SOFT, LINE = "#1b1f24", "#59636e", "#e3e6ea"
LETTER = 0.56  # mean width of a letter over its height


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Choose round numbers in a range.

    Args:
        low: lower end.
        high: upper end, above ``low``.
        wanted: about how many.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten.
    """
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Scale:
    """From data to pixels.

    Attributes:
        low: at the first pixel.
        high: at the last pixel.
        start: first pixel.
        end: last pixel.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place a value.

        Args:
            value: in units of the data.

        Returns:
            Pixels.
        """
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass
class Chart:
    """The plane of two percentages, and what has been written on it.

    Attributes:
        x: clean accuracy, percent, to pixels.
        y: robust accuracy, percent, to pixels.
        taken: boxes of labels and markers: left, top, right, bottom.
    """

    x: Scale
    y: Scale
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def place(self, text: str, x: float, y: float, size: float = FONT) -> tuple | None:
        """Find a place beside a point where a label covers nothing.

        Args:
            text: the label.
            x: pixels.
            y: pixels.
            size: height of the letters, px.

        Returns:
            x, y and anchor of the text; None if all places are taken.
        """
        width = LETTER * size * len(text)
        for far in (12, 26, 42):
            for dx, dy, anchor in (
                (far, 0.35 * size, "start"),
                (-far, 0.35 * size, "end"),
                (0, -far, "middle"),
                (0, far + 0.7 * size, "middle"),
                (far, -far, "start"),
                (far, far + 0.7 * size, "start"),
                (-far, -far, "end"),
                (-far, far + 0.7 * size, "end"),
            ):
                at = x + dx - {"start": 0, "end": width, "middle": width / 2}[anchor]
                box = (at, y + dy - 0.8 * size, at + width, y + dy + 0.2 * size)
                inside = box[0] > LEFT and box[2] < WIDTH and box[1] > TOP and box[3] < self.y.start
                if inside and not any(_touch(box, other) for other in self.taken):
                    self.taken.append(box)
                    return x + dx, y + dy, anchor
        return None


def _touch(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def chart_over(clean: list[float], robust: list[float]) -> Chart:
    """Make a chart that holds all values with a margin.

    Args:
        clean: percent.
        robust: percent.

    Returns:
        The chart.
    """

    def ends(values: list[float]) -> tuple[float, float]:
        low, high = min(values), max(values)
        margin = 0.08 * max(high - low, 5)
        return max(low - margin, -1.5), min(high + margin, 101.5)

    across, up = ends(clean), ends(robust)
    return Chart(Scale(*across, LEFT, WIDTH - RIGHT), Scale(*up, HEIGHT - BOTTOM, TOP))


def frame(chart: Chart, across: str, up: str) -> list[str]:
    """Draw grid, axes, lines of equal Sum, ticks and names of the axes.

    Args:
        chart: the chart.
        across: what x is.
        up: what y is.

    Returns:
        SVG elements.
    """
    x, y = chart.x, chart.y
    made = [f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    made += [f'<g class="grid" stroke="{LINE}">']
    made += [_line(x(v), y.start, x(v), y.end) for v in ticks(x.low, x.high)]
    made += [_line(x.start, y(v), x.end, y(v)) for v in ticks(y.low, y.high)]
    made += ["</g>", *_equal_sums(chart)]
    made += [f'<g class="axis" stroke="{SOFT}">']
    made += [_line(x.start, y.start, x.end, y.start), _line(x.start, y.start, x.start, y.end)]
    made += ["</g>", f'<g class="soft" fill="{SOFT}" font-size="{FONT}">']
    made += [text(f"{v:g}", x(v), y.start + 1.3 * FONT, "middle") for v in ticks(x.low, x.high)]
    made += [text(f"{v:g}", x.start - 8, y(v) + 0.35 * FONT, "end") for v in ticks(y.low, y.high)]
    middle = (y.start + y.end) / 2
    made += [
        "</g>",
        f'<g class="ink" fill="{INK}" font-size="{FONT + 1}">',
        text(across, (x.start + x.end) / 2, HEIGHT - 14, "middle"),
        f'<text transform="translate(20 {middle:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(up)}</text>",
        "</g>",
    ]
    return made


def _equal_sums(chart: Chart) -> list[str]:
    """Dotted lines on which clean plus robust is the same, cut at the axes."""
    x, y, told = chart.x, chart.y, []
    made = [f'<g class="sums" stroke="{SOFT}" stroke-dasharray="1 5" opacity="0.75">']
    for total in ticks(x.low + y.low, x.high + y.high, 5):
        left, right = max(x.low, total - y.high), min(x.high, total - y.low)
        if right - left > 0.1 * (x.high - x.low):  # no stubs in the corners
            made.append(_line(x(left), y(total - left), x(right), y(total - right)))
            word, at, base = f"Sum {total:g}", x(right) - 4, y(total - right) - 5
            told.append(text(word, at, base, "end"))
            width = LETTER * (FONT - 4) * len(word)
            chart.taken.append((at - width, base - FONT + 4, at, base + 3))
    small = f'<g class="soft" fill="{SOFT}" font-size="{FONT - 4}" opacity="0.9">'
    return [*made, "</g>", small, *told, "</g>"]


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def text(content: str, x: float, y: float, anchor: str, **attributes: str) -> str:
    """Write a text.

    Args:
        content: what.
        x: pixels.
        y: pixels, of the base line.
        anchor: ``start``, ``middle`` or ``end``.
        **attributes: further ones, with _ for -; ``class_`` is class.

    Returns:
        An SVG element.
    """
    more = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(content)}</text>'


def marker(shape: str, x: float, y: float, r: float) -> str:
    """Return the outline of a marker.

    Args:
        shape: matplotlib's letter for it.
        x: pixels.
        y: pixels.
        r: half of its size, px.

    Returns:
        Path data.
    """
    if shape in ("1", "2", "3", "x"):  # strokes
        turn = {"1": 90, "2": -90, "3": 180, "x": 45}[shape]
        arms = 4 if shape == "x" else 3
        ends = [_polar(x, y, r, turn + 360 * i / arms) for i in range(arms)]
        return "".join(f"M{x:.1f} {y:.1f}L{a:.1f} {b:.1f}" for a, b in ends)
    if shape in ("+", "P"):
        return f"M{x - r:.1f} {y:.1f}H{x + r:.1f}M{x:.1f} {y - r:.1f}V{y + r:.1f}"
    if shape == "o":
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    corners = {
        "s": [(45 + 90 * i, 1.2) for i in range(4)],
        "D": [(90 * i, 1.3) for i in range(4)],
        "d": [(90 * i, 1.3 if i % 2 else 0.8) for i in range(4)],
        "^": [(-90 + 120 * i, 1.25) for i in range(3)],
        "v": [(90 + 120 * i, 1.25) for i in range(3)],
        "<": [(180 + 120 * i, 1.25) for i in range(3)],
        ">": [(120 * i, 1.25) for i in range(3)],
        "p": [(-90 + 72 * i, 1.15) for i in range(5)],
        "h": [(-90 + 60 * i, 1.15) for i in range(6)],
        "*": [(-90 + 36 * i, 0.55 if i % 2 else 1.35) for i in range(10)],
        "X": [(45 * i, 0.5 if i % 2 == 0 else 1.3) for i in range(8)],
    }[shape]
    ends = [_polar(x, y, r * share, angle) for angle, share in corners]
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in ends) + "z"


def _polar(x: float, y: float, r: float, degrees: float) -> tuple[float, float]:
    return x + r * math.cos(math.radians(degrees)), y + r * math.sin(math.radians(degrees))
