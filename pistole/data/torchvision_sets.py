"""Reader of torchvision's datasets: taken from the disk, downloaded only if they are not there."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pistole.data.dataset import Task
from pistole.data.images import ImageSplit
from pistole.data.prompts import classes_of, templates_of
from pistole.data.registry import TorchvisionEntry, registry
from pistole.data.source import Source
from pistole.errors import UserError
from pistole.progress import say

LABELS = ("targets", "labels", "_labels", "y")  # where its classes keep them


@dataclass(frozen=True)
class Item:
    """One image of a torchvision dataset.

    Attributes:
        dataset: the dataset.
        index: position in it.
        where: the dataset in words.
    """

    dataset: Any
    index: int
    where: str

    def read(self) -> bytes:
        """Read the image.

        Returns:
            Its pixels as PPM: torchvision gives no files, only decoded images.
        """
        image = self.dataset[self.index][0].convert("RGB")
        return f"P6 {image.width} {image.height} 255\n".encode() + image.tobytes()


@dataclass(frozen=True)
class TorchvisionTask(Task):
    """A dataset of torchvision.

    Attributes:
        source: where it is.
        entry: how it is opened.
    """

    source: Source
    entry: TorchvisionEntry

    def split(self, name: str) -> ImageSplit:
        """Open one split.

        Args:
            name: ``train`` or ``test``.

        Returns:
            The split; its labels are read, its images are not.

        Raises:
            UserError: torchvision has no such split, or cannot open it, or a label names no class.
        """
        dataset = _construct(self.source, self.entry, name)
        labels = [int(label) for label in _labels(dataset)]
        wrong = [i for i, label in enumerate(labels) if not 0 <= label < len(self.classnames)]
        if wrong:
            raise UserError(
                f"{self.name}: image {wrong[0]} has the label {labels[wrong[0]]} but there are "
                f"{len(self.classnames)} class names: mend the files in {self.source.root}"
            )
        where = f"torchvision's {self.entry.cls} in {self.source.root}"
        places = [Item(dataset, i, where) for i in range(len(labels))]
        ids = [f"{name}/{i:07d}" for i in range(len(labels))]
        return ImageSplit(ids, labels, self.source.resolution, places)


def open_torchvision(source: Source) -> TorchvisionTask:
    """Open a dataset of torchvision.

    Args:
        source: ``root`` is what torchvision's class takes; files that are absent are downloaded.

    Returns:
        The task.

    Raises:
        UserError: torchvision does not know the dataset or cannot open it, or its classes are not
            those of the class list.
    """
    from pathlib import Path

    known = {name: one.torchvision for name, one in registry().items() if one.torchvision}
    entry = known.get(source.name)
    if entry is None:
        raise UserError(
            f"dataset {source.name!r} with layout torchvision: choose one of {', '.join(known)}"
        )
    own = None
    if entry.own is not None:
        own = [str(one) for one in getattr(_construct(source, entry, "test"), entry.own)]
    names = Path(source.names) if source.names else None
    what = f"torchvision's {entry.cls} in {source.root}"
    classnames = classes_of(source.name, names, own, what)
    templates = templates_of(source.name, names, source.templates)
    return TorchvisionTask(source.name, list(classnames), templates, source, entry)


def _construct(source: Source, entry: TorchvisionEntry, split: str) -> Any:
    arguments = entry.train if split == "train" else entry.test
    if arguments is None:
        raise UserError(
            f"torchvision's {entry.cls} has no training split: fine-tune on another dataset, or "
            f"bring {source.name} in another layout"
        )
    import torchvision.datasets

    make = getattr(torchvision.datasets, entry.cls)
    try:
        return make(source.root, **arguments)
    except (RuntimeError, OSError):
        pass  # absent, or not whole: torchvision's own check after a download says which
    say(f"{source.name}: torchvision's {entry.cls} is not in {source.root}: downloading it")
    fetch = {} if entry.cls == "ImageNet" else {"download": True}
    try:
        with _silent_stdout():
            return make(source.root, **arguments, **fetch)
    except (RuntimeError, OSError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"torchvision's {entry.cls} is not in {source.root} and cannot be fetched ({reason}): "
            f"copy its files there, or set data.sources.{source.name} to another layout"
        ) from None


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    with contextlib.redirect_stdout(sys.stderr):  # a command's own output is for programs
        yield


def _labels(dataset: Any) -> Any:
    for name in LABELS:
        found = getattr(dataset, name, None)
        if found is not None and len(found) == len(dataset):
            return found
    samples = getattr(dataset, "_samples", None)  # Stanford Cars: pairs of path and label
    if samples is not None and len(samples) == len(dataset):
        return [label for _, label in samples]
    return [dataset[i][1] for i in range(len(dataset))]
