"""Row 7: what grows with the number of plugins, samples and parameter tensors, and what does not."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
import torch
from frameworks import adamw
from harness import Asking, Figure, Goal, Row, Table, in_turn, pin_threads
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import Plugin, PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks

_HERE = str(Path(__file__).parents[1])
_BATCH_SIZE, _FEATURES, _CLASSES = 32, 16, 10
_MIB = 1 << 20
#: How far from the line a figure may be; clocks are noisy, and caches end somewhere.
_OFF_THE_LINE = 1.5
#: Memory that the host may take on while it trains.
_GROWTH_MIB = 2.0
#: A tensor of the third table.
_NUMBERS = 64


def _idle(number: int) -> PluginSpec:
    return PluginSpec(
        f"idle-{number}",
        "bench",
        "0",
        "idle",
        "Idle",
        "gradient",
        search_path=(_HERE,),
        readable=(_HERE,),
        memory_fraction=0.02,
    )


def _data(samples: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (samples, _FEATURES), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, _CLASSES, (samples,), generator=generator)
    return Data(Dataset(inputs, targets, _CLASSES), Dataset(inputs[:1], targets[:1], _CLASSES))


def _small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(_FEATURES, 32), nn.ReLU(), nn.Linear(32, _CLASSES))


class _Parts(nn.Module):
    """A linear model whose many other tensors move the outputs a little."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.rand(_FEATURES, _CLASSES))
        self.parts = nn.ParameterList(torch.rand(_NUMBERS) for _ in range(tensors - 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, 10) for (B, 16)."""
        return inputs @ self.weight + torch.cat(list(self.parts)).mean()


class _Stamps:
    """Notes when each step begins, and what memory the host has then."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.bytes: list[int] = []

    def __call__(self) -> bool:
        """Never ask the run to stop."""
        self.times.append(time.perf_counter())
        if len(self.times) % 50 == 0:
            self.bytes.append(_own_bytes())
        return False

    def step_s(self) -> float:
        """Return the median step of the last three quarters."""
        spans = [b - a for a, b in itertools.pairwise(self.times)]
        return statistics.median(spans[len(spans) // 4 :])


def _own_bytes() -> int:
    """Return the private memory of this process."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def _train(model: nn.Module, data: Data, plugins: Sequence[Plugin], sandbox: Sandbox, steps: int) -> _Stamps:
    """Train with plugins that are started already, and are still running afterwards."""
    stamps, hooks = _Stamps(), Hooks(0)
    for plugin in plugins:
        hooks.register(plugin)
    config = TrainConfig(
        steps=steps, batch_size=_BATCH_SIZE, eval_every=10**9, snapshot_every=10**9, device="cpu"
    )
    train(try_together(model, data, config), hooks, allocate=sandbox.allocate, stop=Asking(stamps))
    return stamps


def _plugins(sandbox: Sandbox, counts: Sequence[int], steps: int, rounds: int) -> Table:
    """Measure a step with more and more plugins that do nothing."""
    data = _data(10_000)
    with ExitStack() as stack:
        started = [sandbox.start(_idle(number)) for number in range(counts[-1])]
        for plugin in started:
            stack.callback(plugin.close)

        def step_s(count: int) -> float:
            plugins = [LocalPlugin(adamw("trusted", memory_fraction=0.1)), *started[:count]]
            return _train(_small_model(), data, plugins, sandbox, steps).step_s()

        figures = _each(step_s, (0, *counts), rounds)
    each = {
        n: Figure(tuple((a - b) / n for a, b in zip(figures[n].values, figures[0].values, strict=True)))
        for n in counts
    }
    table = Table("A step with plugins that do nothing, one after the other", ("plugins", "step", "a plugin"))
    table.lines = [(n, figures[n], each.get(n, "")) for n in figures]
    # The least that a plugin costs, wherever: what is above the line through it is not linear.
    least = min(figure.median for figure in each.values())
    base = figures[0].median
    table.plot = {
        "measured": [(n, figures[n].median) for n in counts],
        "linear": [(n, base + n * least) for n in counts],
    }
    table.axes = ("plugins", "step, s")
    table.goals = [
        Goal(
            f"{counts[-1]} plugins: each at most {_OFF_THE_LINE} x the least that one costs",
            each[counts[-1]].median / least,
            _OFF_THE_LINE,
            unit="x",
        )
    ]
    return table


def _samples(sandbox: Sandbox, counts: Sequence[int], steps: int, rounds: int) -> Table:
    """Measure a step over more and more samples."""
    data = {count: _data(count) for count in counts}
    grown: dict[int, list[float]] = {count: [] for count in counts}
    plugin = sandbox.start(_idle(0))

    def step_s(count: int) -> float:
        plugins = [LocalPlugin(adamw("trusted", memory_fraction=0.1)), plugin]
        stamps = _train(_small_model(), data[count], plugins, sandbox, steps)
        grown[count].append((stamps.bytes[-1] - stamps.bytes[0]) / _MIB)
        return stamps.step_s()

    try:
        figures = _each(step_s, counts, rounds)
    finally:
        plugin.close()
    memory = {count: Figure(tuple(grown[count][-rounds:]), "MiB") for count in counts}
    table = Table(
        f"A step over more samples, and what the host's memory grows by in {steps} steps",
        ("samples", "step", "growth"),
    )
    table.lines = [(f"{count:,}", figures[count], memory[count]) for count in counts]
    table.plot = {
        "measured": [(count, figures[count].median) for count in counts],
        "constant": [(count, figures[counts[0]].median) for count in counts],
    }
    table.axes = ("samples", "step, s")
    times = figures[counts[-1]].median / figures[counts[0]].median
    table.goals = [
        Goal(
            f"{counts[-1]:,} samples: a step at most {_OFF_THE_LINE} x that over {counts[0]:,}",
            times,
            _OFF_THE_LINE,
            unit="x",
        ),
        Goal(
            f"the host grows by at most {_GROWTH_MIB:g} MiB while it trains",
            max(figure.median for figure in memory.values()),
            _GROWTH_MIB,
            unit="MiB",
        ),
    ]
    return table


def _tensors(sandbox: Sandbox, counts: Sequence[int], rounds: int) -> Table:
    """Measure a step of models of more and more tensors, the optimizer sandboxed, beside a plain loop."""
    data = _data(10_000)
    # As many as take about as long, whatever the model.
    steps = {count: max(8, min(200, 20_000 // count)) for count in counts}

    def sandboxed_s(count: int) -> float:
        plugin = sandbox.start(adamw("sandbox", memory_fraction=0.1))
        try:
            return _train(_Parts(count), data, [plugin], sandbox, steps[count]).step_s()
        finally:
            plugin.close()

    ours = _each(sandboxed_s, counts, rounds)
    plain = _each(lambda count: _plain_s(_Parts(count), data, steps[count]), counts, rounds)
    table = Table(
        "A step of a model of many tensors, AdamW sandboxed, beside a plain loop",
        ("tensors", "ringfence", "plain", "over plain, a tensor"),
    )
    over = {
        count: Figure(
            tuple((a - b) / count for a, b in zip(ours[count].values, plain[count].values, strict=True))
        )
        for count in counts
    }
    table.lines = [(f"{count:,}", ours[count], plain[count], over[count]) for count in counts]
    per_tensor = ours[counts[-2]].median / counts[-2]
    table.plot = {
        "ringfence": [(count, ours[count].median) for count in counts],
        "plain": [(count, plain[count].median) for count in counts],
        "linear": [(count, count * per_tensor) for count in counts],
    }
    table.axes = ("parameter tensors", "step, s")
    table.goals = [
        Goal(
            f"{counts[-1]:,} tensors: each at most {_OFF_THE_LINE} x what it takes among {counts[-2]:,}",
            ours[counts[-1]].median / counts[-1] / per_tensor,
            _OFF_THE_LINE,
            unit="x",
        )
    ]
    return table


def _plain_s(model: nn.Module, data: Data, steps: int) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batch = data.train.batch(torch.arange(_BATCH_SIZE))
    stamps = _Stamps()
    stamps()
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(batch.inputs), batch.targets).backward()
        optimizer.step()
        stamps()
    return stamps.step_s()


def _each(measure_one: Callable[[int], float], counts: Sequence[int], rounds: int) -> Mapping[int, Figure]:
    sides = {str(count): (lambda count=count: measure_one(count)) for count in counts}
    return {int(name): figure for name, figure in in_turn(sides, rounds).items()}


def measure(quick: bool) -> list[Table]:  # noqa: FBT001 - as all rows
    """Measure all three."""
    pin_threads()
    with Sandbox(plugins=17) as sandbox:
        if quick:
            return [
                _plugins(sandbox, (1, 2), 40, 1),
                _samples(sandbox, (10**4, 10**5), 110, 1),
                _tensors(sandbox, (10, 20), 1),
            ]
        return [
            _plugins(sandbox, (1, 2, 4, 8, 16), 120, 4),
            _samples(sandbox, (10**4, 10**5, 10**6, 10**7), 200, 2),
            _tensors(sandbox, (10, 100, 1000, 10_000), 2),
        ]


ROW = Row(7, "From 1 to 16 plugins, 10⁴ to 10⁷ samples, 10 to 10⁴ parameter tensors", measure)
