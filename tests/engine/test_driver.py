"""A driver acts between steps; roll-back, kill and resume carry its state, and the weights are the same."""

import functools
import os
import signal

import pytest
import torch
from engine_helpers import (
    FAULTS,
    Momentum,
    StopAt,
    TapeRecorder,
    adamw,
    asking,
    config,
    drawing_convnet,
    hooks_of,
    image_data,
    plugin,
    run,
)

from ringfence.engine.checkpoints.checkpoint import read_latest
from ringfence.hooks.errors import CheckpointError, PluginRaisedError, RunAbortedError
from ringfence.plugins import failure_policy
from ringfence.tensors import pytree

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 12
SETTINGS = {"steps": STEPS, "snapshot_every": 4, "checkpoint_every": 4, "eval_every": 5}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(failure_policy, "BACK_OFF_S", (0.0, 0.0, 0.0))
    yield
    assert FAULTS == []


class Pruner:
    """Masks weights by what they were some steps before; forgets what it has masked if told to."""

    def __init__(self, name="pruner", *, forgetful=False, fails_at=None):
        self.name = name
        self.called, self.ends = [], []
        self._forgetful, self._fails_at = forgetful, fails_at
        self._masks, self._cuts = {}, 0

    def between_steps(self, run):
        step = run.progress.step
        self.called.append(step)
        if step == self._fails_at:
            self._fails_at = None
            raise PluginRaisedError("no score", plugin="momentum", hook="gradient.backward", step=step)
        name = next(iter(run.state.weights.values))
        value = dict(run.state.model.named_parameters())[name]
        if step % 3 == 0:
            self._cuts += 1
            least = value.detach().abs().flatten().kthvalue(self._cuts + 1).values
            self._masks[name] = (value.detach().abs() > least).float()
        with torch.no_grad():
            value.mul_(self._masks.get(name, 1.0))

    def beside(self):
        return None

    def trained(self, run):
        self.ends.append((run.progress.step, run.progress.evaluated_step, run.checkpointed_step))

    def state_dict(self):
        return {"masks": self._masks, "cuts": self._cuts}

    def load_state_dict(self, state):
        if not self._forgetful:
            self._masks, self._cuts = state["masks"], state["cuts"]


def trained(*drivers, faults=(), **more):
    FAULTS.extend(faults)
    settings = config(**(SETTINGS | more.pop("changes", {})))
    hooks = hooks_of(plugin(Momentum), adamw())
    return run(drawing_convnet(), image_data(), hooks, settings, drivers=drivers, **more)


@functools.cache
def straight():
    return trained(Pruner()).weights_sha256


@pytest.fixture
def expected():
    """The weights of a run with a driver and without a fault."""
    return straight()


def test_it_acts_after_each_step_and_on_the_run_once_it_is_evaluated_and_kept(expected, tmp_path):
    driver = Pruner()
    assert trained(driver, checkpoints=tmp_path).weights_sha256 == expected
    assert driver.called == list(range(1, STEPS + 1))
    assert driver.ends == [(STEPS, STEPS, STEPS)]
    assert trained().weights_sha256 != expected, "it changes nothing, so that this shows nothing"


@pytest.mark.parametrize("step", [2, 6, 9, 11])
def test_a_fault_rolls_it_back_with_the_run(expected, step):
    driver = Pruner()
    assert trained(driver, faults=[("momentum", "backward", step)]).weights_sha256 == expected
    assert len(driver.called) == STEPS + step % 4
    # The control: one that keeps its masks as the run goes back comes to other weights.
    forgetful = trained(Pruner(forgetful=True), faults=[("momentum", "backward", step)]).weights_sha256
    assert (forgetful == expected) == (step == 2)


def test_a_plugins_fault_that_it_lets_through_is_one_of_the_run(expected):
    driver = Pruner(fails_at=7)
    assert trained(driver).weights_sha256 == expected
    assert driver.called == [1, 2, 3, 4, 5, 6, 7, *range(5, STEPS + 1)]


