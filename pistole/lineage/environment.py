"""What a stage runs with: the lock of the environment, versions, machine and device."""

import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pistole
from pistole.files import sha256_file

LOCK = Path("envs/runtime.txt")


def describe(root: Path) -> dict[str, Any]:
    """Describe the environment of this process.

    Args:
        root: the project's folder.

    Returns:
        ``lock_sha256`` (None without a lock), ``python``, ``platform``, ``versions`` of the package
        and of everything that it asks for by name, ``device`` (cpu or cuda) that this process has
        used, and its ``device_name``.
    """
    device, name = _device()
    return made_with(root) | {
        "platform": platform.platform(),
        "device": device,
        "device_name": name,
    }


def made_with(root: Path) -> dict[str, Any]:
    """Describe the software alone, which does not change from run to run.

    Args:
        root: the project's folder.

    Returns:
        ``lock_sha256`` (None without a lock), ``python`` and ``versions``.
    """
    lock = Path(root) / LOCK
    return {
        "lock_sha256": sha256_file(lock) if lock.is_file() else None,
        "python": platform.python_version(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of pistole and its direct requirements.

    Returns:
        Name as in the lock -> version.
    """
    found = {"pistole": pistole.__version__}
    try:
        wanted = metadata.requires("pistole") or []
    except metadata.PackageNotFoundError:
        wanted = []
    for requirement in wanted:
        name = re.split(r"[^\w.-]", requirement)[0]
        try:
            found[re.sub(r"[-_.]+", "-", name).lower()] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _device() -> tuple[str, str]:
    """Tell what was computed on; a GPU that was not used is no part of the result."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "cuda", torch.cuda.get_device_name()
    return "cpu", _processor()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
