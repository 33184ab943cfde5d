"""A trusted plugin finds what it would find in a sandbox, and the trainer finds its own again."""

import random
from collections import deque

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController

from ringfence import AnotherPass, StepInfo, TensorMap, passthrough
from ringfence.hooks.errors import PluginLoadError, PluginProtocolError, PluginRaisedError
from ringfence.hooks.types import derive_seed
from ringfence.plugins import call_context
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.tensors import pytree

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


class Logs:
    role = "gradient"
    forward = passthrough

    def __init__(self, value=0.0):
        self.value = value

    def backward(self, gradients, step):
        step.log("std", self.value)


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
    monkeypatch.setattr("ringfence.plugins.local_plugin.load_class", lambda _module, _name: cls)
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


class Draws:
    role = "gradient"
    forward = passthrough

    def backward(self):
        self.drawn = np.random.normal(), random.gauss(0, 1)  # noqa: NPY002


def test_the_trainers_pairs_of_normal_numbers_are_not_torn_apart():
    """Both generators make two at once and keep one: between calls there may be one waiting, or none."""

    def trainer(between):
        np.random.seed(3)  # noqa: NPY002
        random.seed(3)
        drawn = []
        for draws in (0, 1, 1, 0, 2, 1, 0, 1):
            between()
            drawn += [(np.random.normal(), random.gauss(0, 1)) for _ in range(draws)]  # noqa: NPY002
        return drawn

    plugin, seen = started(Draws), []

    def call():
        plugin.call("backward", {}, StepInfo(3).for_plugin(11, "probe"))
        seen.append(plugin._instance.drawn)

    assert trainer(call) == trainer(lambda: None)
    assert len(set(seen)) == 1


def test_a_pair_is_not_torn_apart_where_the_trainer_goes_back_to_before_its_second_number():
    """As a run does that is rolled back: the generator's own memory is then as it was at the last call."""
    plugin = started(Draws)

    def call():
        plugin.call("backward", {}, StepInfo(3).for_plugin(11, "probe"))

    np.random.seed(3)  # noqa: NPY002
    first = np.random.normal()  # noqa: NPY002
    one_waits = np.random.get_state()  # noqa: NPY002
    second = np.random.normal()  # noqa: NPY002
    call()
    np.random.set_state(one_waits)  # noqa: NPY002
    call()
    assert first != second == np.random.normal()  # noqa: NPY002


def test_a_generator_that_the_trainer_has_set_for_numpy_is_its_own_again():
    before = np.random.mtrand.get_bit_generator()
    chosen = np.random.PCG64(5)
    np.random.mtrand.set_bit_generator(chosen)
    try:
        started(Draws).call("backward", {}, StepInfo(3).for_plugin(11, "probe"))
        assert np.random.mtrand.get_bit_generator() is chosen
        assert np.random.rand() == np.random.RandomState(np.random.PCG64(5)).rand()  # noqa: NPY002
    finally:
        np.random.mtrand.set_bit_generator(before)


def test_drawing_shows_in_the_memory_of_pythons_generator():
    """What a state is asked for again by: a CPython that kept it elsewhere would be told here."""
    generator = random.Random(1)  # noqa: S311
    memory = call_context._Memory.of(generator)
    before = memory.read()
    assert memory.read() == before
    generator.random()
    assert memory.read() != before


def test_pythons_generator_is_put_back_as_it_was_in_the_middle_of_a_pair():
    saved = random.getstate()
    kept = call_context._Python()
    random.gauss(0.0, 1.0)
    expected = random.getstate()
    kept.save()
    random.seed(1)
    random.gauss(0.0, 1.0)
    random.gauss(0.0, 1.0)
    kept.restore()
    assert random.getstate() == expected
    random.setstate(saved)


DRAWS = {
    "torch": lambda: torch.rand(1),
    "numpy": np.random.rand,
    "random": random.random,
    "random's pairs": lambda: random.gauss(0.0, 1.0),
}


class MayDraw:
    role = "gradient"
    forward = passthrough

    def __init__(self):
        self.draw = None

    def backward(self, gradients):
        if self.draw is not None:
            self.draw()


class SaysNot(MayDraw):
    draws = False


def call(plugin, step):
    plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(step).for_plugin(11, "probe"))


