"""Whole or not at all: every file and folder is written aside, flushed, then renamed."""

import contextlib
import csv
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pistole.errors import UserError

if TYPE_CHECKING:
    import torch


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Remove what a killed process left of this file or folder."""
    # Eight letters of tempfile, not any: those of NAME.EXTENSION may belong to a live process.
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Let an error of the disk name the final path, not the temporary one or none at all."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or temporary)
        if error.errno is not None and named.startswith(str(temporary)):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it into place only if the block succeeds.

    A leftover of a killed process has the name ``.NAME.*.part`` and is removed at the next call.

    Args:
        path: the final file.

    Yields:
        The temporary path to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _naming(path, temporary):
            yield temporary
            temporary.chmod(0o644)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it replaces ``path`` only if the block succeeds.

    A leftover of a killed process has the name ``.NAME.*.part`` and is removed at the next call.

    Args:
        path: the final folder.

    Yields:
        The temporary folder to fill.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    temporary.chmod(0o755)
    try:
        with _naming(path, temporary):
            yield temporary
            for item in sorted(temporary.rglob("*")):
                _sync(item)
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically.

    Args:
        path: the final file.
        text: its content.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as sorted, indented JSON, atomically.

    Args:
        path: the final file.
        value: anything ``json`` can write; NaN and infinity are refused.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table with a header line, atomically; None is an empty cell.

    Args:
        path: the final file.
        columns: the header.
        rows: cells by column.
    """
    with (
        atomic_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: str | Path, remedy: str | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        remedy: what to do if it is missing or broken, where running a stage is not it.

    Returns:
        Its value.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        mend = remedy or "run the stage that writes it"
        raise UserError(f"{path} does not exist: {mend}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}): {remedy or 'write it again'}") from None


def save_tensors(
    path: str | Path, tensors: "dict[str, torch.Tensor]", metadata: dict[str, Any] | None = None
) -> None:
    """Write tensors as safetensors with sorted keys and deterministic metadata, atomically.

    Args:
        path: the final file.
        tensors: name -> tensor, any shapes; moved to the CPU and made contiguous.
        metadata: JSON-able values, stored under one sorted key, so equal input gives equal bytes.
    """
    # Torch takes seconds to import, and most of what writes a file needs none of it.
    from safetensors.torch import save

    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    header = {"pistole": json.dumps(metadata or {}, sort_keys=True, allow_nan=False)}
    with atomic_file(path) as temporary:
        temporary.write_bytes(save(ordered, metadata=header))


def load_tensors(path: str | Path) -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
    """Read a safetensors file.

    Args:
        path: the file.

    Returns:
        The tensors by sorted name, and the metadata given to :func:`save_tensors` (else empty).

    Raises:
        UserError: the file is missing, a folder, a pickle, or truncated or otherwise not
            safetensors.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}: give the path of a safetensors file")
    if is_pickle(path):
        raise UserError(f"{path} is a pickle, which can run code: convert it to safetensors")
    try:
        with safe_open(path, framework="pt") as reader:
            header = json.loads((reader.metadata() or {}).get("pistole", "{}"))
            return {name: reader.get_tensor(name) for name in sorted(reader.keys())}, header
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is truncated or not safetensors ({error}): copy or write it again"
        ) from None


def is_pickle(path: str | Path) -> bool:
    """Tell whether a file looks like ``torch.save`` output (a zip or a raw pickle).

    Args:
        path: the file.

    Returns:
        True if its first bytes are those of a zip archive or of pickle protocol 2 or later, and do
        not tell the length of a safetensors header, which can look like the latter.
    """
    with Path(path).open("rb") as stream:
        head = stream.read(9)
        size = os.fstat(stream.fileno()).st_size
    if head[8:] == b"{" and 8 + int.from_bytes(head[:8], "little") <= size:
        return False
    return head[:4] == b"PK\x03\x04" or (len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5)


def sha256_file(path: str | Path) -> str:
    """Return the hex sha256 of a file's bytes.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tensors(tensors: "dict[str, torch.Tensor]") -> str:
    """Return a digest of named tensors: names, dtypes, shapes and bytes, in sorted order.

    Args:
        tensors: name -> tensor.

    Returns:
        64 hexadecimal digits.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
