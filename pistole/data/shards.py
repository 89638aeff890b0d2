"""Tar shards of labelled images, indexed by offset with the standard library's tarfile."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

from pistole.errors import UserError

IMAGE = {"png", "jpg", "jpeg", "webp"}
BLOCK = 512  # bytes; a tar ends with a block of zeros


@dataclass(frozen=True)
class Place:
    """Where a file lies inside a tar.

    Attributes:
        tar: the tar file.
        offset: first byte of the content.
        size: number of bytes.
    """

    tar: Path
    offset: int
    size: int

    @property
    def where(self) -> str:
        """Return the tar file."""
        return str(self.tar)

    def read(self) -> bytes:
        """Read the file.

        Returns:
            Its content.
        """
        with self.tar.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


@dataclass
class Sample:
    """One sample, possibly incomplete.

    Attributes:
        tar: the tar file where it was first seen.
        image: its image file.
        label: its ``.cls`` file.
    """

    tar: Path
    image: Place | None = None
    label: Place | None = None


def index_split(folder: Path, split: str) -> dict[str, Sample]:
    """Find every sample of a split without reading the images.

    Args:
        folder: holds ``nshards.txt`` and the tar files.
        split: its name, the first part of the sample ids.

    Returns:
        The samples by id, ``split/key``, in the order of the shards.

    Raises:
        UserError: a file is missing, truncated or surplus, a key occurs twice, or all is empty.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: the dataset needs the split {split!r}")
    count = folder / "nshards.txt"
    if not count.is_file() or not count.read_text().strip().isdecimal():
        raise UserError(f"{count} is missing or no number: write the number of tar files there")
    expected = [f"{shard}.tar" for shard in range(int(count.read_text()))]
    found = {path.name for path in folder.glob("*.tar")}
    if found != set(expected) or not expected:
        odd = min(found ^ set(expected), default="0.tar")
        raise UserError(
            f"{count} says {len(expected)} shards but {folder} holds {len(found)} tar files "
            f"(first mismatch {odd}): copy the missing ones or mend nshards.txt"
        )
    samples: dict[str, Sample] = {}
    for shard in expected:
        _index_tar(folder / shard, split, samples)
    if not samples:
        raise UserError(f"{folder} holds no samples: fill its tar files")
    return samples


def _index_tar(path: Path, split: str, samples: dict[str, Sample]) -> None:
    size, end = path.stat().st_size, 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                end = member.offset_data + member.size
                if member.isfile():
                    _add(samples, path, split, member)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path} is truncated or no tar ({error}): copy it again") from None
    if end + BLOCK > size:
        raise UserError(f"{path} is truncated after {size} bytes: copy it again")


def _add(samples: dict[str, Sample], tar: Path, split: str, member: tarfile.TarInfo) -> None:
    base, _, extension = Path(member.name).name.partition(".")
    extension = extension.lower()
    kind = "label" if extension == "cls" else "image" if extension in IMAGE else None
    if kind is None:
        return
    key = f"{split}/{base}"
    sample = samples.setdefault(key, Sample(tar))
    if getattr(sample, kind) is not None or sample.tar != tar:
        raise UserError(f"{tar}: sample {key} has two {kind}s: give each sample its own key")
    setattr(sample, kind, Place(tar, member.offset_data, member.size))


def image_of(key: str, sample: Sample) -> Place:
    """Tell where a sample's image lies.

    Args:
        key: its id, for the message.
        sample: the sample.

    Returns:
        The image file's place.

    Raises:
        UserError: it has none.
    """
    if sample.image is None:
        raise UserError(f"{sample.tar}: sample {key} has no image: add its .png, .jpg or .webp")
    return sample.image


def label_of(key: str, sample: Sample, classes: int) -> int:
    """Read and check a sample's label.

    Args:
        key: its id, for the message.
        sample: the sample.
        classes: number of class names.

    Returns:
        The label, from 0 to ``classes - 1``.

    Raises:
        UserError: it has none, or it is no number in that range.
    """
    if sample.label is None:
        raise UserError(f"{sample.tar}: sample {key} has no label: add its .cls")
    text = sample.label.read().decode("utf-8", "replace").strip()
    try:
        label = int(text)
    except ValueError:
        raise UserError(
            f"{sample.tar}: sample {key} has the label {text!r}: write a whole number"
        ) from None
    if not 0 <= label < classes:
        raise UserError(
            f"{sample.tar}: sample {key} has the label {label} but there are {classes} class "
            f"names (0 to {classes - 1}): mend the label or the names"
        )
    return label
