"""Host-owned sealed memory that plugins map.

Every region is a memfd that the host makes, fills with real pages and seals, so
that a plugin can neither shrink it under the host's feet nor grow it past its
budget. A region that plugins only read carries ``F_SEAL_FUTURE_WRITE`` as well:
the host's own mapping, made before the seal, is the last that can write.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import itertools
import math
import mmap
import os
import warnings
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor

from ...hooks.types import ALIGNMENT_BYTES

#: What the kernel calls each of them.
REGION_NAME = "ringfence"
_F_ADD_SEALS = 1033
_SEAL_SEAL = 0x1
_SEAL_SHRINK = 0x2
_SEAL_GROW = 0x4
_SEAL_FUTURE_WRITE = 0x10
#: Pages are there already; entering all of them in the page table at once takes a tenth of the time that
#: a fault for each does.
_PREFAULTED = mmap.MAP_SHARED | mmap.MAP_POPULATE

_ids = itertools.count(1)


def aligned(nbytes: int) -> int:
    """Return ``nbytes`` rounded up to where the next tensor may start."""
    return -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def whole_pages(nbytes: int) -> int:
    """Return the size of a region of at least ``nbytes``."""
    return -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE


class Region:
    """One sealed memfd, mapped by the host.

    Args:
        nbytes: Size; rounded up to whole pages.
        writable: True for a result buffer, which a plugin may write; False seals it against that.

    Raises:
        OSError: The machine has no memory left for it.

    Attributes:
        id: Number by which messages name it.
        fd: The memfd, open until ``close``.
        buffer: (nbytes,) uint8 over the host's mapping.
    """

    def __init__(self, nbytes: int, *, writable: bool) -> None:
        self.id = next(_ids)
        self.writable = writable
        self.nbytes = whole_pages(nbytes)
        self.fd = os.memfd_create(REGION_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, self.nbytes)
            # Real pages now: a full machine is told here instead of by SIGBUS later, and
            # the first to touch a page, who pays for it in a cgroup, is the host.
            os.posix_fallocate(self.fd, 0, self.nbytes)
            mapping = mmap.mmap(self.fd, self.nbytes, _PREFAULTED)
            seals = _SEAL_SHRINK | _SEAL_GROW | _SEAL_SEAL
            fcntl.fcntl(self.fd, _F_ADD_SEALS, seals if writable else seals | _SEAL_FUTURE_WRITE)
        except OSError:
            os.close(self.fd)
            raise
        self.buffer = torch.frombuffer(mapping, dtype=torch.uint8)
        self._close = weakref.finalize(self, os.close, self.fd)

    @contextlib.contextmanager
    def handed_out(self) -> Iterator[int]:
        """Open it once more for whoever is to map it, with no more rights than that takes.

        What the kernel keeps by open file (an offset, flags), those who were given the same one would share.
        """
        rights = os.O_RDWR if self.writable else os.O_RDONLY
        fd = os.open(f"/proc/self/fd/{self.fd}", rights | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the memfd; the memory goes once the last tensor and mapping over it are gone.

        None of those is kept here: an error may hold what led to it for long. A region that nobody
        refers to any more closes by itself.
        """
        if self._close.alive:
            self._close()
            self.fd = -1
            self.buffer = torch.empty(0, dtype=torch.uint8)


class Arena:
    """Memory that the host writes and every plugin may read.

    The engine allocates parameters and gradients here without knowing that they
    are shared; ``locate`` later tells where a tensor lies, so that a plugin can
    be pointed to it instead of being sent a copy.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._regions: list[Region] = []
        #: Numbers of regions that are gone, oldest first; workers that map one are told to forget it.
        self.released: list[int] = []

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor in a region of its own; an ``Allocate``."""
        nbytes = math.prod(shape) * dtype.itemsize
        region = Region(nbytes, writable=False)
        start = region.buffer.data_ptr()
        at = bisect.bisect(self._starts, start)
        self._starts.insert(at, start)
        self._regions.insert(at, region)
        return region.buffer[:nbytes].view(dtype).view(shape)

    def release(self, tensor: Tensor) -> None:
        """Forget the region of a tensor that ``allocate`` returned."""
        at = bisect.bisect_left(self._starts, tensor.data_ptr())
        self._starts.pop(at)
        region = self._regions.pop(at)
        region.close()
        self.released.append(region.id)

    def locate(self, tensor: Tensor) -> tuple[Region, int] | None:
        """Return region and offset in bytes of a contiguous CPU tensor, or None if it lies elsewhere."""
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            return None
        address = tensor.data_ptr()
        at = bisect.bisect(self._starts, address) - 1
        if at < 0:
            return None
        region, offset = self._regions[at], address - self._starts[at]
        inside = offset + tensor.numel() * tensor.element_size() <= region.nbytes
        return (region, offset) if inside else None

    def close(self) -> None:
        """Close all regions; tensors made here stay valid."""
        for region in self._regions:
            region.close()
        self._regions.clear()
        self._starts.clear()


def map_region(fd: int, nbytes: int, *, writable: bool) -> Tensor:
    """Map a region inside a worker and close ``fd``; returns (nbytes,) uint8.

    The result of a region that is sealed against writing must not be written:
    the kernel ends the process that tries.
    """
    try:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapping = mmap.mmap(fd, nbytes, _PREFAULTED, protection)
    finally:
        os.close(fd)
    with warnings.catch_warnings():
        # torch warns that it cannot mark the tensor read-only; the kernel does.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(mapping, dtype=torch.uint8)
