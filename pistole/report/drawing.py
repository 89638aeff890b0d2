"""What all figures share: a fixed style, colours that colour-blind readers tell apart, SVG text."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import matplotlib.style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY = "#AA4499", "#56B4E9", "#555555"
PINK, BROWN = "#CC79A7", "#7A5C2E"
COLOURS = {
    "wise_ft": ORANGE,
    "vanilla": BLUE,
    "gism": SKY,
    "gism_pci": PINK,
    "gism_apt": BROWN,
    "pistole": VERMILION,
    "wise_ft_matched": "#A67C00",
    "uniform_shrink": "#777777",
    "permuted_mask_1": "#999999",
    "permuted_mask_2": "#999999",
    "permuted_mask_3": "#999999",
    "self_mask": "#6A7A2B",
    "magnitude_mask": "#3D7A7A",
    "random_score": "#B0A0C0",
    "zero_nat": "#444444",
    "base": "#111111",
    "natural": GREEN,
    "robust": PURPLE,
}
MARKERS = {
    "wise_ft": "s",
    "vanilla": "o",
    "gism": "X",
    "gism_pci": "*",
    "gism_apt": "h",
    "pistole": "D",
    "wise_ft_matched": "p",
    "uniform_shrink": "d",
    "permuted_mask_1": "1",
    "permuted_mask_2": "2",
    "permuted_mask_3": "3",
    "self_mask": "<",
    "magnitude_mask": ">",
    "random_score": "x",
    "zero_nat": "+",
    "base": "P",
    "natural": "^",
    "robust": "v",
}
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "svg.hashsalt": "pistole",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the same style whatever the user's matplotlibrc says.

    Yields:
        Nothing.
    """
    with matplotlib.style.context(["default", STYLE]):
        yield


def figure(width: float, height: float) -> Figure:
    """Make an empty figure outside pyplot's global state.

    Args:
        width: in inches.
        height: in inches.

    Returns:
        The figure.
    """
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(made)
    return made


def svg(made: Figure) -> str:
    """Render a figure.

    Args:
        made: the figure.

    Returns:
        An SVG document without date or version, so that equal figures have equal bytes.
    """
    stream = io.StringIO()
    made.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def legend_above(made: Figure, handles: Mapping[str, object], columns: int) -> None:
    """Put a legend above the axes, where it hides no data.

    Args:
        made: the figure.
        handles: label -> what it stands for.
        columns: entries per line.
    """
    made.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=columns,
        handlelength=2.2,
        columnspacing=1.4,
    )
