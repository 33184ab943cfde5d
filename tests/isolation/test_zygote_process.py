"""The process that workers are forked from is started before this one imports torch; one sandbox takes it."""

import gc
import subprocess
import sys

import psutil
import pytest

from ringfence.isolation.host.processes import zygote_process
from ringfence.isolation.host.processes.zygote_client import Zygote
from ringfence.isolation.host.processes.zygote_process import EarlyZygote
from ringfence.isolation.sandbox import Sandbox
from ringfence.isolation.worker import zygote


@pytest.fixture
def early(monkeypatch):
    """One that is started early, and the ids of all that are started."""
    start, pids = zygote_process.start_process, []

    def note(**settings):
        started = start(**settings)
        pids.append(started[0].pid)
        return started

    monkeypatch.setattr(zygote_process, "start_process", note)
    with EarlyZygote() as zygote:
        yield zygote, pids


def test_the_first_sandbox_takes_it_and_no_other_does(early):
    early_one, (pid,) = early
    with Sandbox(zygote=early_one) as first, Sandbox(zygote=early_one) as second:
        assert first._zygote.pid == pid
        assert second._zygote.pid != pid
    assert not psutil.pid_exists(pid)


def test_it_answers_as_any_other(early):
    zygote = Zygote(0, started=early[0].take())
    try:
        assert not zygote.has_ended()
        # Of a process that it never had it knows nothing.
        assert zygote.reap(1) is None
        assert not zygote.has_ended()
    finally:
        zygote.close()


def test_it_ends_with_the_context_if_nobody_takes_it():
    with EarlyZygote() as zygote:
        pid = zygote._started[0].pid
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def test_it_is_not_taken_where_one_now_would_search_other_folders(early, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    assert early[0].take() is None
    assert not psutil.pid_exists(early[1][0])


def test_where_none_can_be_started_or_is_needed_there_is_none(monkeypatch):
    asked = []

    def refuse(**settings):
        asked.append(settings)
        raise OSError("no more processes")

    monkeypatch.setattr(zygote_process, "start_process", refuse)
    with EarlyZygote() as zygote:
        assert zygote.take() is None
    assert asked == [{"eager": True}]
    with EarlyZygote(needed=False) as zygote:
        assert zygote.take() is None
    assert len(asked) == 1


def test_to_start_it_takes_no_torch():
    code = f"import sys, {zygote_process.__name__}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_is_imported_for_all_is_never_looked_through_and_the_rest_is():
    gc.disable()
    try:
        zygote.load(("json",))
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
