"""Nothing that the kernel keeps by open file goes from one plugin to another."""

import errno
import itertools
import os
from pathlib import Path

import pytest
import torch

from ringfence import StepInfo, TensorMap
from ringfence.isolation.policy import kernel
from ringfence.isolation.transport.shared_memory import Region
from ringfence.tensors import pytree

from .plugins import whispering

_KCMP_FILE = 0


@pytest.fixture
def shared(sandbox):
    """Return gradients that every plugin reads where they lie."""
    specs = TensorMap.like({"weight": torch.ones(4)}).specs
    return TensorMap(specs, sandbox.arena.allocate((4096,), torch.uint8))


@pytest.fixture
def pair(start, shared):
    """Start two plugins that read the same memory, one that speaks and one that listens."""

    def begin(way):
        speaker, listener = (
            start("whispering:Whisper", options={"way": way, "speaks": speaks}) for speaks in (True, False)
        )
        for plugin in (listener, speaker, listener):
            plugin.call("backward", {"gradients": shared}, StepInfo(0))
        return speaker, listener

    return begin


@pytest.mark.parametrize("way", whispering.WAYS)
def test_a_word_that_one_plugin_leaves_is_not_found_by_another(pair, way):
    speaker, listener = pair(way)
    assert pytree.decode(speaker.state_dict())["tried"]
    found = pytree.decode(listener.state_dict())
    assert found["tried"]
    assert not found["heard"]


@pytest.mark.parametrize("way", whispering.WAYS)
def test_it_would_be_found_if_both_were_given_the_same_open_file(way):
    region = Region(4096, writable=False)
    leave, find = whispering.WAYS[way]
    speaker, listener = os.dup(region.fd), os.dup(region.fd)
    assert not find(listener)
    leave(speaker)
    assert find(listener)
    for fd in (speaker, listener):
        os.close(fd)
    region.close()


def test_no_open_file_is_in_the_hands_of_two_workers_or_of_the_trainer_too(pair, sandbox):
    plugins = pair("offset")
    workers = [plugin._workers[0].channel.process.pid for plugin in plugins]
    seen = {pid: _open_files(pid) for pid in (*workers, os.getpid())}
    assert all(len(seen[pid]) > len(("input", "output", "error", "control")) for pid in workers)
    together = [
        (one, other, first, second)
        for one, other in itertools.combinations(seen, 2)
        for first in seen[one]
        for second in seen[other]
        if _is_one(one, other, first, second)
    ]
    assert together == []


def test_the_same_open_file_would_be_noticed():
    region = Region(4096, writable=False)
    me, other = os.getpid(), os.dup(region.fd)
    assert _is_one(me, me, region.fd, other)
    with region.handed_out() as own:
        assert not _is_one(me, me, region.fd, own)
    os.close(other)
    region.close()


def _is_one(process, other_process, fd, other_fd):
    """Tell whether two descriptors are of one open file; listing the folder opened one that is closed."""
    try:
        return kernel.syscall("kcmp", process, other_process, _KCMP_FILE, fd, other_fd) == 0
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            pytest.skip(f"the kernel does not compare open files here: {error.strerror}")
        if error.errno != errno.EBADF:
            raise
        return False


def _open_files(pid):
    return [int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()]
