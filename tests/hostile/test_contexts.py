"""The matrix once more, as an ordinary user and inside a box; see ``contexts.py``."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from itertools import filterfalse
from pathlib import Path

import pytest

from .contexts import CANNOT, CONTEXTS

PROGRAM = Path(__file__).parent / "contexts.py"
MATRIX = "tests/hostile/test_matrix.py"
FAILING_LAYERS = "tests/hostile/test_layers_fail.py"
ELSEWHERE = ("user", "box")
_SECTION = "hostile plugins"


def start(context, *arguments):
    """Start tests in ``context``, as processes of one group."""
    return subprocess.Popen(
        [sys.executable, PROGRAM, context, "-q", "--tb=short", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def outcome(running):
    """Return what tests printed, the summary of the matrix included."""
    printed, _ = running.communicate(timeout=1000)
    if running.returncode == CANNOT:
        pytest.skip(printed.strip())
    assert running.returncode == 0, printed[-20_000:]
    return printed


def run(context, *arguments):
    """Run tests in ``context``; returns what they printed."""
    with start(context, *arguments) as running:
        return outcome(running)


@pytest.fixture(scope="module")
def contained(request):
    """Start the matrix in every context that was chosen, beside each other; returns how to wait for one.

    Nothing that it looks at is shared: folders, processes, listeners and control groups are each run's own.
    """
    chosen = [item.callspec.params["context"] for item in request.session.items if _waits_for_one(item)]
    with ExitStack() as stack:
        running = {}
        for context in filterfalse(is_here, chosen):
            running[context] = stack.enter_context(start(context, MATRIX, "-k", "contained"))
            stack.callback(end, running[context])
        yield lambda context: outcome(running[context])


def end(running):
    """End what still runs, its children included."""
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)


def _waits_for_one(item):
    return "contained" in getattr(item, "fixturenames", ())


def is_here(context):
    """Tell whether these tests themselves run in this context."""
    return context == "user" and os.geteuid() != 0


def summary(printed):
    """Return the lines that tell how many attacks were tried and contained."""
    lines = iter(printed.splitlines())
    for line in lines:
        if line.startswith("=") and _SECTION in line:
            break
    found = []
    for line in lines:
        if line.startswith("="):
            break
        found.append(line)
    return found


@pytest.mark.room
@pytest.mark.timeout(600)
@pytest.mark.parametrize("context", ELSEWHERE)
def test_every_attack_is_contained_elsewhere_too(context, contained, record_property):
    if is_here(context):
        pytest.skip("these tests run as an ordinary user already")
    lines = summary(contained(context))
    assert lines, "the matrix told nothing of attacks"
    record_property("context", f"{context}: {lines[0]}")


@pytest.mark.soak
@pytest.mark.timeout(1100)
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_attack_and_every_control_elsewhere(context, record_property):
    lines = summary(run(context, MATRIX))
    assert lines, "the matrix told nothing of attacks"
    for line in lines:
        record_property("context", f"{context}: {line}")


@pytest.mark.soak
@pytest.mark.timeout(1100)
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_layer_that_fails_elsewhere(context):
    run(context, FAILING_LAYERS)


@pytest.mark.room
def test_what_was_covered_for_another_user_is_as_it_was(tmp_path):
    """The mounts of a run as another user are its own: nothing of them is seen outside, or stays."""
    mounts = Path("/proc/self/mountinfo").read_text()
    run("user", "--collect-only", "tests/isolation/test_doctor.py")
    assert Path("/proc/self/mountinfo").read_text() == mounts
