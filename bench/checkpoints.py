"""What a checkpoint costs, beside ``torch.save`` of the same state to one file on the same disk.

    python bench/checkpoints.py [--json FILE] [--rounds N] [--folder DIR]

The state is that of a model with AdamW: parameters, and two moments of each. The plugin is the
builtin optimizer, trusted or sandboxed, as a job would have it. What is timed:

    torch.save          model and optimizer state dicts to one file, over the one before
    torch.save+fsync    the same, and the file synced
    snapshot            what the run keeps in memory to come back to, with or without a checkpoint
    write               the snapshot to a synced folder, with a SHA-256 of every file; the one before
                        is removed once the new one is on disk
    checkpoint          both

Rounds are interleaved, so that a slow moment of the disk hits all. Memory is the most that the
trainer's process grows by beyond what it held, in a process of its own for each line: the first
snapshot is held by the run anyway, and is counted in a column of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import torch
from torch import nn

from ringfence.engine.checkpoints.checkpoint import write_checkpoint
from ringfence.engine.progress import Progress
from ringfence.engine.state import TrainState
from ringfence.engine.weights import Weights
from ringfence.hooks.types import StepInfo
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks
from ringfence.plugins.observer import Observer

MIB = 1 << 20
WIDTHS = {"1M": 500, "25M": 2500}
LAYERS = 4
#: A run that checkpoints once an epoch, as the default is: the time of one epoch, in seconds.
EPOCH_S = 60.0
KINDS = ("trusted", "sandbox")


def model_of(size: str) -> nn.Module:
    """Return a stack of square layers with about as many parameters as ``size`` says."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTHS[size], WIDTHS[size]) for _ in range(LAYERS)))


@dataclass
class Case:
    """A run between two steps, after one of AdamW."""

    state: TrainState
    hooks: Hooks
    snapshot: Any = None

    def take(self) -> None:
        """Take a snapshot as the engine does: over the one before."""
        self.snapshot = self.state.snapshot(self.hooks, Observer(), self.snapshot)

    def write(self, folder: Path) -> None:
        """Write it as the next checkpoint; one stays."""
        self.snapshot.progress.step += 1
        self.state.progress.step = self.snapshot.progress.step
        contents = self.snapshot.contents(None, higher_is_better=True)
        write_checkpoint(folder, contents, {}, keep=1, environment={})


