"""A plugin's fault: the run goes back to a snapshot and ends with the weights of a run without it."""

import itertools
import os
import sys
from dataclasses import replace

import pytest
from engine_helpers import (
    FAULTS,
    HalfLoss,
    Jitter,
    Listener,
    Momentum,
    Noise,
    TapeRecorder,
    TorchOptim,
    Watcher,
    adamw,
    config,
    drawing_convnet,
    hooks_of,
    image_data,
    mlp,
    plugin,
    run,
    same_weights,
    sgd,
)

from ringfence.engine.checkpoints.checkpoint import read_latest
from ringfence.engine.checkpoints.fingerprint import Fingerprint
from ringfence.engine.checkpoints.retention import list_checkpoints
from ringfence.engine.weights import weights_sha256
from ringfence.hooks.errors import (
    DataError,
    PluginError,
    PluginLoadError,
    PluginProtocolError,
    RunAbortedError,
    SandboxUnavailableError,
)
from ringfence.plugins import failure_policy as failures
from ringfence.plugins.local_plugin import LocalPlugin


@pytest.fixture(autouse=True)
def _no_faults_left(monkeypatch):
    """Start without faults to come, and without pauses: those are looked at where they are decided."""
    monkeypatch.setattr(failures, "BACK_OFF_S", (0.0, 0.0, 0.0))
    FAULTS.clear()
    yield
    assert FAULTS == []


def train_once(tmp_path=None, *, faults=(), momentum=None, **changes):
    """Train the network with dropout and batch norm, and plugins of all roles that have state."""
    FAULTS.extend(faults)
    model, observer, listener = drawing_convnet(), TapeRecorder(), Listener()
    plugins = [plugin(Jitter), plugin(Momentum, settings=momentum), adamw(), plugin(Watcher)]
    result = run(
        model,
        image_data(),
        hooks_of(*plugins, observer=listener),
        config(snapshot_every=4, **changes),
        observer=observer,
        checkpoints=tmp_path,
    )
    return model, result, observer, listener, plugins


