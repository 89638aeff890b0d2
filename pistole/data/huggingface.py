"""Reader of Hugging Face datasets: a name on the hub, a folder of files, or a saved dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pistole.data.dataset import Task
from pistole.data.images import ImageSplit
from pistole.data.prompts import classes_of, templates_of
from pistole.data.registry import registry
from pistole.data.source import Source
from pistole.errors import UserError

SPLITS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}


@dataclass(frozen=True)
class Cell:
    """One image of a dataset.

    Attributes:
        rows: the dataset, images left encoded.
        column: its image column.
        index: the row.
        where: the dataset in words.
    """

    rows: Any
    column: str
    index: int
    where: str

    def read(self) -> bytes:
        """Read the image.

        Returns:
            The content of its file.
        """
        cell = self.rows[self.index][self.column]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


@dataclass(frozen=True)
class HuggingfaceTask(Task):
    """A dataset of Hugging Face.

    Attributes:
        source: where it is.
        splits: its splits, by their own names.
        image: its image column.
        label: its label column.
    """

    source: Source
    splits: Any
    image: str
    label: str

    def split(self, name: str) -> ImageSplit:
        """Open one split.

        Args:
            name: ``train`` or ``test``; a dataset without ``test`` gives its validation split.

        Returns:
            The split; its labels are read, its images are not.
        """
        own, labels = _labelled(self.splits, name, self.label, self.source)
        rows = self.splits[own].select_columns([self.image])
        where = f"{self.source.root} ({own})"
        places = [Cell(rows, self.image, i, where) for i in range(len(labels))]
        ids = [f"{name}/{i:07d}" for i in range(len(labels))]
        return ImageSplit(ids, labels, self.source.resolution, places)


def open_huggingface(source: Source) -> HuggingfaceTask:
    """Open a dataset of Hugging Face.

    Args:
        source: ``root`` is ``OWNER/NAME`` or ``OWNER/NAME:CONFIG`` on the hub, a folder that
            ``save_to_disk`` wrote, or a folder of files that ``load_dataset`` reads.

    Returns:
        The task.

    Raises:
        UserError: the package ``datasets`` is missing, the dataset cannot be opened, or it has not
            one image and one label column, or other classes than the class list.
    """
    splits = _load(source)
    features = next(iter(splits.values())).features
    image = _column(features, "Image", source)
    label = _column(features, "ClassLabel", source)
    own, names = features[label].names, Path(source.names) if source.names else None
    classnames = classes_of(source.name, names, own, source.root)
    templates = templates_of(source.name, names, source.templates)
    return HuggingfaceTask(source.name, list(classnames), templates, source, splits, image, label)


def _load(source: Source) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"data.sources.{source.name} with layout huggingface needs the package datasets: "
            "pip install 'pistole[huggingface]'"
        ) from None
    root = Path(source.root)
    try:
        saved = [root / name for name in ("dataset_dict.json", "state.json")]
        if any(path.is_file() for path in saved):
            found = datasets.load_from_disk(str(root))
        else:
            hub, _, config = source.root.partition(":")
            found = datasets.load_dataset(hub, config or None)
    except Exception as error:  # the package has no error class of its own
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise UserError(
            f"{source.root} cannot be opened by the package datasets ({reason}): mend "
            f"data.sources.{source.name}.root"
        ) from None
    splits = found if isinstance(found, dict) else {"test": found}
    return {
        name: rows.cast_column(column, datasets.Image(decode=False))
        for name, rows in splits.items()
        for column in [_column(rows.features, "Image", source)]
    }


def _column(features: Any, kind: str, source: Source) -> str:
    found = [name for name, one in features.items() if type(one).__name__ == kind]
    if len(found) > 1 and kind == "ClassLabel" and source.name in registry():
        classes = registry()[source.name].classes  # as CIFAR-100, with coarse labels beside
        found = [name for name in found if len(features[name].names) == classes]
    if len(found) != 1:
        listed = ", ".join(features)
        raise UserError(
            f"{source.root} has {len(found)} columns of type {kind} (columns: {listed}): give a "
            "dataset with one image and one label column"
        )
    return found[0]


def _labelled(splits: Any, name: str, label: str, source: Source) -> tuple[str, Sequence[int]]:
    for own in SPLITS[name]:
        labels = [int(one) for one in splits[own][label]] if own in splits else []
        if any(one >= 0 for one in labels):  # a test split whose labels are withheld has -1
            return own, labels
    raise UserError(
        f"{source.root} has no labelled split {' or '.join(SPLITS[name])} (has "
        f"{', '.join(splits)}): choose another dataset"
    )
