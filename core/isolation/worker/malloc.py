"""Have malloc keep freed memory, because asking the kernel for it again costs more than to use it."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
#: The largest that glibc accepts; a block of more is mapped and unmapped each time.
_LARGEST_BLOCK_BYTES = 32 << 20
_MOST_KEPT_BYTES = 64 << 20
_KEPT_FRACTION = 1 / 8


def keep_freed_memory(limit_bytes: int) -> bool:
    """Let this process use freed blocks again rather than give them back to the kernel.

    An optimizer or an augmentation makes the same tensors at every call. By default the memory of those of
    some MiB goes back and forth, and each of its pages is cleared and mapped anew: two thirds of the time
    of a step of LAMB. What is kept stays a small part of what the process may hold.

    Args:
        limit_bytes: What it may hold.

    Returns:
        Whether that was possible; other C libraries than glibc decide by themselves.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = min(int(limit_bytes * _KEPT_FRACTION), _MOST_KEPT_BYTES)
    block = min(kept, _LARGEST_BLOCK_BYTES)
    return bool(mallopt(_M_MMAP_THRESHOLD, block) and mallopt(_M_TRIM_THRESHOLD, kept))
