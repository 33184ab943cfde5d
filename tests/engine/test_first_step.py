"""The first step is where plugins meet the model: what could never succeed ends there, and leaves nothing."""

import pytest
import torch
from engine_helpers import (
    FAULTS,
    Listener,
    StopAt,
    TapeRecorder,
    TorchOptim,
    adamw,
    asking,
    config,
    hooks_of,
    image_data,
    mlp,
    plugin,
    run,
    same_weights,
    sgd,
)
from torch import nn

from ringfence.hooks.errors import (
    JobError,
    PluginCrashedError,
    PluginLoadError,
    PluginProtocolError,
    PluginRaisedError,
    RunAbortedError,
)
from ringfence.plugins import failure_policy
from ringfence.plugins.local_plugin import LocalPlugin


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(failure_policy, "BACK_OFF_S", (0.0, 0.0, 0.0))


def of(instance):
    """Return a started plugin whose restart makes a new object of the same class."""
    spec = plugin(type(instance), "optim" if instance.role == "optimizer" else "faulty").spec
    found = LocalPlugin(spec, instance)
    found.starts = []
    found.restart = lambda: found.starts.append(1) or setattr(found, "_instance", type(instance)())
    return found


class Gradient:
    """Changes nothing; what is derived from it returns, or raises, what no hook takes."""

    role = "gradient"

    def forward(self):
        return None

    def backward(self, gradients, step):
        return None


class WrongType(Gradient):
    def backward(self, gradients, step):
        return list(gradients.values())


class WrongShape(Gradient):
    def backward(self, gradients, step):
        return {name: gradient.flatten() for name, gradient in gradients.items()}


class WrongNames(Gradient):
    def backward(self, gradients, step):
        return {f"module.{name}": gradient for name, gradient in gradients.items()}


class WrongLoss(Gradient):
    def forward(self):
        return 0.5


class Refuses(Gradient):
    def backward(self, gradients, step):
        raise JobError("the model has no layer 'head'")


class Bug(Gradient):
    def backward(self, gradients, step):
        return gradients["none of that name"]


class Busy(Gradient):
    def backward(self, gradients, step):
        try:
            raise TimeoutError("the disk did not answer")
        except TimeoutError as error:
            raise RuntimeError("no table of weights") from error


class Missing(Gradient):
    def backward(self, gradients, step):
        raise FileNotFoundError("no table of weights")


class LaterOnly(Gradient):
    def backward(self, gradients, step):
        return None if step.global_step < 6 else [1]


class NotFinite(Gradient):
    def backward(self, gradients, step):
        return {name: gradient / 0 for name, gradient in gradients.items()}


@pytest.mark.parametrize(
    ("broken", "error", "words", "starts"),
    [
        (WrongType, PluginProtocolError, "returned list; expected a mapping of name to gradient", 0),
        (WrongShape, PluginProtocolError, r"gradient '1.weight' of shape \(1024,\); expected \(16, 64\)", 0),
        (WrongNames, PluginProtocolError, r"other names than it was given: missing \['1.bias'", 0),
        (WrongLoss, PluginProtocolError, "returned float; expected LossTerm, LossScale or None", 0),
        (Refuses, PluginLoadError, "cannot be used in this job: the model has no layer 'head'", 0),
        # Whether that is a bug or the machine's fault, a second look tells.
        (Bug, PluginRaisedError, "raised KeyError: 'none of that name'", 1),
        (Missing, PluginRaisedError, "raised FileNotFoundError: no table of weights", 1),
    ],
)
def test_what_could_never_succeed_ends_at_once(broken, error, words, starts):
    observer, listener, faulty = TapeRecorder(), Listener(), of(broken())
    with pytest.raises(error, match=words):
        run(mlp(), image_data(), hooks_of(faulty, sgd(), observer=listener), config(), observer=observer)
    assert len(faulty.starts) == starts
    assert observer.tape == []
    assert len([event for event in listener.events if "restarted" in event]) == starts


@pytest.mark.parametrize("broken", [Busy, LaterOnly, NotFinite])
def test_what_is_no_matter_of_the_first_call_is_tried_again(broken):
    faulty = of(broken())
    with pytest.raises((PluginRaisedError, RunAbortedError), match="restarted 3 times in a row"):
        run(mlp(), image_data(), hooks_of(faulty, sgd()), config(snapshot_every=4))
    assert len(faulty.starts) == 3


def test_a_resumed_run_that_meets_such_a_plugin_keeps_its_checkpoint(tmp_path):
    stop = StopAt(4)
    run(
        mlp(),
        image_data(),
        hooks_of(of(Gradient()), sgd()),
        config(),
        observer=stop,
        checkpoints=tmp_path,
        stop=asking(stop.stop),
    )
    faulty = of(WrongType())
    with pytest.raises(RunAbortedError, match=r"at step 4: returned list.*state after 4 steps is in"):
        run(mlp(), image_data(), hooks_of(faulty, sgd()), config(), checkpoints=tmp_path, resume=True)
    assert faulty.starts == []


def test_a_crash_in_the_first_step_is_restarted():
    crashes = [PluginCrashedError("went away", plugin="optim", hook="optimizer.backward", step=0)] * 3
    model, expected, optimizer = mlp(), mlp(), adamw()
    call = optimizer.call

    def crashing(*arguments):
        if crashes:
            raise crashes.pop()
        return call(*arguments)

    optimizer.call = crashing
    run(model, image_data(), hooks_of(optimizer), config())
    run(expected, image_data(), hooks_of(adamw()), config())
    assert optimizer.usage.restarts == 3
    assert same_weights(model, expected)


def test_what_is_raised_once_in_the_first_step_may_pass():
    FAULTS.append(("optim", "backward", 0))
    model, expected, optimizer = mlp(), mlp(), adamw()
    run(model, image_data(), hooks_of(optimizer), config())
    run(expected, image_data(), hooks_of(adamw()), config())
    assert optimizer.usage.restarts == 1
    assert same_weights(model, expected)


class Secretive(TorchOptim):
    """Has a state only once it has made a step, and one that is no plain data."""

    def state_dict(self):
        return None if self._own is None else {"own": object()}


def test_a_state_that_cannot_be_saved_is_found_in_the_first_step():
    observer, optimizer = TapeRecorder(), of(Secretive())
    with pytest.raises(
        PluginProtocolError, match=r"'optimizer.state_dict'.*state\['own'\] is of type object"
    ):
        run(mlp(), image_data(), hooks_of(optimizer), config(snapshot_every=50), observer=observer)
    assert observer.tape == []
    assert optimizer.starts == []


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.last.weight = self.first.weight
        self.head = nn.Linear(64, 4)

    def forward(self, inputs):
        return self.head(self.last(self.first(inputs.flatten(1)).relu()))


class Patterned(TorchOptim):
    PATTERN = ""

    def backward(self, parameters, gradients, step):
        raise JobError(f"'{self.PATTERN}' matches no parameter; did you mean 'first.weight'?")


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("last.weight", "; 'last.weight' is tied to 'first.weight', which is the name of both"),
        ("last.*", "; 'last.weight' is tied to 'first.weight', which is the name of both"),
        ("tail.*", ""),
    ],
)
def test_a_tied_parameter_is_told_with_its_name(monkeypatch, pattern, hint):
    monkeypatch.setattr(Patterned, "PATTERN", pattern)
    with pytest.raises(PluginLoadError) as caught:
        run(Tied(), image_data(), hooks_of(of(Patterned())), config())
    assert str(caught.value).endswith(f"did you mean 'first.weight'?{hint}")
