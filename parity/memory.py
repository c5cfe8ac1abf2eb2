"""Keeping freed memory in the process, where a forward on a CPU makes and drops large tensors without end.

glibc maps a block above a threshold (32 MiB at most by itself) anew each time and gives it back when it is freed, and
the kernel fills every page of it with zeros again: on Gemma, whose logits are 64 MiB a block, that was a third of the
time of measuring (docs/PERFORMANCE.md).
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST, MOST_KEPT = 2**30, 2**31 - 1  # bytes: of a block that is kept, and of free memory at the end of the heap


def keep() -> bool:
    """Have this process keep what it frees, in huge pages where it can; whether the C library could be told.

    Moves no result.  For the rest of the process, which holds what it held at its largest.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # of torch: huge pages for tensors of 2 MiB and more
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, MOST_KEPT))
