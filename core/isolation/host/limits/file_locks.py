"""Record locks on files: kernel memory that no limit on a process counts, some 200 bytes each."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

#: Of one worker; a database takes a handful.
MAX_LOCKS = 1000
#: Read at most; with so many, whoever holds them is among those that were read.
_MAX_BYTES = 4 << 20
_HOLDER = 4  # "7: POSIX  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; one that waits has "->" before its kind


def locks_by_process(path: Path = Path("/proc/locks")) -> Counter[int]:
    """Return process to how many locks it holds or waits for; nothing where the kernel does not tell."""
    try:
        with path.open("rb", buffering=0) as file:
            text = _read(file.fileno())
    except FileNotFoundError:
        return Counter()
    rows = (line.replace(b"-> ", b"").split() for line in text.splitlines())
    return Counter(int(row[_HOLDER]) for row in rows if len(row) > _HOLDER)


def _read(descriptor: int) -> bytes:
    parts: list[bytes] = []
    left = _MAX_BYTES
    while left > 0 and (part := os.read(descriptor, 1 << 16)):
        parts.append(part)
        left -= len(part)
    text = b"".join(parts)
    return text[: text.rfind(b"\n") + 1]
