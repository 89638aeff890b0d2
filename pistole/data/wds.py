"""Reader of CLIP_benchmark's webdataset layout.

``classnames.txt``, ``zeroshot_classification_templates.txt``, and per split ``nshards.txt`` and
``0.tar``, ``1.tar``, ... with samples ``KEY.cls`` and ``KEY.png`` (or .jpg, .jpeg, .webp).
"""

from dataclasses import dataclass, replace
from pathlib import Path

from pistole.data.dataset import Task
from pistole.data.images import ImageSplit
from pistole.data.prompts import classes_of, templates_of
from pistole.data.remote import cache_of, fetch_names, fetch_split
from pistole.data.shards import image_of, index_split, label_of
from pistole.data.source import Source
from pistole.errors import UserError


@dataclass(frozen=True)
class WdsTask(Task):
    """A dataset folder.

    Attributes:
        root: the folder.
        resolution: side in px that images are resized and cropped to; None: as stored.
    """

    root: Path
    resolution: int | None

    def split(self, name: str) -> ImageSplit:
        """Index one split.

        Args:
            name: such as ``train`` or ``test``.

        Returns:
            The split; its labels are checked, its images are not yet read.
        """
        samples = index_split(self.root / name, name)
        count = len(self.classnames)
        labels = [label_of(key, sample, count) for key, sample in samples.items()]
        places = [image_of(key, sample) for key, sample in samples.items()]
        return ImageSplit(list(samples), labels, self.resolution, places)


def open_wds(source: Source) -> WdsTask:
    """Open a dataset folder.

    Args:
        source: what to open.

    Returns:
        The task.

    Raises:
        UserError: the folder is missing, or has no class names or no usable templates.
    """
    root = Path(source.root)
    if not root.is_dir():
        raise UserError(f"{root} does not exist: mend data.root or the dataset's name")
    folder = Path(source.names or root)
    templates = templates_of(source.name, folder, source.templates)
    classnames = classes_of(source.name, folder, None, str(root))
    return WdsTask(source.name, list(classnames), templates, root, source.resolution)


@dataclass(frozen=True)
class RemoteTask(Task):
    """A dataset folder at a URL.

    Attributes:
        source: where it is.
    """

    source: Source

    def split(self, name: str) -> ImageSplit:
        """Bring one split into the cache and index it there.

        Args:
            name: such as ``train`` or ``test``.

        Returns:
            The split.
        """
        folder = fetch_split(self.source, name)
        task = WdsTask(self.name, self.classnames, self.templates, folder, self.source.resolution)
        return task.split(name)


def open_remote(source: Source) -> RemoteTask:
    """Open a dataset folder at a URL.

    Args:
        source: what to open. A registered dataset gets the registry's class names and templates;
            those of another one are fetched, which is said.

    Returns:
        The task.
    """
    cache = cache_of(source.root.rstrip("/"))
    fetch_names(source)
    local = open_wds(replace(source, root=str(cache)))
    return RemoteTask(source.name, local.classnames, local.templates, source)
