"""Attacks that are on nobody's list and that end the plugin, or the wrong process."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from ringfence import PluginCrashedError, PluginProtocolError
from ringfence.isolation.host.limits.file_locks import locks_by_process
from ringfence.plugins.result_checks import MAX_NAMES

_MANY = 5000


@pytest.mark.attack("x16")
def test_locks_without_end_end_the_plugin_alone(stage):
    outcome = stage.run(stage.attacker("off_list:record_locks", "Saboteur"))

    assert isinstance(outcome.error, PluginCrashedError)
    assert "locks on files" in str(outcome.error)
    assert outcome.weights == stage.reference


@pytest.mark.control("x16")
def test_without_a_sandbox_nothing_bounds_locks():
    with tempfile.TemporaryFile() as file:
        for number in range(_MANY):
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * number)
        assert locks_by_process()[os.getpid()] >= _MANY


@pytest.mark.attack("x17")
def test_names_without_end_are_refused(stage):
    outcome = stage.run(stage.attacker("off_list:names_without_end", "Saboteur"))

    assert isinstance(outcome.error, PluginProtocolError)
    assert len(outcome.codes) <= MAX_NAMES
    assert outcome.weights == stage.reference


@pytest.mark.attack("x18")
def test_the_kernel_ends_a_plugin_before_its_trainer_when_memory_is_short(stage):
    seen = []

    def look(pid):
        seen.append([int(Path(f"/proc/{who}/oom_score_adj").read_text()) for who in (pid, "self")])
        return tempfile.TemporaryDirectory()

    assert stage.run(stage.attacker("off_list:outlive"), watch=look).error is None

    (plugin, trainer), *_ = seen
    assert plugin == 1000
    assert trainer < plugin
