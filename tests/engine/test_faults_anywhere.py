"""Whenever a fault comes, the run ends with the weights of one without it, or can be resumed to them."""

import contextlib
import time

import pytest
from engine_helpers import (
    FAULTS,
    Jitter,
    Listener,
    Momentum,
    Noise,
    StopAt,
    TapeRecorder,
    Watcher,
    adamw,
    asking,
    config,
    convnet,
    hooks_of,
    image_data,
    plugin,
    run,
)

from ringfence.engine.checkpoints.checkpoint import read_latest
from ringfence.engine.weights import weights_sha256
from ringfence.hooks.errors import (
    CheckpointError,
    PluginCrashedError,
    PluginProtocolError,
    RunAbortedError,
    SandboxUnavailableError,
)
from ringfence.plugins import failure_policy

SNAPSHOT_EVERY = 4
STEPS = 21


@pytest.fixture(autouse=True)
def _no_faults_left(monkeypatch):
    """Start without faults to come, and without pauses; the one test of those has them put back."""
    monkeypatch.setattr(failure_policy, "BACK_OFF_S", (0.0, 0.0, 0.0))
    FAULTS.clear()
    yield
    assert FAULTS == []


def crash(one, method):
    return PluginCrashedError("ended by SIGKILL", plugin=one.spec.name, hook=f"{one.spec.role}.{method}")


def failing(one, method, *calls):
    """Let ``one`` crash in the calls of ``method`` with these numbers, the first of which is 1."""
    original, made = getattr(one, method), []

    def sometimes(*arguments):
        made.append(1)
        if len(made) in calls:
            raise crash(one, method)
        return original(*arguments)

    setattr(one, method, sometimes)
    return one


class Course:
    """The network with dropout and batch norm, under plugins of all roles that have state."""

    def __init__(self):
        self.model = convnet()
        self.noise = plugin(Noise, "ahead")
        self.jitter = plugin(Jitter)
        self.momentum = plugin(Momentum)
        self.optim = adamw()
        self.watcher = plugin(Watcher)
        self.listener = Listener()
        self.observer = TapeRecorder()
        self.hooks = hooks_of(
            self.noise, self.jitter, self.momentum, self.optim, self.watcher, observer=self.listener
        )

    def train(self, **more):
        self.observer = more.pop("observer", self.observer)
        settings = config(**{"snapshot_every": SNAPSHOT_EVERY} | more.pop("settings", {}))
        return run(self.model, image_data(), self.hooks, settings, observer=self.observer, **more)

    @property
    def faults(self):
        return self.hooks.failures.log.records


@pytest.fixture(scope="module")
def reference():
    course = Course()
    result = course.train()
    assert result.steps == STEPS
    return course


def agree(course, reference):
    """Compare weights and record with those of a run without a fault."""
    assert weights_sha256(course.model) == weights_sha256(reference.model)
    assert course.observer.tape == reference.observer.tape


@pytest.mark.parametrize(
    ("name", "method", "calls", "lost"),
    [
        ("optim", "state_dict", (1,), [0]),  # before the first snapshot
        ("momentum", "state_dict", (1, 2, 3), [0, 0, 0]),
        ("momentum", "state_dict", (4,), [4]),
        ("watcher", "state_dict", (3,), [4]),  # asked last
        ("watcher", "drain", (2,), [4]),
        ("watcher", "poll", (2,), [1]),
    ],
)
def test_a_fault_at_a_snapshot(reference, name, method, calls, lost):
    course = Course()
    failing(getattr(course, name), method, *calls)
    course.train()
    agree(course, reference)
    assert [(fault.decision, fault.steps_lost) for fault in course.faults] == [
        ("restarted", each) for each in lost
    ]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("momentum", "momentum"),  # itself, as it is given its state back
        ("momentum", "optim"),  # another one
        ("optim", "jitter"),
    ],
)
def test_a_fault_as_a_state_is_given_back(reference, first, then):
    course = Course()
    failing(getattr(course, then), "load_state_dict", 1)
    FAULTS.append((first, "backward", 10))
    course.train()
    agree(course, reference)
    assert [(fault.plugin, fault.steps_lost) for fault in course.faults] == [(first, 2), (then, 0)]
    assert all(fault.recovery_s > 0 for fault in course.faults)


@pytest.mark.parametrize("step", [0, 10, STEPS - 1])
def test_faults_of_restarts_in_two_plugins_at_once(reference, step):
    """Both fail at one step, and one of them does not start the first two times."""
    course = Course()
    failing(course.optim, "restart", 1, 2)
    FAULTS.extend([("momentum", "backward", step), ("optim", "backward", step)])
    course.train()
    agree(course, reference)
    told = [(fault.plugin, fault.decision) for fault in course.faults]
    assert told.count(("momentum", "restarted")) == 1
    assert told.count(("optim", "restarted")) == 3
    assert len(course.listener.events) == 4


