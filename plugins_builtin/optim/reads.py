"""Which optimizers only read the gradients.

Gradients lie in memory that the kernel does not let a plugin write: a store there ends
the worker. Most optimizers of ``torch_optimizer`` do write into them, so they get a
copy. Those listed here were each run over read-only memory, with weight decay, with
every switch of their constructor alone, and with all that go together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ONLY_READ: frozenset[str] = frozenset()


def only_reads_gradients(path: str, options: Mapping[str, Any]) -> bool:
    """Tell whether the class at ``path`` is known never to write into gradients."""
    return path in _ONLY_READ
