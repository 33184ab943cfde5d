"""Every layer made to fail, one at a time and for real: never called active, and what is required stops all.

Faults are made in processes of their own; see ``layer_faults.py``.
"""

import json
import os
import re
import subprocess
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from ringfence.hooks.errors import SandboxUnavailableError
from ringfence.isolation.doctor import diagnose
from ringfence.isolation.policy.layer_status import CONSEQUENCES, LAYERS, REQUIRED, SKIPPABLE
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec

PROGRAM = Path(__file__).parent / "layer_faults.py"
TRUSTED = "isolation: trusted"
#: Of the programs that make faults: at most this many at a time, and an answer within this.
_MOST_PROGRAMS, _ANSWER_S = 4, 170
#: Layers that a machine may do without, and that say so.
EXTRAS = {"cgroup", "namespaces"}


@dataclass(frozen=True)
class Case:
    """What becomes of one fault.

    Attributes:
        fault: Its name in ``layer_faults.FAULTS``.
        layer: The layer that does not hold.
        status: What is said of it.
        says: Part of the reason, as a pattern.
        way_out: Part of what to do; for required layers.
    """

    fault: str
    layer: str
    status: str
    says: str
    way_out: str = ""

    def __str__(self):
        return self.fault.replace(" ", "-")


CASES = [
    Case("landlock is not in the kernel", "landlock", "unavailable", "has no Landlock", "enable Landlock"),
    Case("landlock is switched off", "landlock", "unavailable", "has no Landlock", "enable Landlock"),
    Case("landlock is refused", "landlock", "failed", "Operation not permitted", "enable Landlock"),
    Case("a landlock rule is refused", "landlock", "failed", "Invalid argument", "enable Landlock"),
    Case("landlock is not enforced", "landlock", "failed", "Argument list too long", "enable Landlock"),
    Case("landlock does nothing", "landlock", "failed", "not refused", "enable Landlock"),
    Case("seccomp is not in the kernel", "seccomp", "unavailable", "without seccomp", "allow seccomp"),
    Case("seccomp is refused", "seccomp", "failed", "Permission denied", "allow seccomp"),
    Case("seccomp does nothing", "seccomp", "failed", "gave no listener", "allow seccomp"),
    Case("capabilities cannot be dropped", "privileges", "failed", "not permitted", "capset"),
    Case("dropping capabilities does nothing", "privileges", "failed", "capabilities", "capset"),
    Case("no_new_privs is refused", "privileges", "failed", "Invalid argument", "prctl"),
    Case("no_new_privs does nothing", "privileges", "failed", "no_new_privs", "prctl"),
    Case("limits are refused", "rlimits", "failed", "not allowed", "memory"),
    Case("limits do nothing", "rlimits", "failed", "data_limit", "memory"),
    Case("a file cannot be closed", "fds", "failed", "could not be closed", "/proc"),
    Case("closing a file does nothing", "fds", "failed", "could not be closed", "/proc"),
    Case("the folder cannot be changed", "environment", "failed", "scratch_is_own", "TMPDIR"),
    Case("the disk is full", "environment", "failed", "No space left", "TMPDIR"),
    Case("no more files on the disk", "environment", "failed", "No space left", "TMPDIR"),
    Case("no room for a scratch folder", "environment", "failed", "No space left", "TMPDIR"),
    Case("folders cannot be made", "environment", "failed", "Read-only", "TMPDIR"),
    Case("no thread can be started", "watchdog", "failed", "can't start new thread", "ulimit -u"),
    Case("proc is not mounted", "watchdog", "failed", "/proc is not mounted", "mount /proc"),
    Case("proc is of other processes", "watchdog", "failed", "another container", "mount /proc"),
    Case("proc tells of processes alone", "rlimits", "failed", "/proc does not tell", "mount /proc"),
    Case("namespaces are refused", "namespaces", "unavailable", "not permitted"),
    Case("namespaces are used up", "namespaces", "unavailable", "No space left"),
    Case("namespaces do nothing", "namespaces", "failed", "own_network|Operation not permitted|gave none"),
    Case("cgroups are not mounted", "cgroup", "unavailable", "no cgroup"),
    Case("cgroups are read-only", "cgroup", "unavailable", "Read-only"),
    Case("the end of the parent is not told", "process", "failed", "Invalid argument"),
    Case("the end of the parent is not told, it says", "process", "failed", "parent_death"),
    Case("a session of its own is not made", "process", "failed", "session"),
]
#: Fault to part of the message: there is no process whose layers could be looked at.
NO_PROCESS = {
    "torch cannot be imported": "it ended with status 1 as it started",
    "no process can be started": "no process for plugins could be started",
    "no worker can be forked": "no process could be added",
    "the interpreter cannot be run": "no process for plugins could be started",
}
#: What a machine may be like without a layer being any the worse for it.
HARMLESS = [
    *("memory is limited from outside", "proc hides other processes"),
    *("there are no accounts", "there is no home", "there is no shared memory"),
    "a supervisor decides on other calls",
]