def test_a_restart_for_which_there_is_no_process_is_tried_again(reference):
    """As when the machine is short of processes for a moment, or the one to fork from hangs."""
    course, missing = Course(), [1, 2]
    restart = course.optim.restart

    def sometimes():
        if missing:
            missing.pop()
            raise SandboxUnavailableError("no process could be started")
        restart()

    course.optim.restart = sometimes
    FAULTS.append(("optim", "backward", 10))
    course.train()
    agree(course, reference)
    assert [fault.error for fault in course.faults] == ["PluginRaisedError", *["PluginLoadError"] * 2]
    assert "could not be restarted: no process could be started" in course.faults[1].message


@pytest.mark.parametrize("step", [0, 3, 12, STEPS - 1])
def test_a_fault_of_a_plugin_that_runs_ahead(reference, step):
    course = Course()
    FAULTS.append(("", "forward", step))
    # It is told under the name that its faults are listed by.
    course.train()
    agree(course, reference)
    assert [fault.plugin for fault in course.faults] == ["ahead"]


@pytest.mark.parametrize("calls", [(STEPS,), (STEPS + 1,)])
def test_a_fault_after_the_last_step(tmp_path, reference, calls):
    """The last snapshot fails: the run goes back, takes the last steps again, and evaluates again."""
    course = Course()
    drained = []
    drain = course.watcher.drain

    def sometimes():
        drained.append(course.hooks.failures.log.count)
        if course.observer.tape and course.observer.tape[-1][:2] == ("evaluated", STEPS) and not drained[-1]:
            raise crash(course.watcher, "backward")
        return drain()

    course.watcher.drain = sometimes
    course.train(checkpoints=tmp_path / "checkpoints" if calls == (STEPS,) else None)
    agree(course, reference)
    assert [fault.plugin for fault in course.faults] == ["watcher"]


def test_a_fault_before_the_first_snapshot_that_stays_ends_the_run_as_it_is():
    course = Course()
    failing(course.optim, "state_dict", 1, 2, 3, 4)
    with pytest.raises(PluginCrashedError, match="restarted 3 times in a row"):
        course.train()
    assert [fault.decision for fault in course.faults] == ["restarted"] * 3 + ["aborted"]


def test_a_state_that_is_no_state_is_not_asked_for_again():
    course = Course()

    def nonsense():
        raise PluginProtocolError("no plain data", plugin="optim", hook="optimizer.state_dict")

    course.optim.state_dict = nonsense
    with pytest.raises(PluginProtocolError):
        course.train()
    assert [fault.decision for fault in course.faults] == ["aborted"]


# while the run is being stopped


@pytest.mark.parametrize("at", [1, 4, 10])
def test_a_fault_as_the_run_is_interrupted(tmp_path, reference, at):
    """The snapshot that is to be kept fails: the one before is, and no plugin is started for nothing."""
    course = Course()
    stopping = StopAt(at)
    original, restarted = course.momentum.state_dict, []
    course.momentum.restart = lambda: restarted.append(1)

    def once_stopped():
        if stopping.stop():
            raise crash(course.momentum, "state_dict")
        return original()

    course.momentum.state_dict = once_stopped
    last = (at - 1) // SNAPSHOT_EVERY * SNAPSHOT_EVERY
    result = course.train(observer=stopping, checkpoints=tmp_path, stop=asking(stopping.stop))
    assert (result.status, result.steps, result.checkpoint.name) == (
        "interrupted", last, f"step-{last:08d}"
    )  # fmt: skip
    assert restarted == []
    assert [(fault.decision, fault.steps_lost) for fault in course.faults] == [("aborted", at - last)]
    assert course.listener.events == [course.faults[0].message]

    resumed = Course()
    resumed.train(observer=TapeRecorder(stopping.tape), checkpoints=tmp_path, resume=True)
    agree(resumed, reference)


def test_a_pause_before_a_restart_ends_when_the_user_wants_the_run_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(failure_policy, "BACK_OFF_S", (60.0, 60.0, 60.0))
    course, began = Course(), []

    def stop():
        if course.faults and not began:
            began.append(time.monotonic())
        return bool(began) and time.monotonic() > began[0] + 0.1

    FAULTS.append(("optim", "backward", 10))
    result = course.train(checkpoints=tmp_path, stop=asking(stop))
    assert (result.status, result.steps) == ("interrupted", 8)
    assert 0.1 <= time.monotonic() - began[0] < 60


