"""Frozen parameters keep their bits whatever the plugins do, and batch norm above them its statistics."""

import pytest
import torch
from engine_helpers import (
    FAULTS,
    Momentum,
    StopAt,
    Unused,
    adamw,
    asking,
    config,
    convnet,
    hooks_of,
    image_data,
    plugin,
)
from torch import nn

from ringfence.engine.freezing import freeze, match_parameters
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.hooks.errors import CheckpointError, PluginError
from ringfence.hooks.types import passthrough
from ringfence.plugins import failure_policy

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {"steps": 8, "snapshot_every": 3, "checkpoint_every": 3, "eval_every": 4}
CONVOLUTION = frozenset({"0.weight", "0.bias"})
NORM = frozenset({"1.weight", "1.bias"})
SEEN = []


class Picky:
    """An optimizer with a pattern of names."""

    role = "optimizer"
    forward = passthrough

    def backward(self, parameters, gradients):
        raise ValueError("'0.*' matches no parameter")


class Mover:
    """An optimizer that moves whatever it is shown, gradient or not, as decay without one does."""

    role = "optimizer"
    forward = passthrough

    def backward(self, parameters, gradients):
        SEEN.append((set(parameters), set(gradients)))
        return {name: value * 0.9 for name, value in parameters.items()}


def trained(frozen, *plugins, model=None, **more):
    model = model or convnet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = hooks_of(*(plugins or (adamw(),)))
    try:
        setup = try_together(model, image_data(), config(**SETTINGS), frozen)
        result = train(setup, hooks, **more)
    finally:
        hooks.close()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    return result, moved


def test_no_plugin_is_shown_them_so_that_none_can_move_them():
    SEEN.clear()
    _, moved = trained(CONVOLUTION, plugin(Mover))
    assert SEEN
    assert all(not (set.union(*seen) & CONVOLUTION) for seen in SEEN)
    assert not moved & CONVOLUTION
    # The control: it moves all that it is shown.
    assert trained((), plugin(Mover))[1] >= CONVOLUTION


def test_decay_leaves_them_and_the_rest_learns():
    _, moved = trained(CONVOLUTION)
    assert not moved & CONVOLUTION
    assert {"1.weight", "5.weight"} <= moved
    assert trained(())[1] >= CONVOLUTION


def test_batch_norm_keeps_its_statistics_exactly_if_all_its_weights_are_frozen():
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert trained(CONVOLUTION)[1] >= statistics
    assert trained(NORM - {"1.bias"})[1] >= statistics
    assert not trained(CONVOLUTION | NORM)[1] & statistics


def test_batch_norm_without_weights_goes_with_the_module_around_it():
    block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False), nn.Dropout())
    model = nn.Sequential(block, nn.Flatten(), nn.Linear(72, 4)).train()
    freeze(model, {"0.0.weight"})
    assert block[1].training
    freeze(model, {"0.0.weight", "0.0.bias"})
    assert not block[1].training
    assert block[2].training
    assert model.training


def test_roll_back_and_resume_come_to_the_same_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(failure_policy, "BACK_OFF_S", (0.0, 0.0, 0.0))

    def twice():
        return plugin(Momentum), adamw()

    straight, moved = trained(CONVOLUTION, *twice())
    FAULTS.append(("momentum", "backward", 4))
    assert trained(CONVOLUTION, *twice())[0].weights_sha256 == straight.weights_sha256
    assert FAULTS == []
    stopping = StopAt(5)
    more = {"observer": stopping, "stop": asking(stopping.stop)}
    assert trained(CONVOLUTION, *twice(), checkpoints=tmp_path, **more)[0].status == "interrupted"
    # What is frozen comes from the checkpoint, not from the model that is there now.
    other = convnet()
    with torch.no_grad():
        other[0].weight.add_(1.0)
    resumed, _ = trained(CONVOLUTION, *twice(), model=other, checkpoints=tmp_path, resume=True)
    assert resumed.weights_sha256 == straight.weights_sha256
    assert not moved & CONVOLUTION


def test_a_checkpoint_holds_them_and_is_held_to_their_shapes(tmp_path):
    trained(CONVOLUTION, checkpoints=tmp_path)
    model = convnet()
    model[0] = nn.Conv2d(1, 4, 5, padding=2)
    with pytest.raises(CheckpointError, match=r"'0\.weight' is \(4, 1, 3, 3\)"):
        trained(CONVOLUTION, model=model, checkpoints=tmp_path, resume=True)


def test_patterns_name_a_tied_parameter_by_each_of_its_names():
    assert match_parameters(Unused(), "tied.*") == ["tied.bias", "middle.weight"]
    assert match_parameters(Unused(), "middle.weight") == ["middle.weight"]
    assert match_parameters(Unused(), "Middle.*") == []


def test_a_plugin_that_names_one_is_told_why_it_does_not_have_it():
    with pytest.raises(PluginError, match=r"; '0\.weight' is frozen by the job, and no plugin has it"):
        trained(CONVOLUTION, plugin(Picky))
