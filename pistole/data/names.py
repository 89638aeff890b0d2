"""Class names and templates: lists in the package with a digest, or files beside the data.

A class list has one class per line, in the order of the labels: its name for prompts, or, where
the data calls it otherwise, ``OWN<tab>NAME`` (``n01443537<tab>goldfish``).
"""

import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pistole.errors import UserError

ASSETS = Path(__file__).parent / "assets"
CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
SINGLE = "This is a photo of a {c}"  # TeCoA, PMG, TGA (docs/method.md D.1)


class ClassList(NamedTuple):
    """Classes in the order of the labels.

    Attributes:
        own: what the data calls each class.
        names: what prompts call it.
    """

    own: tuple[str, ...]
    names: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the lines of its file.

        Returns:
            ``NAME``, or ``OWN<tab>NAME`` where they differ.
        """
        pairs = zip(self.own, self.names, strict=True)
        return [name if own == name else f"{own}\t{name}" for own, name in pairs]


@functools.cache
def provenance() -> dict:
    """Read where the package's lists come from.

    Returns:
        ``packages``, with versions, licences and digests, and ``lists``.
    """
    return json.loads((ASSETS / "provenance.json").read_text(encoding="utf-8"))


@functools.cache
def class_list(name: str) -> ClassList:
    """Return a class list of the package.

    Args:
        name: such as ``cifar10``.

    Returns:
        The list, compared with its digest.
    """
    if name in ("imagenet", "imagenet_r"):
        found = _imagenet(None if name == "imagenet" else _wordnet_ids("imagenet_r_synsets"))
        return _parsed(_checked(f"classes/{name}", found.lines()))
    return _parsed(_checked(f"classes/{name}.tsv"))


@functools.cache
def template_list(name: str) -> tuple[str, ...]:
    """Return a template list of the package.

    Args:
        name: such as ``cifar10``; ``single`` is the one that TeCoA uses.

    Returns:
        Sentences in which ``{c}`` stands for the class name, compared with their digest.
    """
    if name == "single":
        return (SINGLE,)
    if name == "imagenet":
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

        sentences = [sentence("{c}") for sentence in OPENAI_IMAGENET_TEMPLATES]
        return tuple(_checked("templates/imagenet", sentences))
    return tuple(_checked(f"templates/{name}.txt"))


def read_class_list(path: Path) -> ClassList:
    """Read a class list beside the data.

    Args:
        path: a text file.

    Returns:
        The list.
    """
    return _parsed(_lines(path, "class name"))


def read_templates(path: Path) -> list[str]:
    """Read templates beside the data.

    Args:
        path: a text file with one per line.

    Returns:
        Sentences in which ``{c}`` stands for the class name.

    Raises:
        UserError: the file is missing or empty, or a template lacks ``{c}``.
    """
    templates = _lines(path, "template")
    for template in templates:
        if "{c}" not in template:
            raise UserError(
                f"{path}: template {template!r} lacks {{c}}, the place of the class name"
            )
    return templates


def first_difference(listed: Sequence[str], own: Sequence[str]) -> int | None:
    """Compare a class list with the classes that the data itself names.

    Args:
        listed: what the list says that the data calls each class.
        own: what it calls them; capitals and punctuation count for nothing.

    Returns:
        The first label at which they differ; None if they agree.
    """
    for label in range(max(len(listed), len(own))):
        if label >= min(len(listed), len(own)) or not _same(listed[label], own[label]):
            return label
    return None


def require_order(lists: Sequence[ClassList], own: Sequence[str], what: str) -> ClassList:
    """Choose the class list whose order is that of the data.

    Args:
        lists: the lists to choose from; the first is the one that a refusal speaks of.
        own: what the data calls its classes, by label.
        what: the data, for the message.

    Returns:
        The first list that agrees.

    Raises:
        UserError: none agrees; names the first class that differs.
    """
    for one in lists:
        if first_difference(one.own, own) is None or first_difference(one.names, own) is None:
            return one
    nearest = next((one for one in lists if len(one.own) == len(own)), lists[0])
    label = first_difference(nearest.own, own) or 0
    here = repr(own[label]) if label < len(own) else "missing"
    there = repr(nearest.own[label]) if label < len(nearest.own) else "nothing"
    raise UserError(
        f"{what} has {len(own)} classes, its class list {len(nearest.own)}: class {label} is "
        f"{here} but the list says {there}: mend the data, or give your own "
        f"{CLASSNAMES} (a line per class, in this order: OWN<tab>NAME)"
    )


def readable(own: str) -> str:
    """Turn a folder's name into words.

    Args:
        own: such as ``aquarium_fish``.

    Returns:
        Such as ``aquarium fish``.
    """
    return " ".join(own.replace("_", " ").split())


def _same(one: str, other: str) -> bool:
    return one == other or _plain(one) == _plain(other) != ""


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def _parsed(lines: Sequence[str]) -> ClassList:
    pairs = [line.split("\t") if "\t" in line else [line, line] for line in lines]
    return ClassList(tuple(pair[0] for pair in pairs), tuple(pair[-1] for pair in pairs))


def _checked(name: str, lines: list[str] | None = None) -> list[str]:
    """Compare a list, by default the file of that name, with its digest in provenance.json."""
    known = provenance()["lists"][name]
    content = (
        (ASSETS / name).read_bytes() if lines is None else "".join(f"{x}\n" for x in lines).encode()
    )
    if hashlib.sha256(content).hexdigest() != known["sha256"]:
        raise UserError(
            f"{name} ({known['from']}) is not the list that its digest names: install the package "
            "again, with the versions of envs/"
        )
    return content.decode().splitlines()


def _imagenet(only: set[str] | None) -> ClassList:
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    ids = sorted(_wordnet_ids("imagenet_synsets"))
    pairs = [
        pair
        for pair in zip(ids, IMAGENET_CLASSNAMES, strict=True)
        if only is None or pair[0] in only
    ]
    return ClassList(tuple(own for own, _ in pairs), tuple(name for _, name in pairs))


def _wordnet_ids(name: str) -> set[str]:
    # Read as a file: to import timm takes seconds.
    package = importlib.util.find_spec("timm")
    folder = Path(str(package and package.origin)).parent / "data" / "_info"
    return set((folder / f"{name}.txt").read_text(encoding="utf-8").split())


def _lines(path: Path, what: str) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: write one {what} per line")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    if not lines or not all(lines):
        raise UserError(f"{path} is empty or has an empty line: write one {what} per line")
    return lines
