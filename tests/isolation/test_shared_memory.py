"""The kernel, not a convention, refuses what a plugin must not do to memory of the host's."""

import ctypes
import errno
import faulthandler
import fcntl
import mmap
import os
import signal

import pytest
import torch

from ringfence.isolation.transport.shared_memory import Arena, Region, map_region

F_ADD_SEALS = 1033


def refused(attempt):
    with pytest.raises(PermissionError) as caught:
        attempt()
    return caught.value.errno in (errno.EPERM, errno.EACCES)


@pytest.fixture(params=[False, True], ids=["read-only", "result"])
def region(request):
    made = Region(3 * mmap.PAGESIZE, writable=request.param)
    yield made
    made.close()


def test_a_region_can_neither_shrink_nor_grow_nor_be_sealed_further(region):
    assert refused(lambda: os.ftruncate(region.fd, 0))
    assert refused(lambda: os.ftruncate(region.fd, 1 << 20))
    assert refused(lambda: fcntl.fcntl(region.fd, F_ADD_SEALS, 8))


def test_without_seals_a_plugin_could_shrink_it():
    """The control: what the seals prevent works on a memfd that has none."""
    fd = os.memfd_create("control", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    os.ftruncate(fd, 0)
    assert os.fstat(fd).st_size == 0
    os.close(fd)


def test_what_plugins_only_read_cannot_be_written_through_its_descriptor():
    region = Region(4096, writable=False)
    assert refused(lambda: os.pwrite(region.fd, b"x", 0))
    assert refused(lambda: mmap.mmap(region.fd, 4096))
    again = os.open(f"/proc/self/fd/{region.fd}", os.O_RDWR)
    assert refused(lambda: os.pwrite(again, b"x", 0))
    os.close(again)
    region.buffer.fill_(5)
    mapped = map_region(os.dup(region.fd), region.nbytes, writable=False)
    assert mapped.eq(5).all()
    region.close()


def test_a_store_to_a_read_only_mapping_ends_the_process_that_tries():
    region = Region(4096, writable=False)
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        mapped = map_region(region.fd, region.nbytes, writable=False)
        ctypes.memset(mapped.data_ptr(), 1, 1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGSEGV
    assert region.buffer.eq(0).all()


def test_a_result_region_is_shared_both_ways():
    region = Region(4096, writable=True)
    mapped = map_region(os.dup(region.fd), region.nbytes, writable=True)
    mapped[:4] = torch.tensor([1, 2, 3, 4], dtype=torch.uint8)
    assert region.buffer[:4].tolist() == [1, 2, 3, 4]
    region.close()


def test_pages_exist_before_anyone_touches_them():
    """Who touches a page first pays for it in a cgroup; that must be the host."""
    region = Region(1 << 20, writable=True)
    assert os.fstat(region.fd).st_blocks * 512 == 1 << 20
    region.close()


def test_an_arena_finds_tensors_and_views_and_nothing_else():
    arena = Arena()
    first = arena.allocate((100,), torch.float32)
    second = arena.allocate((10, 10), torch.int64)
    region, offset = arena.locate(second[3:])
    assert offset == 3 * 80
    assert region is not arena.locate(first)[0]
    assert arena.locate(torch.zeros(3)) is None
    assert arena.locate(second.t()) is None
    arena.release(first)
    assert arena.locate(first) is None
    assert arena.locate(second) is not None
    arena.close()
    assert second.shape == (10, 10)


def test_tensors_are_aligned_for_vector_instructions():
    arena = Arena()
    assert arena.allocate((3,), torch.float32).data_ptr() % 64 == 0
    arena.close()