@pytest.mark.parametrize("generator", DRAWS)
def test_a_plugin_that_says_that_it_never_draws_and_does_is_told(generator):
    own = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    plugin, honest = started(SaysNot), started(MayDraw)
    plugin._instance.draw = honest._instance.draw = DRAWS[generator]

    call(honest, 0)
    with pytest.raises(PluginProtocolError, match="says by its attribute draws that it never does"):
        call(plugin, 0)

    assert torch.equal(torch.get_rng_state(), own[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == own[1:]  # noqa: NPY002


def test_a_plugin_that_says_that_it_never_draws_is_looked_at_again_and_again():
    plugin = started(SaysNot)
    for step in range(3 * call_context._LOOK_EVERY - 1):
        call(plugin, step)
    plugin._instance.draw = DRAWS["random"]
    with pytest.raises(PluginProtocolError, match="drew from a global generator"):
        deque((call(plugin, step) for step in range(call_context._LOOK_EVERY)), maxlen=0)


def test_a_plugin_that_never_draws_has_its_threads_and_no_gradients_in_each_call():
    plugin, seen = started(SaysNot, threads=1), []
    plugin._instance.draw = lambda: seen.append(
        (torch.is_grad_enabled(), torch.get_num_threads(), set(openblas_threads()))
    )
    for step in range(3):
        call(plugin, step)
    assert seen == [(False, 1, {1})] * 3
    assert torch.is_grad_enabled()


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
        started(BadState).load_state_dict(pytree.encode({}))


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


class LargeState(Probe):
    def state_dict(self):
        return {"moments": torch.zeros(1000), "half": torch.zeros(500).half()}


def test_a_state_larger_than_a_quarter_of_the_memory_is_refused_by_name():
    plugin = started(LargeState)
    assert plugin.state_dict().nbytes > 5000
    plugin.usage.state_of_bytes = 20_000
    assert plugin.state_dict() is not None
    plugin.usage.state_of_bytes = 19_999
    with pytest.raises(PluginProtocolError) as caught:
        plugin.state_dict()
    message = str(caught.value)
    assert message.startswith("plugin 'probe' in 'gradient.state_dict': state_dict() returned what cannot")
    for part in (
        "its state takes 5000 bytes",
        "at most 4999",
        "memory_fraction",
        "Keep less in state_dict()",
    ):
        assert part in message


class OddState(Probe):
    def state_dict(self):
        return {"digits": 10**5000}


def test_a_state_that_cannot_be_written_is_the_plugins_fault():
    with pytest.raises(PluginProtocolError, match=r"'probe' in 'gradient.state_dict'.*cannot be written"):
        started(OddState).state_dict()


class KeepsTensors(Probe):
    def __init__(self):
        self.tensor = torch.zeros(3)

    def state_dict(self):
        return {"tensor": self.tensor, "again": self.tensor}

    def load_state_dict(self, state):
        self.tensor = state["tensor"]


def test_a_state_is_shared_with_nobody():
    plugin = started(KeepsTensors)
    state = plugin.state_dict()
    plugin._instance.tensor += 1
    assert pytree.decode(state)["tensor"].tolist() == [0, 0, 0]
    plugin.load_state_dict(state)
    plugin._instance.tensor += 2
    assert [tensor.tolist() for tensor in pytree.decode(state).values()] == [[0, 0, 0]] * 2


class Chooses:
    role = "gradient"

    def __init__(self, forward=False):
        if not forward:
            self.forward = passthrough

    def forward(self, loss):
        """Only look."""

    def backward(self, gradients):
        """Only look."""


@pytest.mark.parametrize(("forward", "accepts"), [(False, {"backward"}), (True, {"forward", "backward"})])
def test_a_pass_through_chosen_as_a_plugin_is_made_is_not_called(monkeypatch, forward, accepts):
    assert set(constructed(monkeypatch, Chooses, options={"forward": forward}).accepts) == accepts


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("high", "not 'high' (str): could not convert string to float: 'high'"),
        ([1.0], "not [1.0] (list): float() argument must be a string or a real number, not 'list'"),
        ("x" * 500, f"not '{'x' * 58}… (str): could not"),
    ],
)
def test_what_is_logged_and_is_no_number_is_told_with_its_name_and_line(value, told):
    plugin = LocalPlugin(started(Logs).spec, Logs(value))
    with pytest.raises(PluginRaisedError) as caught:
        plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(3))
    message = str(caught.value)
    assert message.startswith("plugin 'probe' in 'gradient.backward' at step 3: raised ValueError: ")
    assert f"step.log('std', …) takes a number, {told}" in message
    assert 'step.log("std", self.value)' in message


class Sets:
    """Writes a number to each parameter where it lies, and returns the draft, the argument, or nothing."""

    role = "optimizer"
    forward = passthrough
    draws = False
    number, returned = 1.0, "draft"

    def backward(self, parameters):
        draft = parameters.draft()
        for tensor in draft.values():
            tensor.fill_(self.number)
        return {"draft": draft, "argument": parameters, "nothing": None}[self.returned]


@pytest.mark.parametrize("returned", ["draft", "argument", "nothing"])
@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.float32, torch.float64)])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_made_in_place_is_looked_at_there(returned, dtypes, number):
    parameters = TensorMap.like({str(i): torch.zeros(5, dtype=dtype) for i, dtype in enumerate(dtypes)})
    plugin = started(Sets)
    plugin._instance.returned = returned

    for step, fine in enumerate((1.0, 3e38)):
        plugin._instance.number = fine
        result = plugin.call("backward", {"parameters": parameters}, StepInfo(step), into=parameters)
        assert result is parameters
        assert all(bool((tensor == tensor.new_tensor(fine)).all()) for tensor in parameters.values())
    plugin._instance.number = number
    with pytest.raises(PluginProtocolError, match="'0' with a value that is not finite"):
        plugin.call("backward", {"parameters": parameters}, StepInfo(2), into=parameters)
