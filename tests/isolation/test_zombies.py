"""A worker that is killed and does not end costs nobody but its own plugin."""

import contextlib
import ctypes
import os
import time
from pathlib import Path

import pytest

from ringfence import PluginCrashedError, PluginTimeoutError, StepInfo
from ringfence.isolation import sandbox as pool
from ringfence.isolation.host.limits import worker_process as process
from ringfence.isolation.sandbox import Sandbox

_SEIZE, _DETACH, _STOP_AT_EXIT = 0x4206, 17, 1 << 6
_WALL = 0x40000000


class Tracer:
    """Holds up the end of a process from outside, as a kernel does that waits for a disk on its behalf."""

    def __init__(self, pid):
        self._pid = pid
        self._trace(_SEIZE, _STOP_AT_EXIT)

    def let_go(self):
        os.waitpid(self._pid, _WALL)
        self._trace(_DETACH, 0)

    def _trace(self, request, data):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long)
        if libc.ptrace(request, self._pid, 0, data):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture
def held(monkeypatch):
    """Hold up a worker's end until the test lets it go."""
    monkeypatch.setattr(pool, "DEATH_S", 0.5)
    monkeypatch.setattr(process, "LAST_WORDS_S", 0.0)
    with contextlib.ExitStack() as stack:

        def hold(plugin):
            try:
                tracer = Tracer(plugin._workers[0].channel.process.pid)
            except PermissionError as error:
                pytest.skip(f"this user may not trace its own processes here: {error.strerror}")
            release = stack.enter_context(contextlib.ExitStack())
            release.callback(tracer.let_go)
            return release.close

        yield hold


def exists(pid):
    return Path(f"/proc/{pid}").exists()


def test_a_worker_that_does_not_end_costs_no_other_plugin_and_is_collected_later(spec, gradients, held):
    with Sandbox() as sandbox:
        neighbour = sandbox.start(spec("obedient:Halve"))
        plugin = sandbox.start(spec("faulty:Faulty", options={"fault": "hang", "at": 0}, deadline_s=0.5))
        process, zygote = plugin._workers[0].channel.process, sandbox._zygote
        let_go = held(plugin)

        with pytest.raises(PluginTimeoutError):
            plugin.call("backward", {"gradients": gradients}, StepInfo(0))
        plugin.close()
        assert process.hangs
        assert process.status is None
        assert exists(process.pid)
        assert Path(process.scratch).exists()

        # Another start has the zygote look again, and it answers.
        assert sandbox.start(spec("obedient:Halve")).is_running
        assert neighbour.call("backward", {"gradients": gradients}, StepInfo(1)) is not None
        assert sandbox._zygote is zygote
        assert exists(process.pid)

        let_go()
        deadline = time.monotonic() + 60
        while exists(process.pid) and time.monotonic() < deadline:
            sandbox.start(spec("obedient:Halve")).close()
        assert not exists(process.pid)
        assert not Path(process.scratch).exists()


def test_files_of_a_worker_that_does_not_end_are_left_to_the_next_run(spec, held):
    with Sandbox() as sandbox:
        plugin = sandbox.start(spec("obedient:Halve"))
        let_go = held(plugin)
        folder = sandbox.folder
    try:
        assert folder.exists()
    finally:
        let_go()
        assert pool.remove_tree(folder)


def test_that_it_hangs_is_what_is_told_of_one_that_was_ended_for_nonsense(spec, gradients, held):
    with Sandbox() as sandbox:
        plugin = sandbox.start(spec("faulty:Faulty", options={"fault": "abort", "at": 0}, deadline_s=5.0))
        held(plugin)
        with pytest.raises(PluginCrashedError, match=r"was killed and did not end within .* slow disk"):
            plugin._workers[0].channel._die("gradient.backward", 0)
