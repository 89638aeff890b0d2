"""Paths of inputs and outputs: what lies inside of what."""

from collections.abc import Iterable


def overlapping(path: str, others: Iterable[str]) -> list[str]:
    """Find the paths that are equal to, inside of, or around a path.

    Args:
        path: a file or folder.
        others: files and folders.

    Returns:
        Those that share content with it.
    """
    return [o for o in others if inside(o, path) or inside(path, o)]


def inside(path: str, folder: str) -> bool:
    """Tell whether a path is a folder or something in it.

    Args:
        path: the path.
        folder: the folder.

    Returns:
        True if it is.
    """
    return path == folder or path.startswith(f"{folder}/")
