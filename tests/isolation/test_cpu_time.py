"""A plugin that takes more processor time than its job allows goes last; one that does not pays nothing."""

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ringfence import StepInfo, TensorMap
from ringfence.isolation.host.limits.account import Account
from ringfence.isolation.host.limits.cpu_time import (
    CallClock,
    Meter,
    processor_seconds,
    put_last,
    put_session_last,
)
from ringfence.plugins.interface import PluginUsage
from ringfence.plugins.notices import PluginNews

from ..watching import until

#: Part of the processor time of both that spinning threads get beside the trainer once they go last, at most.
LITTLE = 0.15
#: And if they are left alone, at least.
PLENTY = 2 * LITTLE
GRADIENTS = TensorMap.like({"weight": torch.ones(4)})


def call(plugin):
    plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(0))


def policies(plugin):
    """Return how the threads of a plugin's first worker are scheduled, less those that have just ended."""
    found = set()
    for path in Path(f"/proc/{plugin._workers[0].channel.process.pid}/task").iterdir():
        try:
            found.add(os.sched_getscheduler(int(path.name)))
        except ProcessLookupError:
            continue
    return found


@pytest.mark.parametrize("way", ["spin", "relay"])
def test_threads_that_spin_on_after_the_call_go_last(start, way):
    plugin = start("greedy:Greedy", options={"threads": 8, "way": way})
    call(plugin)
    assert until(lambda: plugin.usage.demoted)
    assert until(lambda: policies(plugin) == {os.SCHED_IDLE})
    weight = Path(f"/proc/{plugin._workers[0].channel.process.pid}/autogroup")
    assert not weight.exists() or weight.read_text().endswith("nice 19\n")
    assert "0.5 s more than 1 core for the" in plugin.usage.demoted
    assert "raise its 'threads'" in plugin.usage.demoted


def test_it_stays_last_when_it_is_started_anew(start):
    plugin = start("greedy:Greedy", options={"threads": 4})
    call(plugin)
    assert until(lambda: plugin.usage.demoted)
    plugin.restart()
    assert until(lambda: policies(plugin) == {os.SCHED_IDLE})


def test_a_plugin_that_computes_while_it_has_work_is_left_alone(start):
    plugin = start("greedy:Diligent")
    for _ in range(10):
        call(plugin)
    used = processor_seconds(plugin._workers[0].channel.process.pid)
    assert used > 1.5
    assert plugin.usage.demoted == ""
    assert policies(plugin) == {os.SCHED_OTHER}


def test_it_is_told_once_by_name():
    told_of = SimpleNamespace(spec=SimpleNamespace(name="greedy"), usage=PluginUsage(demoted="used 9.0 s"))
    told = []
    news = PluginNews(told.append)
    news.tell(told_of)
    news.tell(told_of)
    assert told == ["plugin 'greedy' used 9.0 s"]


def share_of_spinners(plugin, seconds):
    """Return the part of the processor time of both that spinning threads get beside work on all cores."""
    pid = plugin._workers[0].channel.process.pid
    work = torch.rand(256, 256)
    before, own = processor_seconds(pid), time.process_time()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        work @ work
    taken, own = processor_seconds(pid) - before, time.process_time() - own
    return taken / (taken + own)


@pytest.fixture
def all_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(before)


@pytest.mark.alone
@pytest.mark.soak
def test_a_plugin_that_spins_leaves_the_trainer_its_cores(start, all_cores, monkeypatch):
    kept = start("greedy:Greedy", options={"threads": 16})
    call(kept)
    assert until(lambda: kept.usage.demoted)
    after = share_of_spinners(kept, 1.5)
    kept.close()
    monkeypatch.setattr(Account, "weigh_time", lambda _: None)
    free = start("greedy:Greedy", options={"threads": 16})
    call(free)
    # An attack that succeeds once has succeeded: what else this machine does may hold it up for a while.
    without = 0.0
    for _ in range(8):
        without = max(without, share_of_spinners(free, 1.5))
        if without > PLENTY:
            break
    free.close()
    slower = [f"{1 / (1 - share):.2f}" for share in (after, without)]
    print(f"16 threads that spin: the trainer's time x {slower[0]}, and x {slower[1]} if left alone")
    assert after < LITTLE
    assert without > PLENTY


# the books


class Clock:
    """What a meter reads, set by hand."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        self.used = 0.0
        self.calls = CallClock()
        monkeypatch.setattr("ringfence.isolation.host.limits.cpu_time.time.monotonic", lambda: self.now)
        monkeypatch.setattr("ringfence.isolation.host.limits.cpu_time.processor_seconds", lambda _: self.used)
        self.meter = Meter(threads=1)
        self.meter.look(1, self.calls)

    def spend(self, seconds, used):
        """Let time pass, in looks of 50 ms; tell whether the meter has had enough."""
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            self.used += used * 0.05
            if self.meter.look(1, self.calls):
                return True
        return False


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_one_core_is_free_while_a_call_is_in_hand(clock):
    clock.calls.begin()
    assert not clock.spend(60, used=1.0)
    assert clock.spend(1, used=2.0)


def test_time_without_a_call_allows_no_more_than_tidying_up(clock):
    assert not clock.spend(60, used=0.15)
    assert clock.spend(1, used=1.0)


def test_what_was_not_used_is_not_saved_up(clock):
    clock.calls.begin()
    assert not clock.spend(600, used=0.0)
    assert clock.spend(0.5, used=4.0)


def test_a_call_ends_with_its_last_answer(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ringfence.isolation.host.limits.cpu_time.time.monotonic", lambda: now[0])
    calls = CallClock()
    calls.begin()
    now[0] = 2.0
    calls.begin()
    assert calls.seconds(3.0) == 3.0
    now[0] = 4.0
    calls.end()
    assert calls.seconds(9.0) == 4.0


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel weighs no sessions")
@pytest.mark.parametrize("own", [True, False])
def test_no_other_session_than_the_workers_goes_last(own):
    mine = Path("/proc/self/autogroup").read_text()
    with subprocess.Popen(["/bin/sleep", "60"], start_new_session=own) as process:
        # The kernel lets one session be weighed at a time, and others may have theirs weighed.
        assert until(lambda: put_session_last(process.pid) is own)
        weight = Path(f"/proc/{process.pid}/autogroup").read_text()
        process.kill()
    assert weight.endswith("nice 19\n") is own
    assert Path("/proc/self/autogroup").read_text() == mine


def test_a_process_that_is_gone_uses_nothing_and_has_no_threads():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    assert processor_seconds(pid) is None
    assert put_last(pid)
