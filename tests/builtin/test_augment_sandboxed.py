"""The plugin behind the sandbox's walls gives the very bytes that it gives in this process."""

from __future__ import annotations

import pytest
import torch

from ringfence import Batch, PluginLoadError, StepInfo
from ringfence.builtin.augment import names
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin

EXTERNAL = [
    {"Affine": {"rotate": [-10, 10], "p": 0.5}},
    {"ElasticTransform": {"alpha": 30, "p": 0.5}},
    {"CoarseDropout": {"p": 0.5}},
    {"GaussNoise": {"p": 0.5}},
]
JOBS = {
    "own": [{name: {"p": 0.5}} for name in names()],
    "albumentations": EXTERNAL,
    "both": ["crop", *EXTERNAL, "mixup"],
}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as running:
        yield running


def describe(ops):
    module = "ringfence.builtin.augment"
    return PluginSpec("augment", "ringfence", "0.1.0", module, "Augment", "augment", options={"ops": ops})


@pytest.mark.parametrize("job", JOBS)
def test_isolated_and_trusted_give_the_same_bytes(sandbox, job):
    spec = describe(JOBS[job])
    generator = torch.Generator().manual_seed(0)
    batch = Batch(torch.rand(16, 3, 32, 32, generator=generator), torch.arange(16) % 10, torch.arange(16), 10)
    isolated, trusted = sandbox.start(spec), LocalPlugin(spec)
    try:
        for global_step in (0, 7):
            step = StepInfo(global_step, steps_total=8, seed=11)
            inside = isolated.call("forward", {"batch": batch}, step)
            outside = trusted.call("forward", {"batch": batch}, step)
            assert torch.equal(inside.inputs, outside.inputs)
            assert torch.equal(inside.targets, outside.targets)
        assert isolated.usage.peak_bytes < isolated.usage.budget_bytes
    finally:
        isolated.close()


def test_wrong_options_are_told_from_inside_the_sandbox(sandbox):
    with pytest.raises(PluginLoadError, match=r"ops\[0\]: no operation 'mixupp'; did you mean mixup"):
        sandbox.start(describe(["mixupp"]))
