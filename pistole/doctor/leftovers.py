"""What a running or a killed DVC or Snakemake holds: locks of the project."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import psutil

from pistole.doctor.finding import FAILED, OK, WARNING, Finding

DVC_LOCK = Path(".dvc/tmp/lock")
DVC_RWLOCK = Path(".dvc/tmp/rwlock")
SNAKEMAKE_LOCKS = Path(".snakemake/locks")


def check_locks(project: Path) -> Iterator[Finding]:
    """Find locks, and whether someone still holds them.

    Args:
        project: folder of the DVC project.

    Yields:
        A finding per lock that is in the way, or one that there is none.
    """
    found = [*_dvc(project), *_paths_of_dvc(project), *_snakemake(project)]
    yield from found or [Finding("locks", OK, "neither DVC nor Snakemake holds a lock")]


def _dvc(project: Path) -> Iterator[Finding]:
    """The lock of the repository: the kernel frees it with its process, so it is never stale."""
    lock = project / DVC_LOCK
    if lock.is_file() and _held(lock):
        owner = lock.read_text(encoding="utf-8", errors="replace").strip()
        text = f"a dvc command works here (process {owner or 'unknown'})"
        yield Finding("locks", WARNING, text, "wait until it has ended; then try again")


def _held(lock: Path) -> bool:
    with lock.open("r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _paths_of_dvc(project: Path) -> Iterator[Finding]:
    """The locks on single paths, which name their processes."""
    file = project / DVC_RWLOCK
    if not file.is_file():
        return
    try:
        owners = set(_owners(json.loads(file.read_text(encoding="utf-8") or "{}")))
    except (ValueError, TypeError, KeyError, AttributeError):
        text = f"{DVC_RWLOCK} is broken, so that every dvc command fails"
        yield Finding("locks", FAILED, text, f"rm {DVC_RWLOCK}")
        return
    dead = sorted(pid for pid in owners if not psutil.pid_exists(pid))
    if dead:
        text = f"{DVC_RWLOCK} is stale: process {', '.join(map(str, dead))} was killed"
        yield Finding("locks", FAILED, text, f"rm {DVC_RWLOCK}")


def _owners(locks: dict) -> Iterator[int]:
    for mode in locks.values():
        for infos in mode.values():
            for info in infos if isinstance(infos, list) else [infos]:
                yield int(info["pid"])


def _snakemake(project: Path) -> Iterator[Finding]:
    folder = project / SNAKEMAKE_LOCKS
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    running = sorted(_snakemakes(project))
    if running:
        text = f"a snakemake works here (process {', '.join(map(str, running))})"
        yield Finding("locks", WARNING, text, "wait until it has ended; then try again")
    else:
        text = f"{SNAKEMAKE_LOCKS} is stale: no snakemake works here"
        yield Finding("locks", FAILED, text, "snakemake --unlock")


def _snakemakes(project: Path) -> Iterator[int]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # By itself, as a script of python, or after its -m.
            program = [Path(word).name for word in process.cmdline()[:3]]
            if "snakemake" in program and Path(process.cwd()) == project.resolve():
                yield process.pid
