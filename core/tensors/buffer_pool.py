"""A pool of buffers for large values that come and go, such as batches.

New memory of that size comes from the kernel page by page, zeroed: for a batch of large images that takes
longer than all that is done with it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Values that may be in use while the next is made: in the loop, in its last step, and in a chain of plugins.
_MOST = 6
#: What is smaller is as fast from the allocator.
LARGE_BYTES = 1 << 20
#: How often an array is referred to that is in use no more: by the list, and by the call that counts.
_IDLE = 2
_NUMPY: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.uint8: np.uint8}


class BufferPool:
    """Hands out memory that it made before, once nothing refers to it any more."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor in memory of its own; what is in it is of no meaning."""
        if dtype not in _NUMPY or torch.Size(shape).numel() * dtype.itemsize < LARGE_BYTES:
            return torch.empty(shape, dtype=dtype)
        kind = np.dtype(_NUMPY[dtype])
        for i in range(len(self._arrays)):
            array = self._arrays[i]
            if array.shape == tuple(shape) and array.dtype == kind:
                del array
                # A tensor and all its views keep the array that they are made of.
                if sys.getrefcount(self._arrays[i]) == _IDLE:
                    return torch.from_numpy(self._arrays[i])
        # The oldest go first, such as those of another size.
        self._arrays = [*self._arrays[-_MOST + 1 :], np.empty(shape, kind)]
        return torch.from_numpy(self._arrays[-1])
