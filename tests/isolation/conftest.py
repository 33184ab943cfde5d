"""One sandbox for a module's tests: its zygote takes seconds to start, a plugin milliseconds."""

from pathlib import Path

import pytest
import torch

from ringfence.hooks.plugin import PluginSpec
from ringfence.hooks.types import Batch, StepInfo, TensorMap
from ringfence.isolation.pool import Sandbox

PLUGINS = str(Path(__file__).parent / "plugins")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as running:
        yield running


@pytest.fixture
def spec():
    """Describe a plugin of the folder beside this file."""

    def describe(where, role="gradient", **settings):
        module, _, qualname = where.partition(":")
        return PluginSpec(
            qualname.lower(), "tests", "1.0", module, qualname, role, search_path=(PLUGINS,), **settings
        )

    return describe


@pytest.fixture
def start(sandbox, spec):
    """Start a plugin that is closed with the test."""
    started = []

    def start(where, role="gradient", **settings):
        plugin = sandbox.start(spec(where, role, **settings))
        started.append(plugin)
        return plugin

    yield start
    for plugin in started:
        plugin.close()


@pytest.fixture
def gradients():
    generator = torch.Generator().manual_seed(1)
    values = {"weight": torch.randn(5, 3, generator=generator), "bias": torch.randn(3, generator=generator)}
    tensors = TensorMap.like(values)
    for name, value in values.items():
        tensors[name].copy_(value)
    return tensors


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(6, 1, 4, 4, generator=generator)
    return Batch(inputs, torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6), 3)


@pytest.fixture
def step():
    return StepInfo(4, epoch=1, steps_total=10, seed=99)
