"""However busy, stopped or orphaned plugins are, ending them takes no longer than it may."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ringfence import PluginTimeoutError, StepInfo
from ringfence.isolation.host.limits import scratch_folder
from ringfence.isolation.host.processes import worker_group, zygote_client
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.manager import Hooks

from ..watching import hang, is_running
from .test_zombies import _DETACH, _SEIZE, _STOP_AT_EXIT, _WALL

#: What ending all of these takes on no machine, however busy; a plugin that is waited for takes 600 s.
AT_MOST_S = 60.0
STEP = StepInfo(0)


#: Holds a process up as it ends, from outside, until told to let go: as a kernel does that waits for a disk.
HOLDS = f"""
import ctypes, os, sys
libc, pid = ctypes.CDLL(None, use_errno=True), int(sys.argv[1])
libc.ptrace.argtypes = (ctypes.c_long,) * 4
if libc.ptrace({_SEIZE}, pid, 0, {_STOP_AT_EXIT}):
    sys.exit(os.strerror(ctypes.get_errno()))
print("held", flush=True)
sys.stdin.read()
os.waitpid(pid, {_WALL})
libc.ptrace({_DETACH}, pid, 0, 0)
"""


def pid(plugin):
    return plugin._workers[0].channel.process.pid


def begin(plugin, gradients):
    """Have a plugin compute, and wait for nothing."""
    worker = plugin._workers[0]
    plugin._submit(worker, worker.slots[0], "backward", {"gradients": gradients}, STEP, snapshot=False)


def closed(*closing):
    """Close, and return the seconds that it took."""
    began = time.monotonic()
    for each in closing:
        each.close()
    return time.monotonic() - began


@pytest.fixture
def fill(spec, gradients):
    """Start a plugin in every state; return them under their hooks, and their process ids."""

    def fill(sandbox):
        hooks = Hooks()
        for n, where in enumerate(("obedient:Halve", "obedient:Halve", *["closing:Spins"] * 3)):
            hooks.register(sandbox.start(replace(spec(where), name=f"gradient{n}")))
        monitor = sandbox.start(spec("closing:Watches", "monitor"))
        hooks.register(monitor)
        _, idle_stopped, spinning, spinning_stopped, ahead = hooks.plugins[:-1]
        for plugin in (spinning, spinning_stopped, ahead, ahead):  # the last has one more call waiting
            begin(plugin, gradients)
        assert monitor.post("forward", {"loss": 1.0}, STEP)
        assert monitor.post("backward", {"parameters": gradients}, STEP)
        for plugin in (idle_stopped, spinning_stopped):
            os.kill(pid(plugin), signal.SIGSTOP)
        pids = [pid(plugin) for plugin in hooks.plugins]
        assert all(is_running(each) for each in pids)
        return hooks, pids

    return fill


def test_plugins_in_every_state_end_at_once(sandbox, fill):
    hooks, pids = fill(sandbox)
    seconds = closed(hooks)
    print("ended in", seconds)
    assert seconds < AT_MOST_S
    assert not [each for each in pids if is_running(each)]


def test_plugins_whose_zygote_was_killed_end_at_once(fill):
    with Sandbox() as sandbox:
        hooks, pids = fill(sandbox)
        sandbox._zygote.kill()
        sandbox._zygote.wait()
        assert closed(hooks, sandbox) < AT_MOST_S
        assert not [each for each in pids if is_running(each)]


def test_plugins_whose_zygote_is_stopped_end_once_it_was_waited_for(fill, monkeypatch):
    """The zygote is waited for once, however many plugins there are."""
    asked, await_reply = [], zygote_client.Zygote._await_reply
    with Sandbox() as sandbox:
        hooks, pids = fill(sandbox)
        hang(sandbox._zygote, 0.5)
        monkeypatch.setattr(
            zygote_client.Zygote,
            "_await_reply",
            lambda *each, **how: asked.append(1) or await_reply(*each, **how),
        )
        assert 0.5 <= closed(hooks, sandbox) < AT_MOST_S
        assert len(asked) == 1
        assert not [each for each in pids if is_running(each)]


def test_a_zygote_that_does_not_end_is_not_waited_for_without_end(monkeypatch):
    """As when the kernel holds it for a slow disk."""
    monkeypatch.setattr(zygote_client, "DEATH_S", 0.3)
    with (
        Sandbox() as sandbox,
        subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(sandbox._zygote.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holds,
    ):
        if not holds.stdout.readline():
            pytest.skip("this user may not trace its own processes here")
        assert 0.3 <= closed(sandbox) < AT_MOST_S
        assert is_running(sandbox._zygote.pid)
        assert sandbox._zygote.has_ended()  # as far as anybody may ask something of it
        holds.stdin.close()
        sandbox._zygote.wait()


def test_monitors_that_never_answer_are_drained_side_by_side(sandbox, spec, gradients):
    """Each has its deadline from when it was asked, so that many take no longer than one."""
    deadline_s, hooks = 3.0, Hooks()
    described = spec("closing:Watches", "monitor", deadline_s=deadline_s, on_failure="disable")
    for n in range(3):
        plugin = sandbox.start(replace(described, name=f"monitor{n}"))
        hooks.register(plugin)
        assert plugin.post("forward", {"loss": 1.0}, STEP)
        assert plugin.post("backward", {"parameters": gradients}, STEP)
    began = time.monotonic()
    hooks.drain()
    seconds = time.monotonic() - began
    print("drained in", seconds)
    assert [plugin.usage.state for plugin in hooks.plugins] == ["disabled"] * 3
    assert [fault.error for fault in hooks.failures.log.records] == [PluginTimeoutError.__name__] * 3
    assert seconds < len(hooks.plugins) * deadline_s


def test_the_page_on_failures_has_these_bounds():
    page = re.sub(r"\s+", " ", (Path(__file__).parents[2] / "docs" / "failures.md").read_text())
    assert f"is waited for {zygote_client.DEATH_S:g} s and then left" in page
    assert f"should somebody have stopped it, {zygote_client.REPLY_S:g} s, once in a run" in page
    assert f"removing a scratch folder, {scratch_folder._REMOVE_S:g} s" in page
    assert f"| locking itself up before that | {worker_group._LOCK_DEADLINE_S:g} s |" in page
    assert f"which imports torch | {zygote_client.START_S:g} s |" in page
