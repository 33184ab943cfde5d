"""Row 5: a step of a sandboxed optimizer beside the same optimizer in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch_optimizer
from harness import Figure, Goal, Row, Table, in_turn, pin_threads, ratio
from torch import nn

from ringfence.hooks.types import StepInfo, TensorMap
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import Plugin, PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin

#: Millions of parameters to steps in a row, of which the median counts.
_SIZES = {1: 20, 10: 5, 50: 2}
_WIDTH = 1000
_LR = 1e-3
_INSIDE, _SANDBOXED, _TRUSTED, _COPY = "in-process", "sandboxed", "trusted", "one copy of the parameters"
_ALGORITHMS: dict[str, Callable[[list[nn.Parameter]], Any]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=_LR, weight_decay=0.0, fused=True),
    "lamb": lambda parameters: torch_optimizer.Lamb(parameters, lr=_LR, weight_decay=0.0),
}
_GOAL_FROM, _GOAL = 10, 1.15


def measure(quick: bool) -> list[Table]:  # noqa: FBT001 - as all rows
    """Step both algorithms over models of three sizes."""
    pin_threads()
    rounds = 3 if quick else 9
    with Sandbox(plugins=len(_ALGORITHMS)) as sandbox:
        return [_table(sandbox, algorithm, rounds) for algorithm in _ALGORITHMS]


def _values(millions: int, seed: int, allocate: Any = None) -> TensorMap:
    """Lay out ``millions`` matrices of a million numbers each, and a vector with each."""
    shapes = {}
    for number in range(millions):
        shapes[f"{number}.weight"] = torch.empty(_WIDTH, _WIDTH, device="meta")
        shapes[f"{number}.bias"] = torch.empty(_WIDTH, device="meta")
    values = TensorMap.like(shapes, allocate)
    generator = torch.Generator().manual_seed(seed)
    for tensor in values.values():
        tensor.normal_(generator=generator)
    return values


def _spec(algorithm: str, isolation: Any) -> PluginSpec:
    return PluginSpec(
        algorithm,
        "ringfence",
        "1.0",
        "ringfence.builtin.optim",
        "Optim",
        "optimizer",
        {"algorithm": algorithm, "lr": _LR, "weight_decay": 0.0},
        isolation,
    )


class _Plugged:
    """An optimizer plugin over parameters of its own, called as the engine does."""

    def __init__(self, plugin: Plugin, sandbox: Sandbox, millions: int) -> None:
        self.plugin = plugin
        self.parameters = _values(millions, 1, sandbox.arena.allocate)
        self._gradients = _values(millions, 2, sandbox.arena.allocate)
        self._steps = 0

    def step(self) -> None:
        """Take one step."""
        arguments = {"parameters": self.parameters, "gradients": self._gradients, "loss": 0.0}
        result = self.plugin.call("backward", arguments, StepInfo(self._steps), into=self.parameters)
        assert result is self.parameters, "the result was not made in the parameters' place"
        self._steps += 1


class _Inside:
    """The same optimizer over parameters of its own."""

    def __init__(self, make: Callable[[list[nn.Parameter]], Any], millions: int) -> None:
        self.parameters = _values(millions, 1)
        gradients = _values(millions, 2)
        self._leaves = [nn.Parameter(tensor) for tensor in self.parameters.values()]
        for leaf, gradient in zip(self._leaves, gradients.values(), strict=True):
            leaf.grad = gradient
        self._optimizer = make(self._leaves)

    def step(self) -> None:
        """Take one step."""
        self._optimizer.step()


@contextmanager
def _sides(sandbox: Sandbox, algorithm: str, millions: int) -> Iterator[dict[str, Any]]:
    isolated = sandbox.start(_spec(algorithm, "sandbox"))
    try:
        yield {
            _INSIDE: _Inside(_ALGORITHMS[algorithm], millions),
            _SANDBOXED: _Plugged(isolated, sandbox, millions),
            _TRUSTED: _Plugged(LocalPlugin(_spec(algorithm, "trusted")), sandbox, millions),
        }
    finally:
        isolated.close()


def _table(sandbox: Sandbox, algorithm: str, rounds: int) -> Table:
    table = Table(
        f"One step of {algorithm}",
        ("parameters", _INSIDE, _SANDBOXED, _TRUSTED, _COPY, "sandboxed / in-process", "least / in-process"),
    )
    series: dict[str, list[tuple[float, float]]] = {}
    for millions, steps in _SIZES.items():
        with _sides(sandbox, algorithm, millions) as sides:
            # All take the same steps: in each round every side takes as many.
            figures = in_turn(
                {
                    name: lambda side=side, steps=steps: _median_s(side.step, steps)
                    for name, side in sides.items()
                }
                | {_COPY: _copying(sides[_INSIDE].parameters, steps)},
                rounds,
            )
            for name, side in sides.items():
                same = torch.equal(side.parameters.buffer, sides[_INSIDE].parameters.buffer)
                assert same, f"{algorithm} {name} ends with other parameters than in-process"
        by = ratio(figures, _SANDBOXED, _INSIDE)
        pairs = zip(figures[_INSIDE].values, figures[_COPY].values, strict=True)
        least = Figure(tuple(1 + copy / inside for inside, copy in pairs), "x")
        table.lines.append(
            (f"{millions} M", *(figures[name] for name in (_INSIDE, _SANDBOXED, _TRUSTED, _COPY)), by, least)
        )
        for name in sides:
            series.setdefault(name, []).append((millions * 1e6, figures[name].median))
        if millions >= _GOAL_FROM:
            table.goals.append(Goal(f"at most {_GOAL} x in-process at {millions} M", by.median, _GOAL))
    table.plot, table.axes = series, ("parameters", "seconds a step")
    table.notes = [
        "One thread on every side; all end with the same parameters, bit for bit.",
        "A sandboxed step copies the parameters twice: into the place of the result, and out of it, checked.",
        "The least is what it would take with one plain copy, which is made before the result is believed.",
    ]
    return table


def _copying(values: TensorMap, steps: int) -> Callable[[], float]:
    target = torch.empty_like(values.buffer)
    return lambda: _median_s(lambda: target.copy_(values.buffer), steps)


def _median_s(step: Callable[[], object], steps: int) -> float:
    taken = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return Figure(tuple(taken)).median


ROW = Row(5, "A step of a sandboxed optimizer, beside the same optimizer in-process", measure)
