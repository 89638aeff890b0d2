"""Memory that a freed tensor really gives back."""

import ctypes

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 1_000_000  # bytes


def give_back_freed_tensors() -> None:
    """Let the C library return each freed tensor of a megabyte or more to the system at once.

    glibc raises that limit up to 32 MiB by itself and keeps what is smaller: a stage that holds
    few tensors at a time then still has a process of many (benchmarks/README.md). Another C
    library, which has no such setting, is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)
