"""The code that runs: the commit, and which tracked files differ from it."""

import functools
import hashlib
import subprocess
from pathlib import Path
from typing import Any

from pistole.lineage.hashing import ignored, md5_listing
from pistole.lineage.paths import inside

# What a run writes or what its receipt holds value by value is no change of the code.
RECORDED = frozenset({"dvc.lock", "params.yaml"})
OWN = ".pistole"


def state(root: Path) -> dict[str, Any]:
    """Describe the code as it is now.

    Args:
        root: the project's folder.

    Returns:
        ``commit`` (None without git) and ``changed``: tracked files of the project that differ from
        it, without dvc.lock, params.yaml and the outputs of stages.
    """
    commit = git(root, "rev-parse", "HEAD").strip() or None
    lines = git(root, "status", "--porcelain", "-z", "-uno", "--no-renames", "--", ".").split("\0")
    prefix = git(root, "rev-parse", "--show-prefix").strip()
    changed = {line[3:].removeprefix(prefix) for line in lines if line} - RECORDED
    outs = [OWN, *_recorded_outs(root)] if changed else []
    kept = [path for path in sorted(changed) if not any(inside(path, out) for out in outs)]
    return {"commit": commit, "changed": kept}


def git(root: Path, *arguments: str) -> str:
    """Ask git.

    Args:
        root: folder to ask in.
        arguments: the command and its arguments.

    Returns:
        What it prints; nothing where there is no git, no repository or no such thing.
    """
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout


class Commit:
    """Content of the project's files at a commit, hashed as DVC hashes them."""

    def __init__(self, root: Path, files: dict[str, str]) -> None:
        """Keep what the commit has.

        Args:
            root: the project's folder.
            files: path relative to it -> git's name of the content.
        """
        self._root = root
        self._files = files
        self._md5 = functools.cache(self._hash)

    @classmethod
    def open(cls, root: Path, commit: str) -> "Commit | None":
        """List the files of a commit.

        Args:
            root: the project's folder.
            commit: git's name of it.

        Returns:
            The commit; None if the repository does not have it.
        """
        rules = ignored(root)
        files = {}
        for line in git(root, "ls-tree", "-r", "-z", commit).split("\0"):
            kind, _, path = line.partition("\t")
            if " blob " in kind and not rules.match_file(path):
                files[path] = kind.split()[2]
        return cls(root, files) if files else None

    def md5(self, path: str) -> str | None:
        """Hash a file or folder of the commit.

        Args:
            path: the path, relative to the project's folder.

        Returns:
            The hash as dvc.lock would have it; None if the commit has no such path.
        """
        if path in self._files:
            return self._md5(self._files[path])
        below = {p: blob for p, blob in self._files.items() if p.startswith(f"{path}/")}
        if not below:
            return None
        return md5_listing({p[len(path) + 1 :]: self._md5(blob) for p, blob in below.items()})

    def _hash(self, blob: str) -> str:
        done = subprocess.run(
            ["git", "cat-file", "blob", blob], cwd=self._root, capture_output=True, check=True
        )
        return hashlib.md5(done.stdout, usedforsecurity=False).hexdigest()


def _recorded_outs(root: Path) -> list[str]:
    """List the outputs in dvc.lock by its lines: a YAML reader takes most of a second."""
    place, outs, kind = Path(root) / "dvc.lock", [], ""
    for line in place.read_text(encoding="utf-8").splitlines() if place.is_file() else []:
        if line.startswith("    ") and line[4:5].isalpha():
            kind = line.strip().partition(":")[0]
        elif kind == "outs" and line.startswith("    - path: "):
            outs.append(line.removeprefix("    - path: ").strip("'\"").rstrip("/"))
    return outs
