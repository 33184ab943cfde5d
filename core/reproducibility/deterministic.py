"""Hold torch to deterministic algorithms: the same bits, whichever thread ends first.

Convolutions on a GPU are otherwise summed in whatever order threads end, and so are sums into places that an
index names (the backward pass of ``weight[index]``), on a GPU and on several threads of the CPU. A run that
is rolled back or resumed would then end with other weights.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

#: What cuBLAS has to be told before it is first used, so that it sums in one order.
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_IN_ORDER = ":4096:8"
#: A module whose one attribute is made at run time.
_NEW_MEMORY: Any = torch.utils.deterministic


def be_repeatable() -> None:
    """Hold torch to such algorithms in this process.

    An operation that has none is carried out all the same, and torch warns of it by name.
    """
    # torch.use_deterministic_algorithms does that too, but imports torch.compile's part first: over a second.
    torch.set_deterministic_debug_mode("warn")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    # It costs a pass over all new memory, and only helps what reads memory that it never wrote.
    _NEW_MEMORY.fill_uninitialized_memory = False


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Hold torch to such algorithms until the end of the context, as ``be_repeatable`` does, on a GPU too."""
    os.environ.setdefault(_CUBLAS, _CUBLAS_IN_ORDER)
    cudnn = torch.backends.cudnn
    mode, convolutions = torch.get_deterministic_debug_mode(), (cudnn.deterministic, cudnn.benchmark)
    filled = _NEW_MEMORY.fill_uninitialized_memory
    be_repeatable()
    try:
        yield
    finally:
        _NEW_MEMORY.fill_uninitialized_memory = filled
        cudnn.deterministic, cudnn.benchmark = convolutions
        torch.set_deterministic_debug_mode(mode)
