"""The process that workers are forked from is started before this one imports torch; one sandbox takes it."""

import subprocess
import sys

import psutil
import pytest

from ringfence.isolation.host.processes import zygote_process
from ringfence.isolation.host.processes.zygote_client import Zygote
from ringfence.isolation.host.processes.zygote_process import drop_early, early_zygote


def early_pid():
    (early,) = zygote_process._EARLY
    return early.started[0].pid


def test_the_first_zygote_is_the_one_that_was_started_early_and_no_other_is():
    with early_zygote():
        pid = early_pid()
        zygotes = [Zygote(0), Zygote(0), Zygote(1)]
        try:
            assert [zygote.pid == pid for zygote in zygotes] == [True, False, False]
        finally:
            for zygote in zygotes:
                zygote.close()


def test_the_one_started_early_forks_workers_as_any_other():
    with early_zygote():
        zygote = Zygote(0)
    try:
        assert not zygote.has_ended()
        # It answers: of a process that it never had it knows nothing.
        assert zygote.reap(1) is None
        assert not zygote.has_ended()
    finally:
        zygote.close()


def test_it_ends_with_the_context_if_nobody_takes_it():
    with early_zygote():
        pid = early_pid()
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def test_it_ends_where_it_is_known_that_no_plugin_needs_it():
    with early_zygote():
        pid = early_pid()
        drop_early()
        assert not psutil.pid_exists(pid)


def test_it_is_not_taken_where_one_now_would_search_other_folders(monkeypatch, tmp_path):
    with early_zygote():
        pid = early_pid()
        monkeypatch.syspath_prepend(str(tmp_path))
        zygote = Zygote(0)
        try:
            assert zygote.pid != pid
            assert not psutil.pid_exists(pid)
        finally:
            zygote.close()


def test_where_none_can_be_started_the_sandbox_is_to_tell(monkeypatch):
    def refuse(**_):
        raise OSError("no more processes")

    monkeypatch.setattr(zygote_process, "start_process", refuse)
    with early_zygote(), pytest.raises(OSError, match="no more processes"):
        Zygote(0)


def test_to_start_it_takes_no_torch():
    code = f"import sys, {zygote_process.__name__}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
