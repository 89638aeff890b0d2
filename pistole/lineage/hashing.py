"""Content hashes equal to DVC 3's, and the key of a stage's inputs."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec

from pistole.errors import UserError

ALWAYS_IGNORED = (".git/", ".git", ".hg/", ".dvc/")


def md5_file(path: str | Path) -> str:
    """Return the hex md5 of a file's bytes.

    Args:
        path: the file.

    Returns:
        32 hexadecimal digits.
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, _md5).hexdigest()


def md5_path(root: str | Path, path: str, md5_of: Callable[[Path], str] = md5_file) -> str:
    """Hash a file or a folder as DVC does.

    A folder's hash is the md5 of the JSON list of its files (md5, relative path), sorted by path,
    with ``.dir`` at its end; links to folders and what the project's .dvcignore names are left out.

    Args:
        root: the project's folder, where .dvcignore is.
        path: the file or folder, relative to ``root`` or absolute.
        md5_of: hashes a file; one with a memory spares hashing nested folders twice.

    Returns:
        The hash as dvc.lock has it.

    Raises:
        UserError: the path does not exist.
    """
    root = Path(root).resolve()
    place = Path(os.path.normpath(root / path))
    if place.is_file():
        return md5_of(place)
    if not place.is_dir():
        raise UserError(f"{path} does not exist: run the stage that writes it")
    files = files_of(root, path)
    return md5_listing({file.relative_to(place).as_posix(): md5_of(file) for file in files})


def md5_listing(files: Mapping[str, str]) -> str:
    """Hash a folder from what is known of its files.

    Args:
        files: path relative to the folder -> md5.

    Returns:
        The hash as dvc.lock has it.
    """
    rows = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return _md5(json.dumps(rows, sort_keys=True).encode()).hexdigest() + ".dir"


def hash_paths(root: str | Path, paths: Iterable[str]) -> dict[str, str]:
    """Hash several files or folders as DVC does.

    Args:
        root: the project's folder.
        paths: files and folders, relative to ``root`` or absolute.

    Returns:
        Path -> hash.
    """
    return {path: md5_path(root, path) for path in paths}


def run_key(
    cmd: list[str], deps: Mapping[str, str], params: Mapping[str, Mapping[str, Any]]
) -> str:
    """Name what went into a run of a stage; a dvc.lock entry gives the same key.

    Args:
        cmd: the stage's command lines.
        deps: path -> hash.
        params: file -> dotted key -> value.

    Returns:
        64 hexadecimal digits (sha256).
    """
    content = {"cmd": cmd, "deps": deps, "params": params}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def files_of(root: str | Path, path: str) -> list[Path]:
    """Walk a folder without what .dvcignore names; DVC applies it below the project only.

    Args:
        root: the project's folder, where .dvcignore is.
        path: the folder, relative to ``root`` or absolute.

    Returns:
        Its files.
    """
    root = Path(root).resolve()
    folder = Path(os.path.normpath(root / path))
    rules = ignored(root)
    inside = folder.is_relative_to(root)
    found = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        if inside:
            relative = here.relative_to(root)
            folders[:] = [n for n in folders if not rules.match_file(f"{relative / n}/")]
            names = [n for n in names if not rules.match_file(str(relative / n))]
        found += [here / name for name in names]
    return found


def ignored(root: Path) -> GitIgnoreSpec:
    """Read what DVC ignores.

    Args:
        root: the project's folder.

    Returns:
        Rules that match what is no data.
    """
    file = root / ".dvcignore"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return GitIgnoreSpec.from_lines([*ALWAYS_IGNORED, *(line.strip() for line in lines)])
