"""What a plugin does after its turn, or instead of a reply, reaches neither the run nor another plugin."""

import pickle
import sys
import time

import pytest
import torch

from ringfence import PluginProtocolError, PluginTimeoutError, StepInfo, TensorMap

from .aftermath import assert_unharmed
from .stage import ATTACKS

#: Long after what ``attacks/race.py`` does later.
_LATER_S = 0.5
_TRIES = 12


@pytest.fixture
def started(stage):
    """Start plugins that are closed with the test, and look at what is left."""
    before = stage.victims.look()
    plugins = []

    def start(spec):
        plugins.append(stage.sandbox.start(spec))
        return plugins[-1]

    yield start
    while plugins:
        plugins.pop().close()
    assert_unharmed(stage, before)


@pytest.fixture
def gradients():
    gradients = TensorMap.like({"weight": torch.zeros(1024, 1024)})
    gradients["weight"].fill_(0.25)
    return gradients


@pytest.fixture
def attack_data(monkeypatch):
    """Import a module of the attacks for what it holds; it does nothing until it is called."""
    monkeypatch.syspath_prepend(str(ATTACKS))
    before = set(sys.modules)
    yield __import__
    for name in set(sys.modules) - before:
        del sys.modules[name]


# 30: writing on


def taken(plugin, gradients):
    """Return a result that the host has taken: on a busy machine it may be too late for that, and refuse."""
    for _ in range(_TRIES):
        try:
            return plugin.call("backward", {"gradients": gradients}, StepInfo(1))
        except PluginProtocolError:
            plugin.restart()
    pytest.fail("the host was never in time")


@pytest.mark.attack(30)
def test_a_run_is_not_changed_by_what_is_written_after_the_turn(stage):
    before = stage.victims.look()
    tries = (stage.run(stage.attacker("race:later", "Saboteur")) for _ in range(_TRIES))
    outcome = next((each for each in tries if not isinstance(each.error, PluginProtocolError)), None)
    assert outcome is not None, "the host was never in time"
    assert outcome.error is None
    assert outcome.weights == stage.reference
    assert_unharmed(stage, before)


@pytest.mark.attack(30)
def test_a_result_stays_what_it_was_when_it_was_taken(stage, started, gradients):
    plugin = started(stage.attacker("race:later", "Saboteur"))
    result = taken(plugin, gradients)
    time.sleep(_LATER_S)
    assert bool(torch.all(result["weight"] == 0.25))


@pytest.mark.control(30)
def test_a_result_that_is_not_copied_changes_after_it_was_checked(stage, started, gradients):
    plugin = started(stage.attacker("race:later", "Saboteur"))
    taken(plugin, gradients)  # so it was looked at, and all of it was finite
    size = gradients.buffer.numel()
    shared = TensorMap(gradients.specs, plugin._workers[0].slots[0]._result.buffer[:size])
    time.sleep(_LATER_S)
    assert not bool(shared["weight"].isfinite().any())


@pytest.mark.attack(30)
def test_what_is_written_all_the_time_is_taken_whole_and_checked_or_not_at_all(stage, started, gradients):
    plugin = started(stage.attacker("race:at_once", "Saboteur"))
    taken = rejected = 0
    for _ in range(_TRIES):
        try:
            result = plugin.call("backward", {"gradients": gradients}, StepInfo(1))["weight"]
        except PluginProtocolError:
            rejected += 1
            plugin.restart()
            continue
        taken += 1
        copy = result.clone()
        assert bool(copy.isfinite().all())
        time.sleep(0.02)
        assert torch.equal(result, copy)
    print(f"taken {taken}, rejected {rejected}")
    assert taken + rejected == _TRIES


# 33: as slowly as can be


@pytest.mark.attack(33)
def test_a_plugin_that_never_ends_its_reply_holds_nobody_up(stage, started):
    loris = started(stage.spec("Loris", module="loris", role="monitor", deadline_s=3.0))
    parameters = TensorMap.like({"weight": torch.ones(64)})
    begun = time.monotonic()
    assert loris.post("backward", {"parameters": parameters}, StepInfo(0))

    for _ in range(5):
        assert stage.sibling.call("backward", {"gradients": parameters}, StepInfo(0)) is not None
        assert loris.poll() == []  # had one of these waited for it, its deadline would be over here
    with pytest.raises(PluginTimeoutError, match="no reply within 3 s") as caught:
        loris.drain()

    assert time.monotonic() - begun >= 3.0
    assert (caught.value.plugin, caught.value.hook, caught.value.step) == ("hostile", "monitor.backward", 0)


# 34 and 35: a state that is none


STATES = (
    *("bomb", "bomb_in_a_tensor_file", "bomb_as_structure", "deep", "deep_and_closed", "wide", "not_utf8"),
    *("header_beyond_the_end", "tensor_beyond_the_end", "negative_shape", "overflowing_shape"),
)


@pytest.mark.attack(34)
@pytest.mark.parametrize("state", STATES)
def test_a_state_that_is_none_is_refused(stage, started, state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin = started(stage.attacker(state, "Stateful", module="loris"))
    with pytest.raises(
        PluginProtocolError, match=r"saved (not a state that ringfence wrote|state )"
    ) as caught:
        plugin.state_dict()
    assert (caught.value.plugin, caught.value.hook) == ("hostile", "gradient.state_dict")
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.control(34)
def test_a_state_that_is_unpickled_runs(attack_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(attack_data("loris").STATES["bomb"]).close()
    assert (tmp_path / "executed").exists()


def test_every_state_is_tried(attack_data):
    assert set(attack_data("loris").STATES) == set(STATES)
