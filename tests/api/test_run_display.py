"""What a run shows, without a terminal and on one."""

import io
import math
import os
import pty
from dataclasses import replace

import pytest
from rich.console import Console

from ringfence import StepInfo
from ringfence.api.run_display import (
    PlainView,
    RunDisplay,
    Status,
    describe_plugins,
    duration,
    rate_words,
    status_words,
)
from ringfence.api.terminal_display import TerminalView
from ringfence.api.views import choose_view
from ringfence.plugins.interface import PluginSpec, PluginUsage
from ringfence.plugins.observer import RunInfo

INFO = RunInfo(0, 100, 10, 640, 160, 1234, "cpu", "accuracy", True)
MIB = 2**20


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Started:
    """The two attributes of a started plugin that a view reads."""

    def __init__(self, name="optim", isolation="sandbox", **usage):
        self.spec = PluginSpec(name, "dist", "1.2", "m", "C", "optimizer", isolation=isolation)
        self.usage = PluginUsage(**usage)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def progress(clock, lines):
    return RunDisplay(PlainView(lines.append, every_s=5.0, clock=clock), clock)


def take_steps(progress, clock, count, seconds=0.1, start=0):
    for step in range(start, start + count):
        clock.now += seconds
        loss = 2.0 if progress.wants_loss(StepInfo(step)) else None
        progress.step(StepInfo(step), loss, 64)


def test_log_has_a_line_every_few_seconds(progress, clock, lines):
    progress.started(INFO)
    lines.clear()
    take_steps(progress, clock, 99)
    assert len(lines) == 1  # 9.9 s have passed


def test_log_line_has_loss_rate_and_time_left(progress, clock, lines):
    progress.started(INFO)
    take_steps(progress, clock, 60)
    assert "loss 2.0000" in lines[-1]
    assert "10.0 steps/s" in lines[-1]
    assert "0:05 left" in lines[-1] or "0:04 left" in lines[-1]


def test_a_slow_first_step_says_nothing_of_the_time_left(progress, clock, lines):
    progress.started(INFO)
    take_steps(progress, clock, 1, seconds=30)
    assert "left" not in lines[-1]
    assert "steps/s" not in lines[-1]
    take_steps(progress, clock, 1, start=1)
    assert progress.status.eta_s == pytest.approx(9.8)


def test_evaluation_is_shown_at_once(progress, clock, lines):
    progress.started(INFO)
    take_steps(progress, clock, 10)
    progress.evaluated(10, 1, {"loss": 0.5, "accuracy": 0.9}, best=True)
    assert lines[-1].startswith("step 10/100  epoch 1.00")
    assert "test accuracy 0.9000" in lines[-1]
    assert progress.status.best == 0.9


def test_time_of_an_evaluation_does_not_slow_the_rate(progress, clock):
    progress.started(INFO)
    take_steps(progress, clock, 10)
    clock.now += 60
    progress.evaluated(10, 1, {"accuracy": 0.9}, best=True)
    take_steps(progress, clock, 10, start=10)
    assert math.isclose(progress.status.steps_per_s, 10.0)


def test_log_tells_memory_state_and_time_of_each_plugin(progress, clock, lines):
    plugin = Started(memory_bytes=30 * MIB, budget_bytes=100 * MIB, seconds=1.0, calls=100, restarts=2)
    progress.plugins_started([plugin], {"optimizer_backward": ["optim"]})
    progress.started(INFO)
    take_steps(progress, clock, 100)
    assert "optim running 30/100 MiB 19.2 ms/step, 2 restarts" in lines[-1]


def test_rollback_moves_the_count_back(progress, clock):
    progress.started(INFO)
    take_steps(progress, clock, 10)
    progress.rolled_back(4, None)
    assert progress.status.step == 4


def test_resumed_run_counts_from_its_first_step(progress, lines):
    progress.started(replace(INFO, first_step=40))
    assert progress.status.step == 40
    assert "resumed after step 40" in lines


def test_a_run_that_is_resumed_from_its_start_says_so(lines, clock):
    RunDisplay(PlainView(lines.append, clock=clock), clock, resumed=True).started(INFO)
    assert lines[-1] == "resumed after step 0"


def test_a_run_that_begins_is_not_told_as_resumed(progress, lines):
    progress.started(INFO)
    assert not [line for line in lines if "resumed" in line]


def test_trusted_plugin_is_marked_loudly():
    told = describe_plugins([Started(isolation="trusted")], {"optimizer_backward": ["optim"]})
    assert any("TRUSTED: runs in the trainer's own process" in line for line in told)


def test_sandboxed_plugin_is_told_with_budget_and_layers():
    told = describe_plugins([Started(budget_bytes=100 * MIB, layers=("landlock", "seccomp"))], {})
    assert told[-2:] == [
        "  optim 1.2 (optimizer): sandboxed, at most 100 MiB",
        "  layers of each sandbox: landlock, seccomp",
    ]


def test_layers_are_told_once_and_a_sandbox_that_lacks_one_is_told_of():
    whole = Started("whole", layers=("landlock", "seccomp"))
    lacking = Started("lacking", layers=("landlock",))
    told = describe_plugins([whole, lacking], {})
    assert [line for line in told if "seccomp" in line] == [
        "  lacking 1.2 (optimizer): sandboxed, at most 0 MiB, WITHOUT seccomp",
        "  layers of each sandbox: landlock, seccomp",
    ]


