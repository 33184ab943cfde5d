"""The host looks for a reply for some microseconds before it sleeps, where that costs nobody anything."""

import math
import os
import types

import pytest

from ringfence.isolation.host.calls import spin
from ringfence.isolation.host.calls.spin import LONGEST_S, MOST_SKIPPED, Spin


class Replies:
    """A poll that has something to read at a given look, and counts looks; each takes ten microseconds."""

    def __init__(self, clock, at=math.inf):
        self.clock, self.at, self.looks, self.longest_ms = clock, at, 0, 0

    def poll(self, timeout_ms):
        self.looks += 1
        self.longest_ms = max(self.longest_ms, timeout_ms)
        self.clock.now += 10e-6
        return [(0, 1)] if self.looks >= self.at else []


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(spin.time, "perf_counter", lambda: clock.now)
    return clock


@pytest.fixture
def busy(monkeypatch):
    """Let that many threads of the machine want to run."""
    return lambda threads: monkeypatch.setattr(spin, "runnable", lambda: threads)


def test_a_reply_that_is_soon_there_is_not_slept_for(clock, busy):
    busy(len(os.sched_getaffinity(0)))
    replies = Replies(clock, at=4)

    Spin().wait(replies)

    assert (replies.looks, replies.longest_ms) == (4, 0)


def test_nobody_spins_where_more_threads_want_to_run_than_there_are_cores(clock, busy):
    busy(len(os.sched_getaffinity(0)) + 1)
    replies = Replies(clock, at=1)

    Spin().wait(replies)

    assert replies.looks == 0


def test_a_spin_is_bounded_whatever_the_worker_does(clock, busy):
    busy(1)

    Spin().wait(Replies(clock))

    assert clock.now <= LONGEST_S + 20e-6


def test_what_never_pays_is_hardly_tried_any_more_and_starts_again_once_it_has_paid(clock, busy):
    busy(1)
    slow, spinning, tried = Replies(clock), Spin(), []
    for call in range(2000):
        before = slow.looks
        spinning.wait(slow)
        if slow.looks > before:
            tried.append(call)

    assert len(tried) < 16
    assert tried[-1] - tried[-2] == MOST_SKIPPED + 1

    quick = Replies(clock, at=1)
    for _ in range(MOST_SKIPPED + 1):
        spinning.wait(quick)
    assert quick.looks >= 1
    before = quick.looks
    for _ in range(10):
        spinning.wait(quick)
    assert quick.looks == before + 10


@pytest.mark.parametrize("content", [b"", b"0.1 0.2 0.3 many/200 7", b"0.1 0.2"])
def test_where_it_is_not_told_how_busy_the_machine_is_nobody_spins(monkeypatch, content):
    monkeypatch.setattr(spin.os, "read", lambda *_: content)
    assert spin.runnable() == math.inf


def test_without_proc_nobody_spins(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(spin.os, "open", refuse)
    assert spin.runnable() == math.inf


def test_the_kernel_counts_this_thread_among_those_that_run():
    assert 1 <= spin.runnable() < math.inf


def test_each_hook_is_spun_for_by_itself_and_gets_what_it_gets_without(monkeypatch, start, gradients, step):
    plugin = start("obedient:Halve")
    waited = []
    monkeypatch.setattr(Spin, "wait", lambda self, _: waited.append(self))
    without = plugin.call("backward", {"gradients": gradients}, step).clone()
    monkeypatch.undo()
    monkeypatch.setattr(spin, "runnable", lambda: 1)

    spun = plugin.call("backward", {"gradients": gradients}, step)

    assert spun.buffer.equal(without.buffer)
    assert waited == [plugin._workers[0].channel._spins["gradient.backward"]]