class Faults:
    """Makes faults, each in a process of its own, on all cores: those too that tests will ask for next."""

    def __init__(self, new_folder, expected):
        # Not below a folder that is this user's alone: root without rights may not enter it.
        self._errors = new_folder("faults") / "stderr"
        self._new_folder = new_folder
        self._programs = SimpleQueue()
        self._cores = min(_MOST_PROGRAMS, len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(self._cores)
        self._expected = deque(expected)
        self._found = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._threads.shutdown(cancel_futures=True)
        while not self._programs.empty():
            program = self._programs.get()
            program.stdin.close()
            program.stdout.close()
            assert program.wait(30) == 0

    def make(self, fault):
        """Return what came of a fault; it is made once."""
        self._begin(fault)
        while self._expected and sum(not found.done() for found in self._found.values()) < 2 * self._cores:
            self._begin(self._expected.popleft())
        result = self._found[fault].result(_ANSWER_S)
        if "skip" in result:
            pytest.skip(f"{fault}: {result['skip']}")
        assert "raised" not in result, self._errors.read_text()
        return result

    def _begin(self, fault):
        if fault not in self._found:
            task = {"fault": fault, "folder": str(self._new_folder("fault"))}
            self._found[fault] = self._threads.submit(self._ask, task)

    def _ask(self, task):
        try:
            program = self._programs.get_nowait()
        except Empty:
            program = self._start()
        try:
            program.stdin.write(json.dumps(task) + "\n")
            program.stdin.flush()
            return json.loads(program.stdout.readline())
        finally:
            self._programs.put(program)

    def _start(self):
        with self._errors.open("a") as log:
            return subprocess.Popen(
                [sys.executable, PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                text=True,
            )


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    """Make a fault in a process of its own and return what came of it."""
    with Faults(tmp_path_factory.mktemp, expected(request)) as faults:
        yield faults.make


def expected(request):
    """Return the faults that tests of this module which were chosen ask for by a parameter."""
    items = [item for item in request.session.items if item.path == request.path]
    found = [getattr(item, "callspec", None) for item in items]
    for params in (spec.params for spec in found if spec is not None):
        yield params["case"].fault if "case" in params else params["fault"]


def statuses(result):
    return {layer["name"]: layer["status"] for layer in result["doctor"]["layers"]}


def details(result):
    return {layer["name"]: layer["detail"] for layer in result["doctor"]["layers"]}


def assert_nothing_left(result):
    assert result["left"] == {"processes": False, "files": []}
    assert result["cgroups"] == []


def test_without_a_fault_every_layer_is_active_and_verified(made):
    result = made("none")
    assert set(statuses(result)) == set(LAYERS)
    assert {name for name, status in statuses(result).items() if status != "active"} <= EXTRAS
    assert all(layer["verified_by"] for layer in result["doctor"]["layers"] if layer["status"] == "active")
    assert result["doctor"]["usable"]
    assert result["plugin"] == {"answer": [0.5, 0.5, 0.5], "layers": statuses(result)}
    assert_nothing_left(result)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_layer_that_fails_is_never_called_active(made, case):
    result = made(case.fault)

    assert statuses(result)[case.layer] == case.status
    assert re.search(case.says, details(result)[case.layer])
    if case.layer in REQUIRED:
        assert_refused(result, case)
    else:
        assert_goes_on(result, case)
    assert_nothing_left(result)


def assert_refused(result, case):
    message = result["plugin"].get("message", "it ran")
    assert result["plugin"]["error"] == "SandboxUnavailableError", message
    assert f"{case.layer}: {case.status}: " in message
    assert re.search(case.says, message)
    assert CONSEQUENCES[case.layer] in message
    assert case.way_out in message.partition("To go on: ")[2]
    assert TRUSTED in message
    assert not result["doctor"]["usable"]
    assert not result["doctor"]["grade"].startswith("A")
    assert "refuses to run untrusted plugins here" in result["printed"]
    assert f"REQUIRED: {CONSEQUENCES[case.layer]}" in result["printed"]


def assert_goes_on(result, case):
    assert result["plugin"]["answer"] == [0.5, 0.5, 0.5]
    assert result["plugin"]["layers"][case.layer] == case.status
    assert result["doctor"]["usable"]
    assert f"not required: {CONSEQUENCES[case.layer]}" in result["printed"]
    others = {name for name, status in statuses(result).items() if status != "active"} - {case.layer}
    assert others <= EXTRAS


@pytest.mark.parametrize("fault", NO_PROCESS, ids=lambda fault: fault.replace(" ", "-"))
def test_where_no_process_can_be_locked_up_no_layer_is_called_active(made, fault):
    result = made(fault)
    assert statuses(result) == {}
    assert not result["doctor"]["usable"]
    assert NO_PROCESS[fault] in result["doctor"]["fault"]
    assert result["plugin"]["error"] == "SandboxUnavailableError"
    assert NO_PROCESS[fault] in result["plugin"]["message"]
    assert "refuses to run untrusted plugins here" in result["printed"]
    assert_nothing_left(result)


@pytest.mark.parametrize("fault", HARMLESS, ids=lambda fault: fault.replace(" ", "-"))
def test_what_a_layer_does_not_need_may_be_missing(made, fault):
    result = made(fault)
    assert {name for name, status in statuses(result).items() if status != "active"} <= EXTRAS
    assert result["plugin"]["answer"] == [0.5, 0.5, 0.5]
    assert_nothing_left(result)


def test_a_watchdog_that_has_ended_lets_no_plugin_start():
    with Sandbox() as sandbox:
        sandbox.watchdog.close()
        with pytest.raises(SandboxUnavailableError, match="watchdog: failed: its thread has ended"):
            sandbox.start(PluginSpec("halve", "tests", "1.0", "obedient", "Halve", "gradient"))
        assert not diagnose(sandbox=sandbox).usable


def test_a_limit_below_the_budget_is_told(made):
    detail = details(made("memory is limited from outside"))["rlimits"]
    assert "not the" in detail
    assert "ulimit -d is lower" in detail


def test_where_another_supervisor_listens_it_is_told_that_attempts_are_not(made):
    result = made("a supervisor decides on other calls")
    assert "attempts cannot be told" in details(result)["seccomp"]
    assert "attempts cannot be told" in result["printed"]


@pytest.mark.soak  # waits for a deadline, twice
def test_a_probe_that_hangs_proves_nothing(made):
    result = made("a probe hangs")
    assert statuses(result) == {}
    assert "did not say within 30 s how its layers stand" in result["doctor"]["fault"]
    assert result["plugin"]["error"] == "SandboxUnavailableError"
    assert_nothing_left(result)


def test_every_layer_but_the_messages_is_made_to_fail():
    """What a plugin sends is checked by code of ours, which no machine lacks."""
    assert {case.layer for case in CASES} == set(LAYERS) - {"messages"}
    assert set(SKIPPABLE) == set(LAYERS) - {"watchdog", "messages"}
