"""No deadline runs while the trainer is stopped, and each does while a busy machine keeps it waiting."""

import contextlib
import queue
import select
import socket
import threading
import time

import pytest

from ringfence.isolation.host.calls.channel import Channel
from ringfence.isolation.host.limits.deadlines import HostClock, is_ready_by
from ringfence.isolation.transport.messages import Detach
from ringfence.plugins.stop_request import StopRequest


@pytest.mark.parametrize(
    ("asked_s", "took_s", "runnable_s", "lost_s"),
    [
        pytest.param(0.05, 5.05, 0.0, 5.0, id="stopped"),
        pytest.param(0.05, 5.05, 0.5, 4.5, id="stopped, and kept waiting after that"),
        pytest.param(0.05, 5.05, 5.0, 0.0, id="kept waiting for a core"),
        pytest.param(0.05, 5.05, 7.0, 0.0, id="kept waiting for a core, and for the main thread"),
        pytest.param(0.05, 0.95, 0.0, 0.0, id="late"),
    ],
)
def test_only_time_in_which_nothing_was_ready_to_run_is_left_out(asked_s, took_s, runnable_s, lost_s):
    clock = HostClock()
    clock.slept(asked_s, took_s, runnable_s)

    before, now, after = time.monotonic(), clock.now(), time.monotonic()

    assert before - lost_s <= now + 1e-9
    assert now - 1e-9 <= after - lost_s


def test_a_thread_that_runs_was_ready_to():
    clock = HostClock()
    clock.runnable_s()
    burn()
    # The kernel counts when a thread goes from a core, or a tick is over.
    assert runnable_s(clock) >= 0.03


def test_a_thread_that_calls_a_plugin_may_hold_pythons_lock():
    """As where a run trains in a thread of a pool."""
    clock = HostClock()
    near, far = socket.socketpair()
    channel = Channel("caller", near, *[None] * 3, 0, None, None, clock=clock)
    orders, done = queue.SimpleQueue(), queue.SimpleQueue()

    def serve():
        for order in iter(orders.get, None):
            order()
            done.put(None)

    def ask(order):
        orders.put(order)
        done.get()

    thread = threading.Thread(target=serve)
    thread.start()
    with near, far:
        ask(lambda: channel.begin(1.0))
        clock.runnable_s()
        ask(burn)
        ran_s = runnable_s(clock)
        orders.put(None)
        thread.join()
    assert ran_s >= 0.03
    clock.runnable_s()
    assert 0.0 <= clock.runnable_s() < 0.03  # a thread that has ended takes back nothing


def test_a_stop_that_is_noted_a_moment_after_the_deadline_counts():
    clock = HostClock()
    due = clock.now() + 0.01
    assert is_ready_by(StoppedUntilTheLastLook(clock), due, StopRequest(), clock)


def test_a_deadline_that_has_passed_is_over_after_a_last_look():
    clock = HostClock()
    began = time.monotonic()
    assert not is_ready_by(select.poll(), clock.now() + 0.01, StopRequest(), clock)
    assert time.monotonic() - began >= 0.1


def test_a_stop_counts_too_while_the_worker_does_not_read():
    clock = HostClock()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel("full", near, *[None] * 3, 0, None, None, clock=clock)
    with near, far:
        fill(near)
        channel._room = StoppedUntilTheLastLook(clock, then=lambda: empty(far))
        channel.begin(0.01)
        channel.tell(Detach(1))
        assert far.recv(1024, socket.MSG_DONTWAIT)


class StoppedUntilTheLastLook:
    """A poll in a process that was stopped, and notes so in its last look only; the next look finds all.

    Args:
        clock: Is told of the stop.
        then: What the other end does after that.
    """

    def __init__(self, clock, then=lambda: None):
        self._looks = iter((lambda: time.sleep(0.02), lambda: clock.slept(0.05, 60.0), then))
        self._left = 3

    def poll(self, milliseconds):
        assert milliseconds > 0
        next(self._looks)()
        self._left -= 1
        return self._left == 0


def fill(sock):
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"x", socket.MSG_DONTWAIT)


def empty(sock):
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.recv(1, socket.MSG_DONTWAIT)


def burn():
    """Keep a core busy for 0.05 s."""
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass


def runnable_s(clock):
    seconds = clock.runnable_s()
    if not seconds:
        pytest.skip("this kernel does not tell for how long a thread was ready to run")
    return seconds