@pytest.mark.parametrize(
    "faults",
    [
        [("momentum", "backward", 0)],
        [("momentum", "backward", 10)],
        [("optim", "backward", 4)],
        [("jitter", "forward", 11)],
        [("jitter", "backward", 13)],
        [("momentum", "backward", 6), ("optim", "backward", 6), ("jitter", "forward", 7)],
        [("optim", "backward", 5)] * 3,
        [("momentum", "backward", step) for step in range(0, 21, 2)],
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_faults_change_neither_weights_nor_record(faults, accumulate):
    fitting = [fault for fault in faults if fault[2] < 21 // accumulate]
    model, result, observer, _, _ = train_once(grad_accum_steps=accumulate)
    other, faulty, tape, listener, plugins = train_once(faults=fitting, grad_accum_steps=accumulate)
    assert same_weights(model, other)
    assert faulty.weights_sha256 == result.weights_sha256
    assert tape.tape == observer.tape
    assert len(tape.rollbacks) == len(fitting)
    assert sum(p.usage.restarts for p in plugins) == len(fitting)
    assert len(listener.events) == len(fitting)


def test_monitor_that_fails_is_disabled_and_the_run_goes_on():
    FAULTS.append(("watcher", "backward", 3))
    model, alone, listener = mlp(), mlp(), Listener()
    watcher = plugin(Watcher, settings={"on_failure": "disable"})
    run(model, image_data(), hooks_of(sgd(), watcher, observer=listener), config())
    run(alone, image_data(), hooks_of(sgd()), config())
    assert same_weights(model, alone)
    assert watcher.usage.state == "disabled"
    assert max(step for _, step, _ in listener.reports) == 2
    assert "disabled, the run goes on" in listener.events[0]


def test_monitor_whose_state_cannot_be_had_is_disabled():
    watcher = plugin(Watcher, settings={"on_failure": "disable"})
    failures = [PluginError("went away", plugin="watcher", hook="monitor.state_dict")]

    def failing():
        if len(asked) == 1:
            raise failures.pop()
        asked.append(1)

    asked: list[int] = []
    watcher.state_dict = failing
    model, alone, observer = mlp(), mlp(), TapeRecorder()
    run(model, image_data(), hooks_of(sgd(), watcher), config(snapshot_every=5), observer=observer)
    run(alone, image_data(), hooks_of(sgd()), config())
    assert same_weights(model, alone)
    assert (watcher.usage.state, observer.rollbacks) == ("disabled", [])


def test_gradient_plugin_that_is_disabled_leaves_gradients_as_they_were():
    FAULTS.append(("momentum", "backward", 0))
    model, alone = mlp(), mlp()
    broken = plugin(Momentum, settings={"on_failure": "disable"})
    run(model, image_data(), hooks_of(broken, sgd()), config())
    run(alone, image_data(), hooks_of(sgd()), config())
    assert same_weights(model, alone)


def test_abort_writes_the_last_snapshot_and_says_how_to_go_on(tmp_path):
    with pytest.raises(RunAbortedError) as caught:
        train_once(
            tmp_path / "checkpoints",
            faults=[("momentum", "backward", 10)],
            momentum={"on_failure": "abort"},
        )
    message = str(caught.value)
    assert "plugin 'momentum' in 'gradient.backward' at step 10: raised ValueError" in message
    assert f"after 8 steps is in {tmp_path}/checkpoints/step-00000008" in message
    assert f"`--resume {tmp_path}`" in message
    assert caught.value.exit_status == 3
    _, contents = read_latest(tmp_path / "checkpoints", Fingerprint().compare, note=pytest.fail)
    assert contents.step == 8


def test_fourth_fault_in_a_row_aborts(tmp_path):
    with pytest.raises(RunAbortedError, match="at step 5"):
        train_once(tmp_path / "checkpoints", faults=[("optim", "backward", 5)] * 4)


def test_faults_with_progress_between_them_are_not_in_a_row():
    faults = [("optim", "backward", step) for step in (1, 2, 3, 5, 6, 7)]
    _, result, observer, _, _ = train_once(faults=faults)
    assert result.status == "completed"
    assert observer.rollbacks == [0, 0, 0, 4, 4, 4]


def test_abort_without_checkpoint_folder_says_that_nothing_was_kept():
    with pytest.raises(RunAbortedError, match="Nothing was kept"):
        train_once(faults=[("optim", "backward", 5)] * 4)


def test_divergence_is_told_as_such_and_blames_no_plugin(tmp_path):
    wild = plugin(TorchOptim, "optim", algorithm="SGD", lr=1e30)
    with pytest.raises(RunAbortedError, match="training has diverged") as caught:
        run(mlp(), image_data(), hooks_of(wild), config(), checkpoints=tmp_path)
    assert "Lower the learning rate" in str(caught.value)
    told = f"`--resume {tmp_path.parent} --set plugins.optim.lr=1e+29 --accept plugins.optim.lr`"
    assert str(caught.value).endswith(f"go on with smaller steps, for example with {told}")
    assert wild.usage.restarts == 0


def test_streams_of_all_augment_plugins_are_closed_before_one_is_restarted():
    """A plugin that runs ahead holds calls in flight; a new stream must not meet those of the old one."""
    happened = []
    first, second = (
        plugin(Noise, "first"),
        LocalPlugin(replace(plugin(Noise, "second").spec, options={"name": "second"})),
    )
    stream, restart = first.stream, second.restart

    def recorded_stream(batches, **told):
        happened.append("opened")
        try:
            yield from stream(batches, **told)
        finally:
            happened.append("closed")

    first.stream = recorded_stream
    second.restart = lambda: happened.append("restarted") or restart()
    FAULTS.append(("second", "forward", 5))
    run(mlp(), image_data(), hooks_of(first, second, sgd()), config(epochs=1))
    assert happened == ["opened", "closed", "restarted", "opened", "closed"]


class Secretive:
    """A plugin whose state is no plain data."""

    role = "gradient"

    def forward(self, step):
        return None

    def backward(self, gradients):
        return None

    def state_dict(self):
        return {"file": object()}

    def load_state_dict(self, state):
        pass


def test_state_that_cannot_be_saved_is_refused_before_the_first_step():
    from ringfence.plugins.local_plugin import LocalPlugin

    spec = plugin(Momentum, "secretive").spec
    with pytest.raises(
        PluginProtocolError, match=r"'gradient.state_dict'.*state\['file'\] is of type object"
    ):
        run(mlp(), image_data(), hooks_of(LocalPlugin(spec, Secretive()), sgd()), config())


def test_fault_while_a_plugin_gives_its_state_is_recovered():
    """The snapshot at step 8 fails once: the run goes back to step 4 and takes it again."""
    reference, _, _, _, _ = train_once()
    model, observer = drawing_convnet(), TapeRecorder()
    momentum = plugin(Momentum)
    original = momentum.state_dict
    calls = []

    def failing():
        calls.append(1)
        if len(calls) == 3:
            raise PluginError("went away", plugin="momentum", hook="gradient.state_dict")
        return original()

    momentum.state_dict = failing
    hooks = hooks_of(plugin(Jitter), momentum, adamw(), plugin(Watcher))
    run(model, image_data(), hooks, config(snapshot_every=4), observer=observer)
    assert observer.rollbacks == [4]
    assert weights_sha256(model) == weights_sha256(reference)


def test_a_plugin_that_keeps_no_state_is_left_alone_when_another_fails():
    """Each one that was started anew for nothing would cost as much time as the one that failed."""
    FAULTS.append(("optim", "backward", 6))
    stateless, starts = plugin(HalfLoss), []
    stateless.restart = lambda: starts.append(1)
    model, alone = mlp(), mlp()
    run(model, image_data(), hooks_of(stateless, adamw()), config(snapshot_every=4))
    run(alone, image_data(), hooks_of(plugin(HalfLoss), adamw()), config())
    assert (same_weights(model, alone), starts) == (True, [])


@pytest.mark.parametrize("step", [0, 6])
def test_the_plugin_that_failed_is_started_anew_once(step):
    """At step 0 the optimizer has no state to give back, which takes a fresh start by itself."""
    FAULTS.append(("optim", "backward", step))
    optimizer, starts = adamw(), []
    restart = optimizer.restart
    optimizer.restart = lambda: starts.append(1) or restart()
    run(mlp(), image_data(), hooks_of(optimizer), config(snapshot_every=4))
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            lambda: SandboxUnavailableError("layer 'seccomp' cannot be had"),
            "could not be restarted: layer 'seccomp'",
        ),
        (lambda: PluginLoadError("gone", plugin="optim"), "gone; it was restarted 3 times in a row before"),
    ],
)
def test_a_restart_that_fails_ends_the_run_with_a_checkpoint(tmp_path, fault, says):
    FAULTS.append(("optim", "backward", 10))
    optimizer = adamw()

    def restart():
        raise fault()

    optimizer.restart = restart
    with pytest.raises(RunAbortedError, match=says) as caught:
        run(
            mlp(),
            image_data(),
            hooks_of(optimizer),
            config(snapshot_every=4),
            checkpoints=tmp_path / "checkpoints",
        )
    assert caught.value.exit_status == 3
    _, contents = read_latest(tmp_path / "checkpoints", Fingerprint().compare, note=pytest.fail)
    assert contents.step == 8


