"""The first lines that a plugin prints are told with its name; files that it leaves are told as gone."""

import contextlib
import time

import pytest

from ringfence import PluginCrashedError, PluginError, StepInfo
from ringfence.plugins.manager import Hooks
from ringfence.plugins.observer import Observer
from ringfence.plugins.printed_output import MAX_LINES


class Told(Observer):
    def __init__(self):
        self.events = []

    def event(self, message):
        self.events.append(message)


@pytest.fixture
def run(start, gradients):
    """Run one step with a plugin of the folder beside this file; return what was told, and the plugin."""

    def ran(where, **options):
        told = Told()
        hooks = Hooks(observer=told)
        plugin = start(where, options=options)
        hooks.register(plugin)
        try:
            hooks.fire(hooks.at.gradients, {"gradients": gradients, "parameters": gradients}, StepInfo(0))
        finally:
            hooks.close()
        return told.events, plugin

    return ran


def test_what_it_prints_is_told_line_by_line_the_last_one_without_an_end_too(run):
    events, plugin = run("talking:Talking")

    lines = ["made \\x1b[2J", "to stderr", "no end"]
    assert events == [f"plugin 'talking' printed: {line}" for line in lines]
    assert plugin.usage.output.count == 3


def test_of_a_flood_the_first_lines_are_told_and_all_are_counted(run):
    events, plugin = run("talking:Talking", lines=20_000)

    assert len(events) == MAX_LINES + 1
    assert events[:3] == [
        f"plugin 'talking' printed: {line}" for line in ("made \\x1b[2J", "line 0", "line 1")
    ]
    assert events[-1] == "plugin 'talking' printed more, which is only counted"
    assert plugin.usage.output.count == 20_003


def test_what_python_writes_as_a_signal_ends_it_is_no_line_of_its_own(run, start, gradients):
    plugin = start("talking:Talking", options={"crash": True})
    with pytest.raises(PluginCrashedError, match="SIGABRT"):
        plugin.call("backward", {"gradients": gradients}, StepInfo(0))
    plugin.close()

    assert plugin.usage.output.shown == ["made \\x1b[2J", "to stderr"]


@pytest.mark.parametrize("fault", ["raise", "hang", "nan"])
@pytest.mark.parametrize("on_failure", ["restart", "disable"])
def test_its_last_lines_before_a_fault_are_told_with_the_fault(start, gradients, fault, on_failure):
    told = Told()
    hooks = Hooks(observer=told)
    options = {"lines": 40, "fault": fault}
    hooks.register(start("talking:Talking", options=options, on_failure=on_failure, deadline_s=1.0))
    with contextlib.nullcontext() if on_failure == "disable" else pytest.raises(PluginError):
        hooks.fire(hooks.at.gradients, {"gradients": gradients, "parameters": gradients}, StepInfo(0))

    lines = [f"line {number}" for number in range(31, 40)] + ["to stderr"]
    last = [f"plugin 'talking' printed last: {line}" for line in lines]
    shown = told.events[: MAX_LINES + 1 + len(last)]
    assert shown[-len(last) :] == last
    assert shown[MAX_LINES] == "plugin 'talking' printed more, which is only counted"
    # What is decided follows, by whoever decides.
    assert len(told.events) - len(shown) == (on_failure == "disable")


def test_without_a_monitor_news_are_told_at_a_snapshot(start, gradients):
    told = Told()
    hooks = Hooks(observer=told)
    plugin = start("talking:Talking")
    hooks.register(plugin)
    hooks.fire(hooks.at.gradients, {"gradients": gradients, "parameters": gradients}, StepInfo(0))
    deadline = time.monotonic() + 10
    while plugin.usage.output.count < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    hooks.progressed()

    assert told.events[-1] == "plugin 'talking' printed: to stderr"


@pytest.mark.parametrize(
    ("files", "named"), [(0, None), (1, "0\\n"), (2, "0\\n, 1\\n"), (40, "…")], ids=["0", "1", "2", "40"]
)
def test_files_that_it_leaves_are_told_once_as_gone(run, files, named):
    events, plugin = run("talking:Leaving", files=files)

    assert len(events) == (named is not None)
    if named is not None:
        assert events[0].startswith("plugin 'leaving' left files in its working folder (")
        assert f"{named}): they are gone with its sandbox" in events[0]
        assert events[0].endswith("a folder that the job grants it: write: [/A/FOLDER]")
        assert len(plugin.usage.left_files) < 20
