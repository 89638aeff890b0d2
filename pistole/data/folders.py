"""Reader of image folders: ``train/CLASS/FILE`` and ``test/CLASS/FILE`` (or ``val``)."""

from dataclasses import dataclass
from pathlib import Path

from pistole.data.dataset import Task
from pistole.data.images import ImageSplit
from pistole.data.prompts import classes_of, templates_of
from pistole.data.source import Source
from pistole.errors import UserError

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
FOLDERS = {"train": ("train",), "test": ("test", "val", "validation", "valid")}


@dataclass(frozen=True)
class FilePlace:
    """An image file.

    Attributes:
        path: the file.
    """

    path: Path

    @property
    def where(self) -> str:
        """Return the file's folder."""
        return str(self.path.parent)

    def read(self) -> bytes:
        """Read the file.

        Returns:
            Its content.
        """
        return self.path.read_bytes()


@dataclass(frozen=True)
class FolderTask(Task):
    """A folder of class folders.

    Attributes:
        root: the folder.
        own: the class folders' names, by label.
        resolution: side in px that images are resized and cropped to; None: as stored.
    """

    root: Path
    own: list[str]
    resolution: int | None

    def split(self, name: str) -> ImageSplit:
        """List one split.

        Args:
            name: ``train`` or ``test``.

        Returns:
            The split, class by class; its images are not yet read.

        Raises:
            UserError: it is missing or has no images, or its class folders are not those of the
                test split.
        """
        folder = _split_folder(self.root, name)
        if folder is None:
            raise UserError(f"{self.root / name} does not exist: the dataset needs this split")
        found = _class_folders(folder)
        odd = sorted(set(found) ^ set(self.own))
        if odd:
            has = "a" if odd[0] in found else "no"
            raise UserError(
                f"{folder} has {has} class folder {odd[0]}, unlike the dataset's class list: "
                "every split needs the same class folders"
            )
        ids, labels, places = [], [], []
        for label, own in enumerate(self.own):
            for path in _images(folder / own):
                ids.append(f"{name}/{path.relative_to(folder).as_posix()}")
                labels.append(label)
                places.append(FilePlace(path))
        if not ids:
            raise UserError(f"{folder} holds no images: fill its class folders")
        return ImageSplit(ids, labels, self.resolution, places)


def open_folder(source: Source) -> FolderTask:
    """Open a folder of images.

    Args:
        source: what to open. A folder without ``train`` and ``test`` is the test split itself.

    Returns:
        The task; its classes are the sorted class folders of the test split.

    Raises:
        UserError: the folder is missing or has no class folders, or they are not those of the
            class list.
    """
    root = Path(source.root)
    if not root.is_dir():
        raise UserError(f"{root} does not exist: mend data.root or the dataset's name")
    folder = _split_folder(root, "test")
    own = _class_folders(folder) if folder else []
    if not own:
        raise UserError(f"{root} has no class folders in test or val: put images in CLASS/FILE")
    beside = Path(source.names or root)
    names = classes_of(source.name, beside, own, str(folder))
    templates = templates_of(source.name, beside, source.templates)
    return FolderTask(source.name, list(names), templates, root, own, source.resolution)


def _split_folder(root: Path, split: str) -> Path | None:
    found = [root / name for name in FOLDERS[split] if (root / name).is_dir()]
    if not found and split == "test" and not (root / "train").is_dir():
        return root  # as the archives of ImageNet-R and ImageNet-Sketch are
    return found[0] if found else None


def _class_folders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
