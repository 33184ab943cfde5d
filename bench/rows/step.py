"""Row 1: what a step costs with the engine and no plugin but the optimizer, which is trusted."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import frameworks
from frameworks import Task, Trained, random_task
from harness import Figure, Goal, Row, Table, difference, in_turn, pin_threads
from torch import nn

_OVER_PLAIN_S = 15e-6
#: A plain loop, then what is measured beside it; the names are those of the tables.
_SIDES: dict[str, Callable[[Task], Trained]] = {
    "plain PyTorch": frameworks.plain,
    "ringfence": frameworks.ringfence,
    "ringfence, with the record of a run": frameworks.ringfence_recorded,
    "pytorch-lightning, barebones": frameworks.lightning,
    "pytorch-ignite": frameworks.ignite,
    "accelerate": frameworks.accelerate,
    "transformers Trainer": frameworks.hf_trainer,
}
_PLAIN, _OURS, _OTHERS = "plain PyTorch", "ringfence", tuple(_SIDES)[3:]


def tiny(steps: int) -> Task:
    """Return a task in which the loop itself is all that counts: 874 parameters."""
    return random_task(
        lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)), (16,), 16, steps
    )


def _small(steps: int) -> Task:
    """Return a task of the size of an exercise: images 28x28, 101,770 parameters."""
    return random_task(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
        (1, 28, 28),
        64,
        steps,
    )


def measure(quick: bool) -> list[Table]:  # noqa: FBT001 - as all rows
    """Train two tasks on every side."""
    pin_threads()
    rounds, steps = (2, 100) if quick else (12, 400)
    return [
        _table("tiny model (874 parameters, batch 16)", tiny(steps), rounds),
        _table("small model (101,770 parameters, batch 64)", _small(steps), rounds),
    ]


def _table(what: str, task: Task, rounds: int) -> Table:
    expected = frameworks.plain(task).sha256
    means: dict[str, list[float]] = {name: [] for name in _SIDES}

    def side(name: str, train: Callable[[Task], Trained]) -> Callable[[], float]:
        def once() -> float:
            trained = train(task)
            # Each is trained to the end each time: not one run may differ.
            assert trained.sha256 == expected, f"{name} ends with other weights than the plain loop"
            spans = [b - a for a, b in itertools.pairwise(trained.stamps)][task.steps // 4 : task.steps - 1]
            means[name].append(statistics.fmean(spans))
            return statistics.median(spans)

        return once

    figures = in_turn({name: side(name, train) for name, train in _SIDES.items()}, rounds)
    table = Table(f"One step of a {what}", ("", "median step", "over plain", "mean step"))
    over = {name: difference(figures, name, _PLAIN) for name in _SIDES}
    for name, figure in figures.items():
        mean = Figure(tuple(means[name][-rounds:]))
        table.lines.append((name, figure, "" if name == _PLAIN else over[name], mean))
    ours = over[_OURS].median
    best = min(over[name].median for name in _OTHERS)
    table.goals = [
        Goal("ringfence at most 15 µs a step over plain", ours, _OVER_PLAIN_S, unit="s"),
        Goal("ringfence's time over plain ahead of that of all four frameworks", ours, best, unit="s"),
    ]
    table.notes = [
        f"All sides end with the same weights, bit for bit, after {task.steps} steps. One thread.",
        "The first quarter of the steps is not counted.",
        "The mean holds what comes now and then: the order of a new epoch, ringfence's snapshots.",
    ]
    return table


ROW = Row(1, "A step of the engine without plugins, beside a plain loop and four frameworks", measure)
