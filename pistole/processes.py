"""What torchrun says of this process, before any of torch is imported."""

import os


def rank() -> int:
    """Return this process's number.

    Returns:
        0, 1, ... as torchrun set it; 0 for a process that runs alone.
    """
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def count() -> int:
    """Return the number of processes of this run.

    Returns:
        As torchrun set it; 1 for a process that runs alone.
    """
    return int(os.environ.get("WORLD_SIZE", "1"))
