"""What adapters ask of a host, and what they say where the framework is missing; ``home/`` has the rest."""

import importlib.util

import pytest
import torch
from engine_helpers import Momentum, mlp, plugin, sgd

from ringfence.integrations.lightning import LightningCallback
from ringfence.integrations.loop_host import LoopError
from ringfence.integrations.transformers import TransformersCallback

from .test_loop_host import host_of, some_batches, steps_alone

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("callback", "package", "extra"),
    [
        (LightningCallback, "pytorch_lightning", "lightning"),
        (TransformersCallback, "transformers", "transformers"),
    ],
)
def test_a_missing_framework_is_told_with_its_extra(callback, package, extra):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed here")
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'ringfence\[{extra}\]'"):
        callback(host_of(mlp(), [sgd()]))


@pytest.mark.parametrize(
    ("device", "accumulate", "processes", "says"),
    [
        ("cpu", 1, 2, "trains in 2 processes"),
        ("meta", 1, 1, "trains on meta, and the model lies on cpu"),
        ("cpu", 4, 1, "give it grad_accum_steps=4"),
    ],
)
def test_a_framework_that_trains_otherwise_is_refused(device, accumulate, processes, says):
    with pytest.raises(LoopError, match=says):
        host_of(mlp(), [sgd()]).join("the Trainer", torch.device(device), accumulate, processes)


def test_a_framework_begins_the_batches_that_it_fetched_ahead():
    ours, theirs = mlp(), mlp()
    steps_alone(host_of(ours, [sgd()]))
    host = host_of(theirs, [sgd()])
    host.join("the Trainer", CPU, 1, 1)

    for _ in list(some_batches(host)):
        host.begin_batch()
        host.step()

    assert host.global_step == 3
    with pytest.raises(LoopError, match=r"not given by host\.augment"):
        host.begin_batch()


def test_the_optimizer_of_a_framework_is_taken():
    model = mlp()
    host, optimizer = host_of(model, [plugin(Momentum)]), torch.optim.SGD(model.parameters(), lr=0.1)

    taken = host.adopt(optimizer)

    assert taken is host.optimizer is host.adopt(taken)
    assert taken.param_groups is optimizer.param_groups
    with pytest.raises(LoopError, match="was given another optimizer"):
        host.adopt(torch.optim.SGD(model.parameters(), lr=0.1))


def test_two_optimizers_are_refused():
    model = mlp()
    with pytest.raises(LoopError, match=r"made a SGD, and 'optim' is an optimizer too; have it take host"):
        host_of(model, [sgd()]).adopt(torch.optim.SGD(model.parameters(), lr=0.1))