class KillAt(TapeRecorder):
    """Kills the process once so many steps are done."""

    def __init__(self, at):
        super().__init__()
        self._at = at

    def step(self, step, loss, samples):
        if step.global_step + 1 == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("at", [5, 10])
def test_a_killed_run_goes_on_with_its_state(expected, tmp_path, at):
    child = os.fork()
    if child == 0:
        try:
            trained(Pruner(), checkpoints=tmp_path, observer=KillAt(at))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    resumed = Pruner()
    assert trained(resumed, checkpoints=tmp_path, resume=True).weights_sha256 == expected
    assert resumed.called == list(range(at - at % 4 + 1 if at % 4 else at + 1, STEPS + 1))
    assert len(resumed.ends) == 1
    # At its end there is nothing left to do but that.
    again = Pruner()
    assert trained(again, checkpoints=tmp_path, resume=True).weights_sha256 == expected
    assert (again.called, again.ends) == ([], [(STEPS, STEPS, STEPS)])


def test_an_interrupted_run_is_not_at_its_end(expected, tmp_path):
    stopping, driver = StopAt(6), Pruner()
    stop = asking(stopping.stop)
    assert trained(driver, checkpoints=tmp_path, observer=stopping, stop=stop).status == "interrupted"
    assert driver.ends == []
    assert trained(Pruner(), checkpoints=tmp_path, resume=True).weights_sha256 == expected


def test_a_checkpoint_of_other_drivers_is_refused_by_name(tmp_path):
    trained(Pruner(), checkpoints=tmp_path / "with")
    with pytest.raises(CheckpointError, match="of a run with 'pruner' beside its plugins, and this one has"):
        trained(checkpoints=tmp_path / "with", resume=True)
    trained(checkpoints=tmp_path / "without")
    with pytest.raises(CheckpointError, match=r"with nothing beside .* has 'cutter', 'pruner'; resume"):
        trained(Pruner(), Pruner("cutter"), checkpoints=tmp_path / "without", resume=True)


def test_a_run_without_any_is_saved_as_ever(tmp_path):
    trained(checkpoints=tmp_path)
    _, contents = read_latest(tmp_path, lambda *_: None, note=pytest.fail)
    assert "drivers" not in pytree.decode(contents.engine)


def test_drivers_act_in_their_order():
    seen = []

    class First(Pruner):
        def between_steps(self, run):
            seen.append(self.name)

    trained(First("one"), First("two"), changes={"steps": 2})
    assert seen == ["one", "two"] * 2


def test_two_drivers_of_one_name_are_refused_before_anything_is_trained():
    one, two = Pruner(), Pruner()
    with pytest.raises(ValueError, match=r"two drivers of the run are named 'pruner'.*a name of its own"):
        trained(one, two)
    assert one.called == two.called == []


class Exporter(Pruner):
    """Rounds what it exports: a copy, or the weights or the statistics of the model itself."""

    def __init__(self, touches=None):
        super().__init__("exporter")
        self._touches = touches

    def trained(self, run):
        super().trained(run)
        model = run.state.model
        for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
            rounded = tensor.detach() if name == self._touches else tensor.detach().clone()
            rounded.add_(1)


@pytest.mark.parametrize("what", ["named_parameters", "named_buffers"])
def test_who_works_on_the_trained_run_leaves_its_model_as_it_is_kept(expected, tmp_path, what):
    result = trained(Exporter(), checkpoints=tmp_path / "copy")
    assert (result.weights_sha256, result.status) == (expected, "completed")

    touched = next(name for name, _ in getattr(drawing_convnet(), what)())
    with pytest.raises(RunAbortedError, match=r"driver 'exporter' changed the model in trained\(\)"):
        trained(Exporter(touched), checkpoints=tmp_path / "itself")
    again = trained(Exporter(), checkpoints=tmp_path / "itself", resume=True)
    assert again.weights_sha256 == expected