class Odd(BaseException):
    """No ``Exception``, and cannot be shown."""

    def __str__(self):
        raise ValueError("no")


def broken_convnet(at, fault, *, training=True):
    """Return the network whose forward pass fails before the batch ``at`` of training, or of evaluation."""
    # Before the start one batch more than one passes through in training mode, and one in evaluation.
    calls = itertools.count(-1)

    def fail(module, inputs):
        if module.training is training and next(calls) == at:
            fault()

    model = drawing_convnet()
    model.register_forward_pre_hook(fail)
    return model


def resumable(model, checkpoints, **more):
    plugins = [plugin(Jitter), plugin(Momentum), adamw(), plugin(Watcher)]
    settings = config(snapshot_every=4, eval_every=5)
    return run(model, image_data(), hooks_of(*plugins), settings, checkpoints=checkpoints, **more)


def raising(error):
    def fault():
        raise error

    return fault


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda: 1 / 0, "the run failed at step 10: ZeroDivisionError: division by zero. Its"),
        (lambda: sys.exit(3), "the run was ended at step 10 by sys.exit(3). Its"),
        (sys.exit, "the run was ended at step 10 by sys.exit(). Its"),
        (raising(MemoryError()), "the run failed at step 10: MemoryError. Its"),
        (raising(StopIteration()), "the run failed at step 10: StopIteration. Its"),
        (raising(OSError(28, "No space left on device")), "No space left on device. Its"),
        (raising(Odd()), "test_recovery.Odd: <exception str() failed>. Its"),
        (raising(DataError("no such sample")), "the run failed at step 10: no such sample. Its"),
    ],
)
def test_whatever_the_model_raises_ends_the_run_at_its_last_snapshot(tmp_path, fault, said):
    with pytest.raises(RunAbortedError) as caught:
        resumable(broken_convnet(11, fault), tmp_path / "checkpoints")
    message = str(caught.value)
    assert said in message
    assert f"state after 8 steps is in {tmp_path}/checkpoints/step-00000008" in message
    assert f"go on with `--resume {tmp_path}`" in message
    assert caught.value.__cause__ is not None

    straight = drawing_convnet()
    resumable(straight, None)
    mended = drawing_convnet()
    resumable(mended, tmp_path / "checkpoints", resume=True)
    assert same_weights(mended, straight)


