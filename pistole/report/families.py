"""Kinds of rows, for filters, and how each row looks in a chart."""

from collections.abc import Iterable
from dataclasses import dataclass

from pistole.params.methods import OFFICIAL
from pistole.report.drawing import (
    BLUE,
    BROWN,
    COLOURS,
    GREEN,
    MARKERS,
    ORANGE,
    PINK,
    PURPLE,
    SKY,
    VERMILION,
)
from pistole.report.tables import ABLATION, CONTROLS

SOURCES, SIMPLE = ("base", "natural", "robust"), ("wise_ft", "vanilla", "uniform_soup")
FAMILIES = {  # in the order of the filter
    "sources": "Base and sources",
    "simple": "Plain merges",
    "pistole": "PISTOLE and its ablation",
    "tuned": "Merging methods, tuned",
    "official": "Merging methods, official settings",
    "controls": "Controls",
}
QUIET = ("controls", "official")  # drawn paler: there are many, and they are not the question
PALETTE = (BLUE, GREEN, PURPLE, BROWN, PINK, SKY, ORANGE, VERMILION)
SHAPES = ("h", "<", "p", ">", "d", "*", "X")  # not those of base, sources and plain merges


@dataclass(frozen=True)
class Look:
    """How a row is drawn.

    Attributes:
        colour: of line and marker.
        shape: marker, by matplotlib's letter.
        hollow: whether the marker is not filled.
        family: a key of :data:`FAMILIES`.
    """

    colour: str
    shape: str
    hollow: bool
    family: str

    @property
    def quiet(self) -> bool:
        """Whether it is drawn paler."""
        return self.family in QUIET


def family(name: str) -> str:
    """Tell which kind of row a model is.

    Args:
        name: its key.

    Returns:
        A key of :data:`FAMILIES`.
    """
    if name in SOURCES:
        return "sources"
    if name in SIMPLE:
        return "simple"
    if name in ABLATION:
        return "pistole"
    if name in CONTROLS:
        return "controls"
    return "official" if name.endswith(OFFICIAL) else "tuned"


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Choose colour and shape of every row; a method looks alike tuned (filled) and not (hollow).

    Args:
        names: all rows and curves.

    Returns:
        name -> look.
    """
    names = list(names)
    stems = dict.fromkeys(n.removesuffix(OFFICIAL) for n in names)
    spare = [stem for stem in stems if stem not in COLOURS]
    return {
        name: Look(
            colour=COLOURS.get(stem) or PALETTE[spare.index(stem) % len(PALETTE)],
            shape=MARKERS.get(stem) or SHAPES[spare.index(stem) % len(SHAPES)],
            hollow=name.endswith(OFFICIAL),
            family=family(name),
        )
        for name, stem in ((n, n.removesuffix(OFFICIAL)) for n in names)
    }
