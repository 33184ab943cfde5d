"""What a run has to remember so that it can go on from there, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks import plain
from ..hooks.errors import CheckpointError, PluginProtocolError
from ..hooks.manager import Hooks
from ..hooks.types import TensorMap
from .checkpoint import Contents
from .metrics import Metric
from .recorder import Recorder
from .rng import TorchRng
from .weights import Weights


@dataclass(slots=True)
class Progress:
    """Counters and judgements of a run; plain data.

    Attributes:
        step: Optimizer steps finished.
        metrics: The last evaluation.
        evaluated_step: Steps finished when it was made; -1 if there was none.
        best_metric: The best value so far, None before the first evaluation.
        best_step: Where it was reached.
        baseline: What early stopping compares with: the last value that gained more than ``min_delta``.
        evaluations_without_gain: Evaluations since then.
        stopped_early: Whether early stopping ended the run.
    """

    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    evaluated_step: int = -1
    best_metric: float | None = None
    best_step: int | None = None
    baseline: float | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False

    def judge(
        self, metrics: dict[str, float], name: str, metric: Metric, patience: int | None, min_delta: float
    ) -> bool:
        """Take an evaluation into account.

        Args:
            metrics: What was measured.
            name: The job's metric, a key of ``metrics``.
            metric: Its direction.
            patience: Evaluations without a gain after which to stop; None never stops.
            min_delta: Gain that counts.

        Returns:
            Whether this is the best value so far.
        """
        value = metrics[name]
        self.metrics, self.evaluated_step = metrics, self.step
        best = metric.better(value, self.best_metric)
        if best:
            self.best_metric, self.best_step = value, self.step
        if metric.better(value, self.baseline, min_delta):
            self.baseline, self.evaluations_without_gain = value, 0
        else:
            self.evaluations_without_gain += 1
        self.stopped_early = patience is not None and self.evaluations_without_gain >= patience
        return best

    def copy(self) -> Progress:
        """Return a copy that later steps do not change."""
        return replace(self, metrics=dict(self.metrics))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run between two steps, in host memory, shared with nothing.

    Attributes:
        parameters: A clone of ``Weights.values``.
        buffers: Clones of the model's buffers, such as batch norm's statistics.
        rng: States of torch's generators.
        python_rng: State of ``random``.
        progress: Counters.
        plugins: Plugin name to its state, as ``hooks.plain`` bytes.
        recorder: The recorder's position; plain data.
    """

    parameters: TensorMap
    buffers: dict[str, Tensor]
    rng: TorchRng
    python_rng: Any
    progress: Progress
    plugins: Mapping[str, bytes]
    recorder: Any

    def contents(self, metric: float | None, *, higher_is_better: bool) -> Contents:
        """Return it as what a checkpoint holds.

        Args:
            metric: The job's metric if it was evaluated at this step.
            higher_is_better: Its direction.
        """
        engine = {
            "progress": asdict(self.progress),
            "rng_cpu": self.rng.cpu,
            "rng_cuda": self.rng.cuda,
            "rng_python": self.python_rng,
            "recorder": self.recorder,
        }
        return Contents(
            step=self.progress.step,
            tensors={**self.parameters, **self.buffers},
            engine=plain.dumps(engine),
            plugins=self.plugins,
            metric=metric,
            higher_is_better=higher_is_better,
        )