def test_what_the_model_raises_is_told_with_its_own_lines(tmp_path):
    with pytest.raises(RunAbortedError) as caught:
        resumable(broken_convnet(11, lambda: 1 / 0), tmp_path / "checkpoints")
    frames = str(caught.value).splitlines()[1:]
    assert all(line.startswith(f"    {__file__}:") for line in frames)
    assert frames[-2].endswith(", in broken_convnet.<locals>.fail: fault()")


def test_a_fault_in_an_evaluation_ends_the_run_at_its_last_snapshot(tmp_path):
    with pytest.raises(RunAbortedError, match="the run failed at step 10: ZeroDivisionError"):
        # Twenty samples at a time are all, and it is the second evaluation.
        resumable(broken_convnet(1, lambda: 1 / 0, training=False), tmp_path / "checkpoints")
    straight = drawing_convnet()
    resumable(straight, None)
    mended = drawing_convnet()
    resumable(mended, tmp_path / "checkpoints", resume=True)
    assert same_weights(mended, straight)


def test_a_record_that_cannot_be_written_ends_the_run_at_its_last_snapshot(tmp_path):
    class Full(TapeRecorder):
        def step(self, step, loss, samples):
            if step.global_step == 10:
                raise RunAbortedError("the disk is full; continue with --resume")

    with pytest.raises(RunAbortedError, match=r"^the disk is full; continue with --resume$"):
        resumable(drawing_convnet(), tmp_path, observer=Full())
    assert list_checkpoints(tmp_path)[-1].name == "step-00000008"


def test_a_second_signal_ends_the_run_without_another_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        resumable(broken_convnet(11, raising(KeyboardInterrupt())), tmp_path)
    assert list_checkpoints(tmp_path)[-1].name == "step-00000007"


@pytest.mark.parametrize(
    ("fault", "status"), [(lambda: sys.exit(5), 5), (lambda: 1 / 0, 1), (raising(KeyboardInterrupt()), 130)]
)
def test_a_process_that_the_model_forks_and_leaves_touches_nothing_of_the_run(tmp_path, fault, status):
    statuses = []

    def fork():
        if (child := os.fork()) == 0:
            fault()
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    straight, forking, told = drawing_convnet(), broken_convnet(11, fork), TapeRecorder()
    resumable(straight, None)
    resumable(forking, tmp_path, observer=told)

    assert statuses == [status]
    assert same_weights(forking, straight)
    assert told.rollbacks == []
    assert [path.name for path in list_checkpoints(tmp_path)][-1] == "step-00000021"
