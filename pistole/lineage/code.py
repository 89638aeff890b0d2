"""The code that runs: the commit, and which tracked files differ from it."""

import subprocess
from pathlib import Path
from typing import Any

# What a run writes or what its receipt holds value by value is no change of the code.
RECORDED = frozenset({"dvc.lock", "params.yaml"})


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
    outs = _recorded_outs(root) if changed else []
    kept = [path for path in sorted(changed) if not any(_inside(path, out) for out in outs)]
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


def _recorded_outs(root: Path) -> list[str]:
    """List the outputs in dvc.lock by its lines: a YAML reader takes most of a second."""
    place, outs, kind = Path(root) / "dvc.lock", [], ""
    for line in place.read_text(encoding="utf-8").splitlines() if place.is_file() else []:
        if line.startswith("    ") and line[4:5].isalpha():
            kind = line.strip().partition(":")[0]
        elif kind == "outs" and line.startswith("    - path: "):
            outs.append(line.removeprefix("    - path: ").strip("'\"").rstrip("/"))
    return outs


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
