"""The plugin behind the sandbox's walls gives the very bytes that it gives in this process."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ringfence import Batch, PluginLoadError, StepInfo, tensors_of
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


@pytest.mark.parametrize("kind", [pytest.param("masks", marks=pytest.mark.soak), "boxes"])
def test_masks_and_boxes_move_alike_with_one_worker_and_three(sandbox, kind):
    ops = [
        "flip",
        {"rotate": {"p": 0.5}},
        {"Affine": {"rotate": [-20, 20], "p": 0.5}},
        {"token_dropout": {"id": 3}},
    ]
    spec = describe(ops)
    batches = [(of_kind(kind, seed), StepInfo(seed, steps_total=6, seed=11)) for seed in range(6)]
    plugins = [sandbox.start(spec), sandbox.start(replace(spec, workers=3)), LocalPlugin(spec)]
    try:
        results = [
            [batch for batch, _ in plugin.stream(iter(batches), done=lambda step: None, failed=pytest.fail)]
            for plugin in plugins
        ]
    finally:
        for plugin in plugins:
            plugin.close()
    for alone, shared, trusted in zip(*results, strict=True):
        for trees in (
            (alone.inputs, shared.inputs, trusted.inputs),
            (alone.targets, shared.targets, trusted.targets),
        ):
            for one, other, third in zip(*map(tensors_of, trees), strict=True):
                assert torch.equal(one, other)
                assert torch.equal(one, third)


def of_kind(kind, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (8, 3, 24, 32), generator=generator).to(torch.uint8)
    inputs = {"image": images, "input_ids": torch.randint(0, 50, (8, 5), generator=generator)}
    if kind == "masks":
        return Batch(inputs, torch.randint(0, 4, (8, 24, 32), generator=generator), torch.arange(8), 4)
    corners = torch.rand(8, 3, 2, generator=generator) * 12
    boxes = torch.cat([corners, corners + 4 + torch.rand(8, 3, 2, generator=generator) * 8], -1)
    labels = torch.randint(-1, 3, (8, 3), generator=generator)
    return Batch(inputs, {"boxes": boxes, "labels": labels}, torch.arange(8))


def test_wrong_options_are_told_from_inside_the_sandbox(sandbox):
    with pytest.raises(PluginLoadError, match=r"ops\[0\]: no operation 'mixupp'; did you mean mixup"):
        sandbox.start(describe(["mixupp"]))
