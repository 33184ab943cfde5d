"""The physical memory of this machine, and units of memory."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30


def machine_bytes() -> int:
    """Return the physical memory of this machine, in bytes.

    Raises:
        OSError: ``/proc/meminfo`` cannot be read.
        ValueError: It does not tell physical memory.
    """
    import psutil  # noqa: PLC0415 - only the trainer asks; processes for plugins are forked without it

    try:
        return int(psutil.virtual_memory().total)
    except KeyError as error:
        raise ValueError(f"/proc/meminfo tells no {error}; cannot work out a memory budget") from error
