"""Jobs that are trained with faults put into them from outside."""

from __future__ import annotations

import itertools
import random
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import Asking
from outside import Outside
from phases import Fault, Watch, watching
from torch import nn

from ringfence import StepInfo
from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.isolation.host.isolated_plugin import IsolatedPlugin
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.manager import Hooks
from ringfence.tracking.metrics_log import MetricsLog

HERE = str(Path(__file__).parent)
#: Widths of the hidden layers of the two models, by their size.
HIDDEN = {"1 M": (896, 896), "25 M": (4096, 5800)}
_FEATURES, _CLASSES, _SIDE = 256, 10, 16
#: A fault comes so many steps after a snapshot, and there are so many between two snapshots.
_AFTER, _BETWEEN = 3, 6


@dataclass(frozen=True, slots=True)
class Case:
    """A plugin, and how it is made to fail.

    Attributes:
        plugin: Its name.
        how: What the tables call it.
        number: Signal that it gets.
    """

    plugin: str
    how: str
    number: int = signal.SIGKILL


def builtin(name: str, role: str, options: Mapping[str, Any], **more: Any) -> PluginSpec:
    """Describe a plugin that comes with ringfence."""
    classes = {"augment": "Augment", "gradclip": "GradClip", "optim": "Optim", "monitor": "Monitor"}
    module = f"ringfence.builtin.{name}"
    return PluginSpec(name, "ringfence", "0.0.0", module, classes[name], role, options=options, **more)


def usual(algorithm: str = "adamw") -> list[PluginSpec]:
    """Describe the plugins of a usual job but augment."""
    return [
        builtin("gradclip", "gradient", {"max_norm": 1.0}),
        builtin("optim", "optimizer", {"algorithm": algorithm, "lr": 0.001}),
        builtin("monitor", "monitor", {"bins": 64}, every=2),
    ]


def augment(ops: list[str], workers: int = 1) -> PluginSpec:
    """Describe the plugin that changes images."""
    return builtin("augment", "augment", {"ops": ops}, workers=workers)


def faulty(kind: str, **more: Any) -> PluginSpec:
    """Describe the plugin of this folder that fails when it is told to."""
    options = {"kind": kind}
    return PluginSpec(
        f"faulty-{kind}",
        "bench",
        "0.0.0",
        "faulty",
        "Faulty",
        "gradient",
        options=options,
        search_path=(HERE,),
        readable=(HERE,),
        **more,
    )


def model(size: str) -> nn.Module:
    """Return a perceptron of about so many parameters."""
    torch.manual_seed(0)
    widths = (_FEATURES, *HIDDEN[size], _CLASSES)
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def data() -> Data:
    """Return 256 images (1, 16, 16) of ten classes."""
    generator = torch.Generator().manual_seed(0)

    def make(count: int) -> Dataset:
        inputs = torch.randint(0, 256, (count, 1, _SIDE, _SIDE), dtype=torch.uint8, generator=generator)
        return Dataset(inputs, torch.randint(0, _CLASSES, (count,), generator=generator), _CLASSES)

    return Data(make(256), make(16), mean=(0.4,), std=(0.3,))


class _Recorder(MetricsLog):
    """The recorder of every run, which also keeps the number of the last step."""

    last = -1

    def step(self, step: StepInfo, loss: float | None, samples: int) -> None:
        self.last = step.global_step
        super().step(step, loss, samples)


