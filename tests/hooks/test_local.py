"""A trusted plugin finds what it would find in a sandbox, and the trainer finds its own again."""

import random

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController

from ringfence import AnotherPass, StepInfo, TensorMap, passthrough
from ringfence.hooks.errors import PluginLoadError, PluginRaisedError
from ringfence.hooks.local import LocalPlugin
from ringfence.hooks.plugin import PluginSpec
from ringfence.hooks.types import derive_seed

#: What ``Probe`` saw, by where it looked.
SEEN: dict[str, dict[str, object]] = {}


def openblas_threads():
    return [pool["num_threads"] for pool in ThreadpoolController().select(internal_api="openblas").info()]


def look(where):
    """Note the surroundings of a call: threads, gradients, and the next number of each generator."""
    SEEN[where] = {
        "torch threads": torch.get_num_threads(),
        "blas threads": set(openblas_threads()),
        "gradients": torch.is_grad_enabled(),
        "drawn": (torch.rand(3).tolist(), np.random.rand(), random.random()),  # noqa: NPY002, S311
    }


class Probe:
    role = "gradient"
    forward = passthrough

    def __init__(self):
        look("construction")

    def backward(self, gradients):
        look("call")

    def state_dict(self):
        look("state_dict")
        return {}

    def load_state_dict(self, state):
        look("load_state_dict")


GRADIENTS = TensorMap.like({"w": torch.zeros(2), "b": torch.zeros(1, dtype=torch.float64)})


def started(cls, **settings):
    spec = PluginSpec(
        "probe",
        "tests",
        "1",
        cls.__module__,
        cls.__name__,
        cls.role,
        isolation="trusted",
        job_seed=11,
        **settings,
    )
    return LocalPlugin(spec, cls())


def constructed(monkeypatch, cls, **settings):
    """Return a plugin that ``LocalPlugin`` has constructed itself, by name, as a job's is."""
    monkeypatch.setattr("ringfence.hooks.local.load_class", lambda _module, _name: cls)
    return LocalPlugin(
        PluginSpec("probe", "t", "1", "m", "C", cls.role, isolation="trusted", job_seed=11, **settings)
    )


def exercise(plugin):
    plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(3).for_plugin(11, "probe"))
    plugin.load_state_dict(plugin.state_dict())


def test_construction_draws_from_the_seed_that_a_sandbox_gives(monkeypatch):
    constructed(monkeypatch, Probe)
    seed = derive_seed(11, "probe", "start")
    generator = torch.Generator().manual_seed(seed)
    assert SEEN["construction"]["drawn"] == (
        torch.rand(3, generator=generator).tolist(),
        np.random.RandomState(seed % 2**32).rand(),
        random.Random(seed).random(),  # noqa: S311
    )


def test_a_restart_draws_the_same_again(monkeypatch):
    plugin = constructed(monkeypatch, Probe)
    first = SEEN["construction"]["drawn"]
    torch.rand(5)
    plugin.restart()
    assert SEEN["construction"]["drawn"] == first


@pytest.mark.parametrize("where", ["construction", "call", "state_dict", "load_state_dict"])
def test_plugin_code_has_its_threads_and_no_gradients(monkeypatch, where):
    assert openblas_threads(), "numpy brings no OpenBLAS here"
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadpoolController().limit(limits=2, user_api="blas"):
            exercise(constructed(monkeypatch, Probe, threads=1))
            after = torch.get_num_threads(), set(openblas_threads()), torch.is_grad_enabled()
    finally:
        torch.set_num_threads(before)
    seen = SEEN[where]
    assert (seen["torch threads"], seen["blas threads"], seen["gradients"]) == (1, {1}, False)
    assert after == (2, {2}, True)


def test_the_trainers_generators_go_on_as_if_there_were_no_plugin(monkeypatch):
    def draw():
        return torch.rand(2).tolist(), np.random.rand(), random.random()  # noqa: NPY002, S311

    def seed():
        torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002

    seed()
    expected = draw()
    seed()
    exercise(constructed(monkeypatch, Probe))
    assert draw() == expected


class OnlySaves:
    role = "gradient"
    forward = passthrough

    def backward(self):
        pass

    def state_dict(self):
        return {"x": 1}


def test_half_of_the_state_methods_is_none_as_in_a_sandbox():
    assert started(OnlySaves).state_dict() is None


class BadState(Probe):
    def load_state_dict(self, state):
        raise KeyError("momentum")


def test_a_fault_in_load_state_dict_names_plugin_and_hook():
    with pytest.raises(PluginRaisedError, match=r"'probe' in 'gradient.load_state_dict': raised KeyError"):
        started(BadState).load_state_dict({})


class Unbuildable(Probe):
    def __init__(self):
        raise ValueError("no")


def test_a_fault_in_the_constructor_names_the_plugin(monkeypatch):
    with pytest.raises(PluginLoadError, match="plugin 'probe': m:C could not be loaded: ValueError: no"):
        constructed(monkeypatch, Unbuildable)


class Doubles:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients):
        return {name: gradients[name] + 2 for name in reversed(list(gradients))}


def test_a_dict_is_laid_out_like_its_argument_and_in_the_same_memory_each_call():
    plugin = started(Doubles)
    results = [plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(step)) for step in range(3)]
    assert all(isinstance(result, TensorMap) for result in results)
    assert all(result.specs is GRADIENTS.specs for result in results)
    assert len({result.buffer.data_ptr() for result in results}) == 1
    assert {name: tensor.tolist() for name, tensor in results[-1].items()} == {"w": [2, 2], "b": [2]}


def test_alternating_layouts_have_a_place_each():
    plugin, other = started(Doubles), TensorMap.like({"w": torch.zeros(2)})
    for _ in range(2):
        for gradients in (GRADIENTS, other):
            result = plugin.call("backward", {"gradients": gradients}, StepInfo(0))
            assert result.specs is gradients.specs
            assert result["w"].tolist() == [2, 2]


class AsksForAnother:
    role = "optimizer"
    forward = passthrough

    def backward(self, parameters):
        return AnotherPass({name: tensor + 1 for name, tensor in parameters.items()})


def test_the_parameters_of_another_pass_are_laid_out_too():
    result = started(AsksForAnother).call("backward", {"parameters": GRADIENTS}, StepInfo(0))
    assert isinstance(result, AnotherPass)
    assert result.parameters.specs is GRADIENTS.specs
    assert result.parameters["w"].tolist() == [1, 1]


class Clones(Doubles):
    def backward(self, gradients):
        return gradients.clone()


def test_a_clone_is_passed_on_without_a_copy():
    plugin, made = started(Clones), []
    plugin._instance.backward = lambda gradients: made.append(gradients.clone()) or made[-1]
    assert plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(0)) is made[0]
