"""How the layers stand is found out before a plugin's code is there to lie about it."""

import pytest
import torch

from ringfence import PluginProtocolError, StepInfo, TensorMap
from ringfence.isolation.worker.probes import run_probes

from .aftermath import assert_unharmed


@pytest.fixture
def gradients():
    return TensorMap.like({"weight": torch.ones(4)})


@pytest.mark.attack(51)
def test_a_plugin_that_patches_what_judges_it_changes_no_verdict(stage, gradients):
    before = stage.victims.look()
    liar = stage.sandbox.start(stage.attacker("verdict:patch", "Saboteur"))
    verdict = liar.layers
    liar.call("backward", {"gradients": gradients}, StepInfo(1))
    assert liar.layers == verdict

    liar.restart()
    witness = stage.sandbox.start(stage.attacker("verdict:look", "Saboteur", name="witness"))
    step = StepInfo(1)
    witness.call("backward", {"gradients": gradients}, step)

    assert step.scalars == {"as_written": 1.0, "tried": float(len(run_probes.PROBES))}
    for plugin in (liar, witness):
        assert names(plugin.layers) == names(verdict)
        assert all(layer.verified_by for layer in plugin.layers if layer.status == "active")
        plugin.close()
    assert_unharmed(stage, before)


def names(layers):
    return [(layer.name, layer.status, layer.verified_by) for layer in layers]


@pytest.mark.attack(51)
def test_a_verdict_that_a_plugin_forges_as_it_starts_is_no_reply(stage):
    before = stage.victims.look()
    with pytest.raises(PluginProtocolError, match="answered 'start' with Locked"):
        stage.sandbox.start(stage.attacker("locked", "Forger", module="verdict"))
    assert_unharmed(stage, before)


@pytest.mark.attack(51)
def test_a_plugin_that_says_of_itself_that_it_is_ready_is_met_at_its_first_call(stage, gradients):
    before = stage.victims.look()
    forger = stage.sandbox.start(stage.attacker("ready", "Forger", module="verdict"))
    with pytest.raises(PluginProtocolError, match="answered request 0 when 1 was asked"):
        forger.call("backward", {"gradients": gradients}, StepInfo(0))
    forger.close()
    assert_unharmed(stage, before)


@pytest.mark.control(51)
def test_probes_that_run_after_they_were_patched_say_that_all_is_well(stage, monkeypatch):
    monkeypatch.setattr(run_probes, "PROBES", dict.fromkeys(run_probes.PROBES, lambda _: True))
    context = run_probes.ProbeContext(1, str(stage.victims.home), str(stage.folder), "HOME")
    assert all(run_probes.run_probes(context).values())