@contextmanager
def case_of(size: str, kind: str) -> Iterator[Case]:
    """Yield a run whose optimizer has made one step."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(plugins=1)) if kind == "sandbox" else None
        model = model_of(size)
        allocate = None if sandbox is None else sandbox.allocate
        weights = Weights(model, torch.device("cpu"), allocate)
        spec = PluginSpec(
            name="optim",
            distribution="ringfence",
            version="0",
            module="ringfence.builtin.optim",
            qualname="Optim",
            role="optimizer",
            options={"algorithm": "adamw", "lr": 1e-3},
            isolation=kind,  # type: ignore[arg-type]
            deadline_s=60.0,
        )
        plugin = LocalPlugin(spec) if sandbox is None else sandbox.start(spec)
        hooks = Hooks(0)
        stack.callback(hooks.close)
        hooks.register(plugin)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        gradients = weights.collect_gradients()
        changed = hooks.optimizer_backward(weights.values, gradients, 0.0, StepInfo(0, steps_total=9))
        weights.write(changed)  # type: ignore[arg-type]
        del gradients, changed
        yield Case(TrainState(model, weights, torch.device("cpu"), Progress(step=1)), hooks)


def plain_torch(size: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the same without ringfence."""
    model = model_of(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def torch_save(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, *, sync: bool) -> None:
    """Save as the PyTorch tutorial does."""
    with path.open("wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        if sync:
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and of this process's time on processors, the kernel's on its behalf included."""

    wall_s: float
    cpu_s: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)


def timed(action: Callable[[], object]) -> Cost:
    """Return what ``action`` takes."""
    started = time.perf_counter(), time.process_time()
    action()
    return Cost(time.perf_counter() - started[0], time.process_time() - started[1])


def measure(size: str, folder: Path, rounds: int) -> dict[str, list[Cost]]:
    """Return the cost of each way, one for each round."""
    model, optimizer = plain_torch(size)
    costs: dict[str, list[Cost]] = {}
    with ExitStack() as stack:
        cases = {kind: stack.enter_context(case_of(size, kind)) for kind in KINDS}
        for number in range(rounds + 1):
            found = {}
            for name, sync in (("torch.save", False), ("torch.save+fsync", True)):
                path = folder / f"{name}.pt"
                found[name] = timed(
                    lambda path=path, sync=sync: torch_save(model, optimizer, path, sync=sync)
                )
                os.sync()
            for kind, case in cases.items():
                found[f"{kind} snapshot"] = timed(case.take)
                found[f"{kind} write"] = timed(lambda case=case, kind=kind: case.write(folder / kind))
                found[f"{kind} checkpoint"] = found[f"{kind} snapshot"] + found[f"{kind} write"]
                os.sync()
            if number:  # the first is a warm-up
                for name, value in found.items():
                    costs.setdefault(name, []).append(value)
    return costs


class Peak:
    """The most that this process's own memory grows by inside the block, looked at every millisecond."""

    def __enter__(self) -> Self:
        gc.collect()
        self._stop = threading.Event()
        self._before = self._peak = _own()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mib = (self._peak - self._before) / MIB
        self.left_mib = (_own() - self._before) / MIB

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self._peak = max(self._peak, _own())


def _own() -> int:
    """Return the private memory of this process, in bytes."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def measure_memory(what: str, size: str, folder: Path) -> dict[str, float]:
    """Return MiB: the state, what the first snapshot leaves, and peaks beyond what is held then."""
    if what == "torch.save":
        model, optimizer = plain_torch(size)
        with Peak() as peak:
            torch_save(model, optimizer, folder / "plain.pt", sync=True)
        return {"checkpoint": peak.mib}
    with case_of(size, what) as case:
        with Peak() as first:
            case.take()
        with Peak() as write:
            case.write(folder / what)
        with Peak() as again:
            case.take()
            case.write(folder / what)
    return {"snapshot held": first.left_mib, "write": write.mib, "checkpoint": again.mib}


def in_a_process(what: str, size: str, folder: Path) -> dict[str, float]:
    """Measure memory in a fresh process."""
    command = [sys.executable, __file__, "--memory", what, "--size", size, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tell(size: str, costs: dict[str, list[Cost]], memory: dict[str, dict[str, float]]) -> None:
    """Print one table."""
    parameters = sum(parameter.numel() for parameter in model_of(size).parameters())
    state = 3 * 4 * parameters / MIB
    say(f"\n{size}: {parameters / 1e6:.2f} M parameters, {state:.0f} MiB of state with AdamW")
    say(f"  {'':24}{'median':>10}{'least':>10}{'most':>10}{'processor':>11}{f'of {EPOCH_S:.0f} s':>9}")
    for name, found in costs.items():
        walls = [cost.wall_s for cost in found]
        middle, cpu = statistics.median(walls), statistics.median(cost.cpu_s for cost in found)
        row = "".join(f"{value * 1e3:8.1f}ms" for value in (middle, min(walls), max(walls)))
        say(f"  {name:24}{row}{cpu * 1e3:9.1f}ms{middle / EPOCH_S:9.2%}")
    for name, grown in memory.items():
        told = ", ".join(f"{key} {value:.0f} MiB" for key, value in grown.items())
        say(f"  extra memory, {name}: {told}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a checkpoint costs, beside torch.save.")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder here by default")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=WIDTHS, help="only this one")
    options = parser.parse_args()
    if options.memory:
        say(json.dumps(measure_memory(options.memory, options.size, options.folder)))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-checkpoints-", dir=options.folder or Path.cwd()))
    try:
        figures: dict[str, Any] = {}
        say(f"{platform.platform()}, {os.cpu_count()} cores, torch {torch.__version__}, {folder.parent}")
        say(
            f"{options.rounds} rounds after a warm-up; the share is of an epoch of {EPOCH_S:.0f} s, once each"
        )
        for size in [options.size] if options.size else WIDTHS:
            costs = measure(size, folder, options.rounds)
            memory = {what: in_a_process(what, size, folder) for what in ("torch.save", *KINDS)}
            tell(size, costs, memory)
            seconds = {name: [dataclasses.asdict(cost) for cost in found] for name, found in costs.items()}
            figures[size] = {"seconds": seconds, "memory_mib": memory}
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
