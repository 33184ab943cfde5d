"""No deadline runs while the trainer is stopped, and each does while a busy machine keeps it waiting."""

import time

import pytest

from ringfence.isolation.host.limits.deadlines import HostClock, runnable_seconds


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
    before, until = runnable_seconds(), time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    if not before:
        pytest.skip("this kernel does not tell for how long a thread was ready to run")
    # The kernel counts when a thread goes from a core, or a tick is over.
    assert runnable_seconds() - before >= 0.03