class Injector:
    """Asked between steps whether the run is to stop; puts in one fault after another.

    Args:
        cases: What is to fail, in order.
        watch: Where faults show up.
        recorder: Tells the step.
        hooks: The plugins.
        outside: Sends the signals.
    """

    def __init__(
        self, cases: Sequence[Case], watch: Watch, recorder: _Recorder, hooks: Hooks, outside: Outside
    ) -> None:
        self._cases = cases
        self._watch = watch
        self._recorder = recorder
        self._plugins = {plugin.spec.name: plugin for plugin in hooks.plugins}
        self._outside = outside
        self._random = random.Random(0)  # noqa: S311 - where a fault comes is no secret
        self._put_in = self._at = 0
        self._began, self._step_s = time.monotonic(), 0.01
        self.step_s: list[float] = []

    def __call__(self) -> bool:
        """Tell whether all faults have been recovered from."""
        now = time.monotonic()
        if self._watch.recovering is not None:
            self._began = now
            return False
        self._step_s, self._began = now - self._began, now
        self.step_s.append(self._step_s)
        step = self._recorder.last + 1
        seen = len(self._watch.faults)
        if seen == self._put_in == len(self._cases):
            return step % _BETWEEN == 0
        if seen == self._put_in and step > self._at and step % _BETWEEN == _AFTER:
            self._at = step
            self._fail(self._cases[self._put_in])
        elif seen < self._put_in and step > self._at + 10 * _BETWEEN:
            raise RuntimeError(f"{self._cases[self._put_in - 1]} was not noticed in {step - self._at} steps")
        return False

    def _fail(self, case: Case) -> None:
        plugin = self._plugins[case.plugin]
        assert isinstance(plugin, IsolatedPlugin)
        worker = self._random.choice(plugin._workers)
        pid = worker.channel.process.pid
        self._put_in += 1
        self._outside.signal(pid, case.number, self._random.random() * min(self._step_s, 1.0))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job.

    Attributes:
        faults: One for each case, in order.
        snapshots: When each was begun, and what it took, in seconds.
        step_s: Median time of a step, in seconds.
        weights_sha256: Of the weights in the end.
        steps: How many were taken, those taken again once.
    """

    faults: list[Fault]
    snapshots: list[tuple[float, float]]
    step_s: float
    weights_sha256: str
    steps: int
    samples: list[dict[str, float]]

    def memory(self) -> dict[str, dict[str, float]]:
        """Return the most memory in bytes, beyond that at first: in steps, at snapshots, at roll-backs."""
        first = self.samples[0]
        # Before the first fault has been recovered from, not all that is ever needed was asked for.
        snapshots = [(at, at + seconds) for at, seconds in self.snapshots[1:]]
        faults = [(fault.noticed_at, fault.ready_at) for fault in self.faults]
        found: dict[str, dict[str, float]] = {}
        for sample in self.samples:
            at = sample["at"]
            if at < snapshots[0][0]:
                continue
            within = [
                when for when, spans in (("snapshot", snapshots), ("roll-back", faults)) if _in(at, spans)
            ]
            peaks = found.setdefault((*within, "steps")[0], dict.fromkeys((*_MEMORY, "together"), 0.0))
            used = {name: sample[name] - first[name] for name in _MEMORY}
            for name, value in (*used.items(), ("together", sum(used.values()))):
                peaks[name] = max(peaks[name], value)
        return found


_MEMORY = ("trainer", "shared", "workers")


def _in(at: float, spans: Sequence[tuple[float, float]]) -> bool:
    return any(begin <= at <= end for begin, end in spans)


def parameter_bytes(size: str) -> int:
    """Return how many bytes the parameters of a model take."""
    return sum(parameter.nbytes for parameter in model(size).parameters())


def _reference(sandbox: Sandbox, size: str, specs: Sequence[PluginSpec], steps: int) -> str:
    """Return the digest of the weights of such a run without faults."""
    with closing(Hooks(0)) as hooks:
        for spec in specs:
            hooks.register(sandbox.start(spec))
        config = _config(steps)
        return train(
            try_together(model(size), data(), config), hooks, allocate=sandbox.allocate
        ).weights_sha256


def _config(steps: int) -> TrainConfig:
    return TrainConfig(steps=steps, batch_size=16, snapshot_every=_BETWEEN, eval_every=10**6, device="cpu")


def run(
    sandbox: Sandbox,
    outside: Outside,
    size: str,
    specs: Sequence[PluginSpec],
    cases: Sequence[Case],
    *,
    sampled: bool = False,
) -> Outcome:
    """Train until each of ``cases`` has happened and was recovered from; then see what the weights should be.

    Args:
        sandbox: Where the plugins run.
        outside: Sends the signals.
        size: Key of ``HIDDEN``.
        specs: The plugins.
        cases: What is to fail, in order.
        sampled: Look at the memory as well, which takes processor time.
    """
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder, watching() as watch:
        recorder = _Recorder(Path(folder))
        hooks = Hooks(0, recorder)
        with closing(recorder), closing(hooks):
            for spec in specs:
                hooks.register(sandbox.start(spec))
            injector = Injector(cases, watch, recorder, hooks, outside)
            if sampled:
                outside.start_sampling()
            result = train(
                try_together(model(size), data(), _config(10**6)),
                hooks,
                observer=recorder,
                allocate=sandbox.allocate,
                stop=Asking(injector),
            )
        for fault, ended_at in zip(watch.faults, outside.ended_at(), strict=True):
            # One that died while nobody asked it for anything is noticed when somebody does.
            fault.began_at = max(fault.began_at, ended_at)
    samples = outside.samples() if sampled else []
    if _reference(sandbox, size, specs, result.steps) != result.weights_sha256:
        raise RuntimeError(f"the weights after {len(cases)} faults differ from those without any")
    steps = sorted(injector.step_s)
    return Outcome(
        watch.faults,
        watch.snapshots,
        steps[len(steps) // 2],
        result.weights_sha256,
        result.steps,
        samples,
    )
