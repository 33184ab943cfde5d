"""A sandboxed plugin has no way to the GPU; where there is one, a trusted plugin finds it."""

import pytest
import torch

from ringfence.plugins.local_plugin import LocalPlugin

WHERE = "driver:Driver"


def findings(plugin, gradients, step):
    own = step.for_plugin(0, "driver")
    plugin.call("backward", {"gradients": gradients}, own)
    return {name: int(value) for name, value in own.scalars.items()}


def test_a_sandboxed_plugin_finds_no_gpu(start, gradients, step):
    found = findings(start(WHERE), gradients, step)
    assert found.pop("initialised") != 0
    assert found == {"opened": 0, "devices": 0, "available": 0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_trusted_one_finds_it(spec, gradients, step):
    """The control."""
    found = findings(LocalPlugin(spec(WHERE)), gradients, step)
    assert found["opened"] >= 2
    assert found["initialised"] == 0
    assert found["devices"] == torch.cuda.device_count()
    assert found["available"] == 1