def test_the_last_step_is_logged_once(progress, clock, lines):
    progress.started(replace(INFO, steps_total=2))
    take_steps(progress, clock, 2, seconds=6.0)
    for _ in range(2):
        progress.evaluated(2, 0, {"accuracy": 0.5}, best=True)
    assert [line.split("  ")[0] for line in lines if line.startswith("step")] == ["step 1/2", "step 2/2"]


def test_nothing_wraps_on_80_columns(clock):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    progress = RunDisplay(TerminalView(console), clock)
    usage = {"memory_bytes": 3000 * MIB, "budget_bytes": 20000 * MIB, "calls": 123456, "skipped": 1234}
    progress.plugins_started([Started("a-plugin", state="disabled", **usage)], {})
    progress.started(replace(INFO, steps_total=100000))
    screen.truncate(0)
    take_steps(progress, clock, 20)
    progress.evaluated(20, 2, {"accuracy": 0.75}, best=True)
    progress.view.close()
    shown = screen.getvalue().splitlines()
    (row,) = {line.rstrip() for line in shown if "a-plugin" in line}
    assert row.split()[:4] == ["a-plugin", "disabled", "3000/20000", "MiB"]
    assert row.split()[-1] == "0"
    assert any("accuracy 0.7500 (best 0.7500)" in line for line in shown)
    assert any(line.rstrip().endswith("left") and "10.0 steps/s" in line for line in shown)


def test_hooks_are_told_in_order():
    told = describe_plugins([], {"augment_forward": ["a", "b"], "optimizer_backward": ["o"]})
    assert told[1:3] == ["  augment.forward: a → b", "  optimizer.backward: o"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65, "1:05"), (3700, "1:01:40"), (-1, "0:00")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_unknown_loss_is_left_out():
    assert not [word for word in status_words(Status(info=INFO)) if word.startswith("loss")]


def test_terminal_shows_a_row_for_each_plugin(clock):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140, legacy_windows=False)
    view = TerminalView(console)
    progress = RunDisplay(view, clock)
    plugins = [
        Started("optim", memory_bytes=30 * MIB, budget_bytes=100 * MIB),
        Started("augment", isolation="trusted", state="disabled"),
    ]
    progress.plugins_started(plugins, {})
    progress.started(INFO)
    take_steps(progress, clock, 20)
    progress.evaluated(20, 2, {"accuracy": 0.75}, best=True)
    view.close()
    shown = screen.getvalue()
    assert "30/100 MiB" in shown
    assert "TRUSTED" in shown
    assert "disabled" in shown
    assert "accuracy 0.7500 (best 0.7500)" in shown
    view.close()


def test_evaluations_stay_on_a_terminal(clock):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    progress = RunDisplay(TerminalView(console), clock)
    progress.started(INFO)
    for step in (10, 20):
        take_steps(progress, clock, 10, start=step - 10)
        for _ in range(2):  # the last one is told again at the end
            progress.evaluated(step, step // 10, {"loss": 0.5, "accuracy": step / 100}, best=True)
    progress.view.close()
    lasting = [line for line in screen.getvalue().splitlines() if line.endswith(("0.1000", "0.2000"))]
    assert [line.rpartition("\r")[2].rpartition("K")[2] for line in lasting] == [
        f"step {step}/100  epoch {step / 10:.2f}  test loss 0.5000  test accuracy {step / 100:.4f}"
        for step in (10, 20)
    ]


def test_a_rate_that_is_not_known_is_not_told_and_a_slow_one_is_no_zero():
    assert not [word for word in status_words(Status(info=INFO)) if "steps/s" in word]
    assert [rate_words(rate) for rate in (0.0, 0.034, 0.0004, 1.25, 120.0)] == [
        "",
        "0.034 steps/s",
        "0.0004 steps/s",
        "1.2 steps/s",
        "120.0 steps/s",
    ]


@pytest.mark.parametrize(
    ("environment", "view"),
    [
        ({"TERM": "xterm"}, TerminalView),
        ({"TERM": "dumb"}, PlainView),
        ({"TERM": "xterm", "JPY_PARENT_PID": "7"}, PlainView),
    ],
)
def test_a_cursor_is_moved_on_a_terminal_alone(monkeypatch, environment, view):
    """A command in a notebook cell is given a terminal, which is none that obeys."""
    ours, theirs = pty.openpty()
    for name in ("FORCE_COLOR", "NO_COLOR", "JPY_PARENT_PID", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb"):
        monkeypatch.setattr("sys.stdout", terminal)
        assert type(choose_view(quiet=False)) is view


def test_an_output_that_is_no_terminal_gets_plain_lines_whatever_colours_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert type(choose_view(quiet=False)) is PlainView


def test_what_is_told_commands_no_terminal():
    lines = []
    RunDisplay(PlainView(lines.append)).event("of the run: \x1b]0;owned\x07")

    assert lines == ["of the run: \\x1b]0;owned\\x07"]
