"""The datasets of the paper, of TeCoA and of PMG, by name (docs/data.md)."""

import functools
import json
from dataclasses import dataclass
from typing import Any

from pistole.data.names import ASSETS, ClassList, class_list, provenance, template_list

SUITES = ("paper", "tecoa", "pmg")


@dataclass(frozen=True)
class TorchvisionEntry:
    """How torchvision opens a dataset.

    Attributes:
        cls: class in ``torchvision.datasets``.
        train: its arguments for the training split; None: it has none.
        test: its arguments for the test split.
        own: attribute with the classes' names; None: it has none.
        images: number of test images.
    """

    cls: str
    train: dict[str, Any] | None
    test: dict[str, Any]
    own: str | None
    images: int


@dataclass(frozen=True)
class Registered:
    """A dataset that papers report on.

    Attributes:
        name: its name in ``datasets``.
        title: its name in words.
        suites: part of ``SUITES``: whose table has it.
        test: number of images that these tables are measured on.
        resolution: side of the images under attack, px (docs/data.md).
        metric: what the tables report.
        lists: names of its class lists; the first is that of the tables.
        templates: name of its template list.
        clip_benchmark: its name in CLIP_benchmark, if it is there.
        torchvision: how torchvision opens it, if it does.
    """

    name: str
    title: str
    suites: tuple[str, ...]
    test: int
    resolution: int
    metric: str
    lists: tuple[str, ...]
    templates: str
    clip_benchmark: str | None
    torchvision: TorchvisionEntry | None

    @property
    def classes(self) -> int:
        """Return the number of classes in the tables."""
        return _lines_of(f"classes/{self.lists[0]}")

    @property
    def template_count(self) -> int:
        """Return the number of templates of the ensemble."""
        return 1 if self.templates == "single" else _lines_of(f"templates/{self.templates}")

    def class_lists(self) -> list[ClassList]:
        """Return its class lists.

        Returns:
            The lists, compared with their digests.
        """
        return [class_list(name) for name in self.lists]

    def prompts(self) -> list[str]:
        """Return its templates.

        Returns:
            Sentences with ``{c}`` for the class name.
        """
        return list(template_list(self.templates))


@functools.cache
def registry() -> dict[str, Registered]:
    """Return every registered dataset by name.

    Returns:
        In the order of the paper's table, then the others.
    """
    raw = json.loads((ASSETS / "datasets.json").read_text(encoding="utf-8"))
    return {name: _registered(name, entry) for name, entry in raw.items()}


def _registered(name: str, entry: dict[str, Any]) -> Registered:
    known = entry["torchvision"]
    return Registered(
        name=name,
        title=entry["title"],
        suites=tuple(entry["suites"]),
        test=entry["test"],
        resolution=entry["resolution"],
        metric=entry["metric"],
        lists=tuple(entry["classes"]),
        templates=entry["templates"],
        clip_benchmark=entry["clip_benchmark"],
        torchvision=known
        and TorchvisionEntry(
            known["class"], known["train"], known["test"], known["own"], known["images"]
        ),
    )


def _lines_of(name: str) -> int:
    known = provenance()["lists"]
    return next(known[key]["lines"] for key in (name, f"{name}.tsv", f"{name}.txt") if key in known)