def test_a_run_that_stops_while_a_plugin_does_not_start_is_interrupted_not_aborted(tmp_path, reference):
    course = Course()
    failing(course.optim, "restart", 1, 2, 3, 4)
    FAULTS.append(("optim", "backward", 10))
    result = course.train(checkpoints=tmp_path, stop=asking(lambda: course.hooks.failures.log.count >= 2))
    assert (result.status, result.steps) == ("interrupted", 8)
    assert [fault.decision for fault in course.faults] == ["restarted", "restarted", "aborted"]
    resumed = Course()
    resumed.train(checkpoints=tmp_path, resume=True)
    assert weights_sha256(resumed.model) == weights_sha256(reference.model)


# what is on disk


class NoRoom(TapeRecorder):
    """A record that cannot be written once a plugin has failed."""

    def rolled_back(self, to_step, position):
        raise RunAbortedError("the disk is full")


def test_an_abort_on_a_full_disk_still_tells_of_the_fault_and_of_the_checkpoint_there_is(tmp_path):
    course = Course()
    failing(course.optim, "restart", 1, 2, 3, 4)
    FAULTS.append(("optim", "backward", 10))
    with pytest.raises(RunAbortedError) as caught:
        course.train(observer=NoRoom(), checkpoints=tmp_path / "checkpoints")
    message = str(caught.value)
    assert "plugin 'optim'" in message
    assert "could not be kept: the disk is full" in message
    assert f"go on from {tmp_path / 'checkpoints' / 'step-00000007'} with `--resume {tmp_path}`" in message


def test_a_resumed_run_that_ends_at_once_names_the_checkpoint_that_it_came_from(tmp_path, reference):
    checkpoints = tmp_path / "checkpoints"
    first = Course()
    stopping = StopAt(9)
    first.train(observer=stopping, checkpoints=checkpoints, stop=asking(stopping.stop))

    second, told = Course(), []
    second.observer.checkpointed = lambda step, path: told.append((step, path.name))
    failing(second.optim, "restart", 1, 2, 3, 4)
    FAULTS.append(("optim", "backward", 10))
    with pytest.raises(RunAbortedError, match=r"after 9 steps is in .*step-00000009"):
        second.train(checkpoints=checkpoints, resume=True)
    assert told == [(9, "step-00000009")]

    third = Course()
    third.train(checkpoints=checkpoints, resume=True)
    assert weights_sha256(third.model) == weights_sha256(reference.model)


@pytest.mark.parametrize("name", ["jitter", "momentum", "optim"])
def test_a_crash_as_a_resumed_plugin_is_given_its_state_is_recovered(tmp_path, reference, name):
    stopping = StopAt(9)
    Course().train(observer=stopping, checkpoints=tmp_path, stop=asking(stopping.stop))
    resumed = Course()
    failing(getattr(resumed, name), "load_state_dict", 1)
    resumed.train(observer=TapeRecorder(stopping.tape), checkpoints=tmp_path, resume=True)
    agree(resumed, reference)
    assert [(fault.plugin, fault.steps_lost) for fault in resumed.faults] == [(name, 0)]


def test_a_fault_while_a_checkpoint_cannot_be_written_loses_no_checkpoint_before(tmp_path, reference):
    """A plugin dies, and the disk is gone, in the same step."""
    checkpoints = tmp_path / "checkpoints"
    course = Course()
    course.observer.checkpointed = lambda step, path: (
        step == 14
        and (
            checkpoints.rename(tmp_path / "away"),
            checkpoints.write_text("in the way"),
        )
    )
    FAULTS.append(("momentum", "backward", 20))
    with pytest.raises(CheckpointError):
        course.train(checkpoints=checkpoints)
    path, _ = read_latest_of(tmp_path / "away")
    assert path.name == "step-00000014"
    resumed = Course()
    resumed.train(checkpoints=tmp_path / "away", resume=True)
    assert weights_sha256(resumed.model) == weights_sha256(reference.model)


def read_latest_of(folder):
    with contextlib.suppress(TypeError):
        return read_latest(folder, {}, note=pytest.fail)
    return read_latest(folder, lambda *_: None, note=pytest.fail)


# the breaker


def test_a_plugin_that_fails_for_ever_with_progress_between_ends_the_run_resumably(tmp_path, reference):
    """Two faults between any two snapshots: no row is ever longer than three."""
    course = Course()
    settings = {"epochs": 4, "snapshot_every": 2}
    FAULTS.extend(("momentum", "backward", step) for step in range(20))
    FAULTS.append(("momentum", "backward", 22))
    with pytest.raises(RunAbortedError, match=r"20 times within the last 2[0-9] steps") as caught:
        course.train(settings=settings, checkpoints=tmp_path)
    assert "on_failure: disable" in str(caught.value)
    assert course.momentum.usage.restarts == 20
    assert sum(fault.steps_lost for fault in course.faults) == course.hooks.failures.log.steps_lost
    expected = Course()
    expected.train(settings=settings)
    resumed = Course()
    resumed.train(settings=settings, checkpoints=tmp_path, resume=True)
    assert weights_sha256(resumed.model) == weights_sha256(expected.model)