@dataclass(frozen=True, slots=True)
class TrainState:
    """The parts of a run that training changes; read-only for everybody but the engine.

    Attributes:
        model: Its parameters and buffers.
        weights: Its parameters, as plugins see them.
        device: Where the loop runs.
        progress: Counters.
    """

    model: nn.Module
    weights: Weights
    device: torch.device
    progress: Progress

    def snapshot(self, hooks: Hooks, recorder: Recorder) -> Snapshot:
        """Copy everything that the run needs to come back to this point.

        Raises:
            PluginError: A plugin could not give its state, or not as plain data.
        """
        # Plugins first: asking for states drains the monitors, whose reports belong before the position.
        plugins = _plugin_states(hooks)
        return Snapshot(
            parameters=self.weights.values.clone(),
            buffers={name: buffer.detach().cpu().clone() for name, buffer in self.model.named_buffers()},
            rng=TorchRng.capture(self.device),
            python_rng=random.getstate(),
            progress=self.progress.copy(),
            plugins=plugins,
            recorder=recorder.position(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Bring model, counters and random states back to ``snapshot``."""
        self.weights.write_flat(snapshot.parameters)
        self.weights.drop_gradients()
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                saved = snapshot.buffers[name]
                # Constant buffers may be expanded views, which cannot be written to.
                if not torch.equal(buffer.cpu(), saved):
                    buffer.copy_(saved)
        snapshot.rng.restore(self.device)
        random.setstate(snapshot.python_rng)
        for name, value in asdict(snapshot.progress).items():
            setattr(self.progress, name, value)

    def read(self, contents: Contents, where: object) -> Snapshot:
        """Return the snapshot that a checkpoint holds, laid out for this model.

        Args:
            contents: What was read.
            where: The checkpoint, for messages.

        Raises:
            CheckpointError: Its tensors are not those of this model.
        """
        model_buffers = dict(self.model.named_buffers())
        expected = {**self.weights.values, **model_buffers}
        _check_tensors(expected, contents.tensors, where)
        parameters = self.weights.values.clone()
        for name in parameters:
            parameters[name].copy_(contents.tensors[name])
        engine = plain.loads(contents.engine)
        version, internal, gauss = engine["rng_python"]
        return Snapshot(
            parameters=parameters,
            buffers={name: contents.tensors[name] for name in model_buffers},
            rng=TorchRng(engine["rng_cpu"], engine["rng_cuda"]),
            python_rng=(version, tuple(internal), gauss),
            progress=Progress(**engine["progress"]),
            plugins=contents.plugins,
            recorder=engine["recorder"],
        )


def load_plugin_states(hooks: Hooks, snapshot: Snapshot) -> None:
    """Give the running plugins back what they had at ``snapshot``.

    Raises:
        PluginError: A plugin did not take it.
    """
    hooks.load_state_dict({name: plain.loads(state) for name, state in snapshot.plugins.items()})


def restart_without_state(hooks: Hooks, snapshot: Snapshot, *, but: str) -> None:
    """Start those plugins anew that may have gained a state since ``snapshot``, where they had none.

    An optimizer has none before its first step, for example, and there is no
    other way back to that. Left alone are monitors, whose results change nothing,
    and augment plugins that run ahead, whose results depend on nothing but the step.

    Args:
        hooks: The plugins.
        snapshot: What the run goes back to.
        but: The plugin that has just been started anew.

    Raises:
        PluginError: A plugin did not start.
    """
    for plugin in hooks.plugins:
        if plugin.spec.name == but:
            continue
        role = plugin.spec.role_info
        bound_to_step = not role.observes and ("backward" in plugin.accepts or not role.runs_ahead)
        if plugin.usage.state == "running" and bound_to_step and plugin.spec.name not in snapshot.plugins:
            plugin.restart()


def _plugin_states(hooks: Hooks) -> dict[str, bytes]:
    """Return the states that there are, as bytes: copies that no plugin can change later, fit for disk."""
    roles = {plugin.spec.name: plugin.spec.role for plugin in hooks.plugins}
    states: dict[str, bytes] = {}
    for name, state in hooks.state_dict().items():
        if state is None:
            continue
        try:
            states[name] = plain.dumps(state)
        except plain.PlainDataError as error:
            message = f"state_dict() returned what cannot be saved: {error}"
            raise PluginProtocolError(message, plugin=name, hook=f"{roles[name]}.state_dict") from error
    return states


def _check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: object) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"{where} is of another model: it lacks {missing[:3]} and has {extra[:3]} beside; "
            "resume with the model that the run started with"
        )
    for name, tensor in expected.items():
        other = found[name]
        if other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise CheckpointError(
                f"{where} is of another model: '{name}' is {tuple(other.shape)} {other.dtype} there and "
                f"{tuple(tensor.shape)} {tensor.dtype} here; resume with the model that the run started with"
            )
