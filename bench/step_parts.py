"""What of the engine's time is what: the tiny model of row 1, with parts of the engine left out in turn.

    python bench/step_parts.py

What is left out keeps a promise (results that do not depend on where a plugin runs, no number that is
not finite), so none of it may be left out of a run.
"""  # fmt: skip

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self
from unittest import mock

import frameworks
import torch
from frameworks import Task, Trained
from harness import Table, difference, in_turn, pin_threads, say
from rows.step import tiny

from ringfence.plugins import local_plugin

_STEPS, _ROUNDS = 400, 9
_PLAIN, _ALL = "plain PyTorch", "ringfence"


class _NoGradient:
    """What is left of a call's surroundings if all but ``no_grad`` is left out."""

    def __init__(self, threads: int, *, autograd: bool = False) -> None:
        del threads, autograd
        self.pools: Any = None
        self.draws = True
        self._no_grad = torch.no_grad()

    def __call__(self, seed: object) -> Self:
        del seed
        return self

    for_call = __call__

    def __enter__(self) -> None:
        self._no_grad.__enter__()

    def __exit__(self, *error: object) -> None:
        self._no_grad.__exit__(*error)


def _parts() -> dict[str, Callable[[], Any]]:
    return {
        "without generators and threads of the plugin's own": lambda: mock.patch.object(
            local_plugin, "CallContext", _NoGradient
        ),
        "without the look at what the plugin returns": lambda: mock.patch.object(
            local_plugin, "is_finite", return_value=True
        ),
    }


def _step_s(train: Callable[[Task], Trained]) -> float:
    stamps = train(tiny(_STEPS)).stamps
    return statistics.median([b - a for a, b in itertools.pairwise(stamps)][_STEPS // 4 : _STEPS - 1])


def main() -> None:
    """Measure, and print a table."""
    pin_threads()
    parts = _parts()

    def without(*left_out: str) -> float:
        with ExitStack() as stack:
            for name in left_out:
                stack.enter_context(parts[name]())
            return _step_s(frameworks.ringfence)

    sides: dict[str, Callable[[], float]] = {
        _PLAIN: lambda: _step_s(frameworks.plain),
        "pytorch-ignite": lambda: _step_s(frameworks.ignite),
        _ALL: without,
        **{name: lambda name=name: without(name) for name in parts},
        "without both": lambda: without(*parts),
    }
    figures = in_turn(sides, _ROUNDS)
    table = Table("One step of a tiny model (874 parameters, batch 16)", ("", "median step", "over plain"))
    for name, figure in figures.items():
        table.lines.append((name, figure, "" if name == _PLAIN else difference(figures, name, _PLAIN)))
    say(table.text())


if __name__ == "__main__":
    main()
