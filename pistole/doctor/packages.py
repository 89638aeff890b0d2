"""Python, and whether the packages that are installed are those of the lock."""

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from pistole.doctor.finding import FAILED, OK, WARNING, Finding
from pistole.lineage.environment import LOCK

OLDEST = (3, 11)
NAMED = 3


def check_python(project: Path) -> Iterator[Finding]:
    """Say which Python runs.

    Args:
        project: not looked at.

    Yields:
        One finding.
    """
    del project
    version = platform.python_version()
    if sys.version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        remedy = f"make env PYTHON=python{needed}"
        yield Finding("python", FAILED, f"python {version} is older than {needed}", remedy)
    else:
        yield Finding("python", OK, f"python {version}, {platform.platform()}")


def check_packages(project: Path) -> Iterator[Finding]:
    """Compare what is installed with the lock of the environment.

    Args:
        project: folder of the DVC project.

    Yields:
        One finding.
    """
    lock = project / LOCK
    if not lock.is_file():
        text = f"there is no {LOCK}: versions are not compared"
        yield Finding("packages", WARNING, text, "run in the project's folder, or give --project")
        return
    pins = pinned(lock.read_text(encoding="utf-8"))
    installed = {name: _installed(name) for name in pins}
    absent = [name for name, version in installed.items() if version is None]
    other = [
        f"{name} {version} (locked: {pins[name]})"
        for name, version in installed.items()
        if version is not None and _public(version) != _public(pins[name])
    ]
    if not absent and not other:
        yield Finding("packages", OK, f"{len(pins)} packages are as {LOCK} has them")
    if absent:
        text = f"not installed: {_some(absent)}"
        yield Finding("packages", FAILED, text, "make env")
    if other:
        text = f"other versions than {LOCK} has: {_some(other)}"
        yield Finding("packages", FAILED, text, "make env; results may differ until then")


def pinned(lock: str) -> dict[str, str]:
    """Read a lock.

    Args:
        lock: text that ``make lock`` wrote.

    Returns:
        Name -> version of what this platform and this Python need.
    """
    pins = {}
    for line in lock.splitlines():
        if line[:1].isalnum():
            requirement = Requirement(line.rstrip("\\").partition(" #")[0].strip())
            if requirement.marker is None or requirement.marker.evaluate():
                (exact,) = requirement.specifier
                pins[requirement.name] = exact.version
    return pins


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _public(version: str) -> str:
    return Version(version).public  # torch adds +cpu


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
