"""What it costs on a GPU that plugins work in host memory: a sandboxed AdamW beside one on the device.

    python bench/gpu.py [--rounds N]

Needs a CUDA device. All sides are given the same model, batches and first weights, and see that they end with
nearly the same weights: a GPU and a CPU round differently. What crosses between host and device is pinned in
memory; the last side shows what that is worth.
"""  # fmt: skip

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from unittest import mock

import torch
from frameworks import Batches, Task, adamw, random_task
from harness import Asking, Table, in_turn, ratio, say
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.engine.weights import Weights
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks

#: Millions of parameters, and the width of two hidden layers that makes them.
_WIDTHS = {1: 680, 10: 2_770, 50: 6_680}
_FEATURES, _CLASSES, _BATCH, _STEPS, _SKIPPED = 784, 10, 256, 30, 8
_PLAIN, _TRUSTED, _SANDBOXED = "plain, AdamW on the GPU", "ringfence, trusted", "ringfence, sandboxed"
_UNPINNED = "sandboxed, not pinned"
#: Mean difference of the weights at the end, at most: what five steps change of the thirty.
_NEAR = 5e-3

#: Trains, and returns when each step began and the weights that it ended with.
_Side = Callable[[Task], tuple[list[float], list[Tensor]]]


def _task(width: int) -> Task:
    def model() -> nn.Module:
        first, second = nn.Linear(_FEATURES, width), nn.Linear(width, width)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, _CLASSES))

    return random_task(model, (_FEATURES,), _BATCH, _STEPS)


def _plain(task: Task) -> tuple[list[float], list[Tensor]]:
    model, batches = task.model().cuda(), Batches(task)
    optimizer = task.optimizer(model)
    for inputs, targets in batches:
        optimizer.zero_grad()
        cross_entropy(model(inputs.cuda()), targets.cuda()).backward()
        optimizer.step()
        torch.cuda.synchronize()
    return batches.stamps, [parameter.detach().cpu() for parameter in model.parameters()]


def _ringfence(task: Task, sandbox: Sandbox | None) -> tuple[list[float], list[Tensor]]:
    stamps: list[float] = []

    def between_steps() -> bool:
        torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        return False

    data = Dataset(task.inputs, task.targets, _CLASSES)
    test = Dataset(task.inputs[:1], task.targets[:1], _CLASSES)
    never = 10**9
    config = TrainConfig(
        steps=task.steps, batch_size=_BATCH, eval_every=never, checkpoint_every=never, device="cuda"
    )
    spec = adamw("trusted" if sandbox is None else "sandbox", threads=torch.get_num_threads())
    model = task.model()
    with closing(Hooks(0)) as hooks:
        hooks.register(LocalPlugin(spec) if sandbox is None else sandbox.start(spec))
        allocate = None if sandbox is None else sandbox.arena.allocate
        train(
            try_together(model, Data(data, test), config),
            hooks,
            allocate=allocate,
            stop=Asking(between_steps),
        )
    return stamps, [parameter.detach().cpu() for parameter in model.parameters()]


def _sides(sandbox: Sandbox) -> dict[str, _Side]:
    def not_pinned(task: Task) -> tuple[list[float], list[Tensor]]:
        with mock.patch.object(Weights, "pinned", return_value=contextlib.nullcontext()):
            return _ringfence(task, sandbox)

    return {
        _PLAIN: _plain,
        _TRUSTED: lambda task: _ringfence(task, None),
        _SANDBOXED: lambda task: _ringfence(task, sandbox),
        _UNPINNED: not_pinned,
    }


def _median_s(side: _Side, task: Task) -> float:
    stamps, _ = side(task)
    return statistics.median([b - a for a, b in itertools.pairwise(stamps)][_SKIPPED:])


def _see_that_all_agree(sides: dict[str, _Side], task: Task) -> None:
    weights = {name: side(task)[1] for name, side in sides.items()}
    for name, ours in weights.items():
        for a, b in zip(ours, weights[_PLAIN], strict=True):
            # Where a gradient is next to nothing its sign is chance, and AdamW goes a whole step by it.
            assert (a - b).abs().mean() < _NEAR, f"{name} ends with other weights than plain"
    for a, b in zip(weights[_TRUSTED], weights[_SANDBOXED], strict=True):
        assert torch.equal(a, b), "a sandboxed optimizer ends with other weights than a trusted one"


def main(arguments: list[str]) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side (5)")
    rounds = parser.parse_args(arguments).rounds
    if not torch.cuda.is_available():
        say("torch finds no CUDA device here: there is nothing to measure")
        return 1
    table = Table(
        f"One step on one {torch.cuda.get_device_name()}, batches of {_BATCH}",
        ("parameters", _PLAIN, _TRUSTED, _SANDBOXED, _UNPINNED, "sandboxed / plain"),
    )
    with Sandbox() as sandbox:
        sides = _sides(sandbox)
        for millions, width in _WIDTHS.items():
            task = _task(width)
            _see_that_all_agree(sides, task)
            figures = in_turn(
                {name: lambda side=side, task=task: _median_s(side, task) for name, side in sides.items()},
                rounds,
                warm=0,
            )
            line = (f"{millions} M", *figures.values(), ratio(figures, _SANDBOXED, _PLAIN))
            table.lines.append(line)
    table.notes = [
        f"torch with {torch.get_num_threads()} threads on every side, in the sandbox too.",
        "Trusted and sandboxed end with the same weights, bit for bit; plain and these nearly.",
        "ringfence's AdamW works in host memory: gradients and parameters cross at each step.",
    ]
    say(table.text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
