"""Tar shards at a URL, kept in a local cache once they have been read."""

import hashlib
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path

from pistole.data.names import CLASSNAMES, TEMPLATES
from pistole.data.registry import registry
from pistole.data.source import Source
from pistole.errors import UserError
from pistole.files import atomic_file, sha256_file, write_text
from pistole.progress import counting, say

SUMS = "sha256sums.txt"  # as the program sha256sum writes them
CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte


def is_url(root: str) -> bool:
    """Tell whether a root is read over the network.

    Args:
        root: a folder or URL.

    Returns:
        True for http and https.
    """
    return root.startswith(("http://", "https://"))


def cache_of(url: str) -> Path:
    """Return the folder that keeps a dataset's shards.

    Args:
        url: its root.

    Returns:
        A folder of its own in ``$XDG_CACHE_HOME/pistole/wds``, by default below ``~/.cache``.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "pistole" / "wds" / hashlib.sha256(url.encode()).hexdigest()[:16]


def fetch_names(source: Source) -> None:
    """Bring class names and templates into the cache if nothing else gives them.

    Args:
        source: ``root`` is a URL with the webdataset layout below it.
    """
    url, folder = source.root.rstrip("/"), cache_of(source.root.rstrip("/"))
    folder.mkdir(parents=True, exist_ok=True)
    if source.names is None and source.name not in registry():
        for name in (CLASSNAMES, TEMPLATES):
            _fetch(f"{url}/{name}", folder / name, None)


def fetch_split(source: Source, split: str) -> Path:
    """Bring one split into the cache; what is there already is not fetched again.

    Args:
        source: ``root`` is a URL with the webdataset layout below it.
        split: ``train`` or ``test``.

    Returns:
        The dataset's folder in the cache.

    Raises:
        UserError: a file cannot be fetched, arrives short, or is not what the server's
            ``sha256sums.txt`` says, or a cached one is not what was fetched.
    """
    url, folder = source.root.rstrip("/"), cache_of(source.root.rstrip("/"))
    count = folder / split / "nshards.txt"
    _fetch(f"{url}/{split}/nshards.txt", count, None)
    shards = [f"{shard}.tar" for shard in range(_number(count, url))]
    absent = [name for name in shards if not (folder / split / f"{name}.sha256").is_file()]
    sums = _sums(f"{url}/{split}/{SUMS}") if absent else {}
    with counting(f"{source.name}/{split}", len(absent)) as advance:
        for name in absent:
            digest = _fetch(f"{url}/{split}/{name}", folder / split / name, sums.get(name))
            write_text(folder / split / f"{name}.sha256", f"{digest}  {name}\n")
            advance()
    return folder


def verify_split(source: Source, split: str) -> None:
    """Compare the cached shards with the digests that they were fetched with.

    Args:
        source: as in :func:`fetch_split`.
        split: ``train`` or ``test``.

    Raises:
        UserError: a shard has changed.
    """
    folder = cache_of(source.root.rstrip("/")) / split
    for file in sorted(folder.glob("*.tar.sha256")):
        shard = file.with_suffix("")
        if not shard.is_file() or sha256_file(shard) != file.read_text().split()[0]:
            raise UserError(f"{shard} is not what was fetched from {source.root}: remove {folder}")


def _number(count: Path, url: str) -> int:
    text = count.read_text().strip()
    if not text.isdecimal():
        count.unlink()
        raise UserError(
            f"{url}/{count.parent.name}/nshards.txt is no number but {text[:40]!r}: give the URL "
            "of the files themselves"
        )
    return int(text)


def _sums(url: str) -> dict[str, str]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
            lines = reply.read().decode("utf-8", "replace").splitlines()
    except (OSError, HTTPException):
        return {}  # the server need not have it
    return {line.split()[-1].lstrip("*./"): line.split()[0].lower() for line in lines if line}


def _fetch(url: str, target: Path, expected: str | None) -> str:
    """Stream one file to its place unless it is there; return its digest."""
    if target.is_file() and target.suffix != ".tar":
        return ""
    say(f"fetching {url}")
    digest, size = hashlib.sha256(), 0
    with atomic_file(target) as part, part.open("wb") as stream:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
                announced = reply.headers.get("Content-Length")
                while chunk := reply.read(CHUNK):
                    stream.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
        except (OSError, HTTPException) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{url} cannot be fetched ({reason}): mend the URL or the network, or copy the "
                "shards to a folder"
            ) from None
        if announced is not None and size != int(announced):
            raise UserError(f"{url} ended after {size} of {announced} bytes: try again")
        if expected is not None and digest.hexdigest() != expected:
            raise UserError(
                f"{url} has the digest {digest.hexdigest()[:12]}..., {SUMS} says "
                f"{expected[:12]}...: try again, or mend the server's file"
            )
    return digest.hexdigest()
