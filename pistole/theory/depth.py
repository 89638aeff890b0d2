"""A tower's tensors by depth (docs/method.md E.6, layer-prefix merge)."""

from collections.abc import Iterable

from pistole.method.layers import NUMBERED
from pistole.method.vectors import Params

LAST = ("proj",)  # open_clip's output projection is declared first and used last


def blocks_by_depth(names: Iterable[str]) -> dict[str, list[str]]:
    """Group tensors into numbered blocks, from the input to the output.

    What comes before the first block belongs to it, what comes after the last one to that, and
    what lies between two to the earlier one; a tower without numbered blocks is one block.

    Args:
        names: tensors in the order in which the tower defines its layers.

    Returns:
        block -> its tensors.
    """
    ordered = sorted(names, key=lambda name: name in LAST)  # stable
    groups: dict[str, list[str]] = {}
    waiting: list[str] = []
    current = None
    for name in ordered:
        numbered = NUMBERED.match(name)
        current = numbered[1] if numbered else current
        if current is None:
            waiting.append(name)
        else:
            groups.setdefault(current, [*waiting] if not groups else []).append(name)
    return groups or {"all": waiting}


def cut_points(blocks: int, most: int) -> list[int]:
    """Choose depths at which a tower is cut, evenly spread.

    Args:
        blocks: number of blocks.
        most: largest number of cuts, both ends left out.

    Returns:
        Rising numbers of blocks from 0 to ``blocks``.
    """
    steps = min(most + 1, blocks)
    return [round(i * blocks / steps) for i in range(steps + 1)]


def moved_in(theta: Params, tau: Params, names: Iterable[str]) -> Params:
    """Add a task vector to some tensors only.

    Args:
        theta: the base.
        tau: task vector, same names and shapes.
        names: which tensors move.

    Returns:
        theta + tau there, theta elsewhere.
    """
    return theta | {name: theta[name] + tau[name] for name in names}
