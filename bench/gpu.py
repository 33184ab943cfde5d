"""What it costs on a GPU that plugins work in host memory: a sandboxed AdamW beside one on the device.

    python bench/gpu.py [--rounds N]

Needs a CUDA device. All sides are given the same model, batches and first weights, and all end near the same
weights (a GPU and a CPU round differently). Prints a table: milliseconds a step, what crosses between host
and device pinned in memory, as ringfence does, and not.
"""  # fmt: skip

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from unittest import mock

import torch
from frameworks import adamw
from harness import Table, in_turn, machine, ratio, say
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ringfence.engine import Data, Dataset, TrainConfig
from ringfence.engine.data import epoch_order
from ringfence.engine.train import train
from ringfence.engine.weights import Weights
from ringfence.hooks.local import LocalPlugin
from ringfence.hooks.manager import Hooks
from ringfence.isolation.pool import Sandbox

#: Millions of parameters, to the width of the two hidden layers.
_WIDTHS = {1: 700, 10: 2_800, 50: 6_700}
_FEATURES, _CLASSES, _BATCH, _STEPS, _SKIPPED = 784, 10, 256, 40, 10
_PLAIN, _TRUSTED, _SANDBOXED = "plain, AdamW on the GPU", "ringfence, trusted", "ringfence, sandboxed"
_UNPINNED = "sandboxed, not pinned"


def _model(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(_FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, _CLASSES)
    )


def _data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((_STEPS * _BATCH, _FEATURES), generator=generator)
    return Dataset(inputs, torch.randint(0, _CLASSES, (len(inputs),), generator=generator), _CLASSES)


class _Side:
    """One way to train; keeps the weights that it ended with."""

    def __init__(self, train_model: Callable[[nn.Module, list[float]], None], width: int) -> None:
        self._train, self._width = train_model, width
        self.weights: list[Tensor] = []

    def step_s(self) -> float:
        """Train anew, and return the median step."""
        model, stamps = _model(self._width), []
        self._train(model, stamps)
        self.weights = [parameter.detach().cpu() for parameter in model.parameters()]
        return statistics.median([b - a for a, b in itertools.pairwise(stamps)][_SKIPPED:])


def _plain(model: nn.Module, stamps: list[float]) -> None:
    data, device = _data(), torch.device("cuda")
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    order = epoch_order(len(data), 0, 0)
    for step in range(_STEPS):
        torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        indices = order[step * _BATCH : (step + 1) * _BATCH]
        inputs, targets = data.inputs[indices].to(device), data.targets[indices].to(device)
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    torch.cuda.synchronize()
    stamps.append(time.perf_counter())


def _ringfence(model: nn.Module, stamps: list[float], sandbox: Sandbox | None) -> None:
    def between_steps() -> bool:
        torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        return False

    data = _data()
    config = TrainConfig(
        steps=_STEPS, batch_size=_BATCH, eval_every=10**9, checkpoint_every=10**9, device="cuda"
    )
    spec = adamw("trusted" if sandbox is None else "sandbox", threads=torch.get_num_threads())
    plugin = LocalPlugin(spec) if sandbox is None else sandbox.start(spec)
    allocate = None if sandbox is None else sandbox.arena.allocate
    with closing(Hooks(0)) as hooks:
        hooks.register(plugin)
        train(model, Data(data, data.subset(1) if hasattr(data, "subset") else data), hooks, config,
              allocate=allocate, stop=between_steps)  # fmt: skip
    stamps.append(time.perf_counter())


@contextlib.contextmanager
def _left_unpinned() -> Iterator[None]:
    with mock.patch.object(Weights, "pinned", lambda _self: contextlib.nullcontext()):
        yield


def _unpinned(model: nn.Module, stamps: list[float], sandbox: Sandbox) -> None:
    with _left_unpinned():
        _ringfence(model, stamps, sandbox)
