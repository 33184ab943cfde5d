"""The result of an optimizer goes into the parameters themselves: checked as it is copied, undone if bad."""

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from ringfence.engine.checkpoints.checkpoint import read_latest
from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.hooks.errors import PluginProtocolError, RunAbortedError
from ringfence.hooks.types import AnotherPass, StepInfo, TensorMap
from ringfence.plugins import failure_policy
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks


@pytest.fixture
def parameters(sandbox):
    tensors = {"first": torch.arange(6.0), "second": -torch.arange(6.0)}
    laid_out = TensorMap.like(tensors, sandbox.allocate)
    for name, tensor in tensors.items():
        laid_out[name].copy_(tensor)
    return laid_out


@pytest.fixture
def arguments(parameters):
    gradients = TensorMap.like(parameters)
    for tensor in gradients.values():
        tensor.fill_(1.0)
    return {"parameters": parameters, "gradients": gradients, "loss": 0.0}


@pytest.fixture(params=["sandboxed", "trusted"])
def started(request, start, spec, monkeypatch):
    """Start a plugin in a sandbox, or in this process."""

    def run(where, **settings):
        if request.param == "sandboxed":
            return start(where, "optimizer", **settings)
        return LocalPlugin(spec(where, "optimizer", isolation="trusted", **settings))

    return run


def test_a_step_is_made_where_the_parameters_are(started, parameters, arguments):
    plugin = started("in_place:Descend")
    before = parameters.clone()
    for number in range(1, 4):
        result = plugin.call("backward", arguments, StepInfo(number), into=parameters)
        assert result is parameters
        for name, tensor in before.items():
            assert torch.allclose(parameters[name], tensor - 0.1 * number)


def test_parameters_that_were_changed_since_are_those_that_the_next_step_begins_with(
    started, parameters, arguments
):
    plugin = started("in_place:Descend")
    plugin.call("backward", arguments, StepInfo(0), into=parameters)
    parameters["first"].fill_(5.0)
    plugin.call("backward", arguments, StepInfo(1), into=parameters)
    assert torch.equal(parameters["first"], torch.full((6,), 5.0) - 0.1)


def test_without_a_place_the_parameters_stay_as_they_are(start, parameters, arguments):
    before = parameters.clone()
    result = start("in_place:Descend", "optimizer").call("backward", arguments, StepInfo(0))
    assert torch.equal(parameters.buffer, before.buffer)
    assert torch.equal(result["first"], before["first"] - 0.1)


def test_a_draft_that_is_not_returned_counts_all_the_same(started, parameters, arguments):
    """In a trusted plugin it has been made where the parameters are; a sandbox changes no result."""
    plugin = started("in_place:Forgets")
    before = parameters.clone()
    assert plugin.call("backward", arguments, StepInfo(0), into=parameters) is parameters
    assert torch.equal(parameters["first"], before["first"] - 0.1)
    assert plugin.call("backward", arguments, StepInfo(1), into=parameters) is None
    assert torch.equal(parameters["first"], before["first"] - 0.1)


def test_parts_of_the_place_may_be_returned_under_other_names(started, parameters, arguments):
    before = parameters.clone()
    started("in_place:Exchange").call("backward", arguments, StepInfo(0), into=parameters)
    assert torch.equal(parameters["first"], before["second"])
    assert torch.equal(parameters["second"], before["first"])


def test_a_further_pass_is_asked_for_in_place_too(started, parameters, arguments):
    plugin = started("in_place:Passes")
    before = parameters.clone()
    asked = plugin.call("backward", arguments, StepInfo(0), into=parameters)
    assert isinstance(asked, AnotherPass)
    assert asked.parameters is parameters
    plugin.call("backward", arguments, StepInfo(0, pass_index=1), into=parameters)
    assert torch.allclose(parameters["first"], before["first"] - 0.2)


def test_a_number_that_is_not_finite_is_refused(started, parameters, arguments):
    with pytest.raises(PluginProtocolError, match="parameter 'first' with a value that is not finite"):
        started("in_place:Broken").call("backward", arguments, StepInfo(0), into=parameters)


def test_what_is_written_to_the_place_after_the_turn_reaches_no_parameter(start, parameters, arguments):
    plugin = start("in_place:Later", "optimizer")
    plugin.call("backward", arguments, StepInfo(0), into=parameters)
    after = parameters.clone()
    time.sleep(0.3)
    assert torch.equal(parameters.buffer, after.buffer)


# in a run


class Course:
    """Ten steps with an optimizer whose first process is the one asked for, and later ones are sound."""

    def __init__(self, sandbox, spec, where, **settings):
        torch.manual_seed(0)
        self.model = nn.Linear(4, 3)
        self.plugin = sandbox.start(spec(where, "optimizer", **settings))
        self.hooks = Hooks()
        self.hooks.register(self.plugin)
        self._sandbox, restart = sandbox, self.plugin.restart

        def restart_sound():
            self.plugin._group.spec = replace(self.plugin.spec, options={"at": -1})
            restart()

        self.plugin.restart = restart_sound

    def train(self, checkpoints=None):
        generator = torch.Generator().manual_seed(1)
        train_set, test_set = (
            Dataset(torch.randn(n, 4, generator=generator), torch.arange(n) % 3, 3) for n in (40, 8)
        )
        config = TrainConfig(batch_size=8, steps=10, seed=7, device="cpu", snapshot_every=3)
        try:
            return train(
                try_together(self.model, Data(train_set, test_set), config),
                self.hooks,
                allocate=self._sandbox.allocate,
                checkpoints=checkpoints,
            )
        finally:
            self.hooks.close()


@pytest.fixture
def course(sandbox, spec, monkeypatch):
    monkeypatch.setattr(failure_policy, "BACK_OFF_S", (0.0, 0.0, 0.0))
    return lambda where, **settings: Course(sandbox, spec, where, **settings)


@pytest.mark.parametrize("at", [0, 2, 4, 9])
def test_a_bad_result_is_undone_bit_for_bit(course, at):
    sound = course("in_place:Descend")
    expected = sound.train().weights_sha256
    broken = course("in_place:Broken", options={"at": at})
    assert broken.train().weights_sha256 == expected
    assert broken.plugin.usage.restarts == 1


def test_a_run_that_ends_for_a_bad_result_keeps_the_weights_of_its_last_snapshot(course, tmp_path):
    broken = course("in_place:Broken", options={"at": 5}, on_failure="abort")
    with pytest.raises(RunAbortedError):
        broken.train(tmp_path)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in broken.model.parameters())
    _, contents = read_latest(tmp_path, lambda *_: None, note=pytest.fail)
    for name, tensor in broken.model.state_dict().items():
        assert torch.equal(contents.tensors[name], tensor)
