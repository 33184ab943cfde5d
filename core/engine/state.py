"""The state of training that a snapshot holds, so that a run goes on from there bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks.errors import CheckpointError
from ..hooks.types import TensorMap
from ..plugins.machine_memory import machine_bytes
from ..plugins.manager import Hooks
from ..plugins.observer import Observer
from ..reproducibility.generator_states import RunRng
from ..tensors import pytree
from ..tensors.tensor_file import TensorFile
from .buffers import changed_layouts, copy_buffers, restore_buffers, shared_buffers
from .checkpoints.checkpoint import CheckpointContents, Limits
from .checkpoints.engine_state import EngineState
from .driver import Driver
from .extra_state import copy_extra_state, load_extra_state
from .progress import Progress
from .tensor_names import named_buffers, plain_name, plain_names
from .weights import Weights


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run between two steps, in host memory, shared with nothing but the next snapshot.

    Attributes:
        parameters: A clone of ``Weights.values``.
        frozen: Clones of ``Weights.frozen``, which a model's own code may change.
        buffers: Clones of the model's buffers, such as batch norm's statistics.
        rng: States of the generators.
        progress: Counters.
        plugins: Plugin name to its state, as ``hooks.plain`` encodes it.
        position: The observer's; plain data.
        extra_state: Name of a module to what its ``get_extra_state`` gave.
        drivers: Name of a driver to its state.
    """

    parameters: TensorMap
    frozen: dict[str, Tensor]
    buffers: dict[str, Tensor]
    rng: RunRng
    progress: Progress
    plugins: Mapping[str, TensorFile]
    position: Any
    extra_state: Mapping[str, Any]
    drivers: Mapping[str, Any]

    def contents(self, metric: float | None, *, higher_is_better: bool) -> CheckpointContents:
        """Return it as what a checkpoint holds; no tensor is copied.

        Args:
            metric: The job's metric if it was evaluated at this step.
            higher_is_better: Its direction.
        """
        engine = EngineState(self.progress, self.rng, self.position, self.extra_state, self.drivers)
        return CheckpointContents(
            step=self.progress.step,
            tensors={**self.parameters, **self.frozen, **self.buffers},
            engine=engine.encode(),
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
        drivers: They act on the model between steps.
        shared: Buffers that modules share as the run begins, by ``shared_buffers``.

    Raises:
        ValueError: Two drivers have one name, so that one would be given the other's state.
    """

    model: nn.Module
    weights: Weights
    device: torch.device
    progress: Progress
    drivers: Sequence[Driver[Any]] = ()
    shared: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        names = [driver.name for driver in self.drivers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"two drivers of the run are named {_listed(twice)}, and each keeps its state under its "
                "name; give each a name of its own"
            )
        object.__setattr__(self, "shared", shared_buffers(self.model))

    def snapshot(self, hooks: Hooks, observer: Observer, old: Snapshot | None = None) -> Snapshot:
        """Copy everything that the run needs to come back to this point.

        Args:
            hooks: The plugins.
            observer: Asked for its position.
            old: The snapshot before, whose parameters' memory the new one takes over: it is of no
                use afterwards. If this raises, it is as it was.

        Raises:
            PluginError: A plugin could not give its state, or not as plain data.
            DataError: Nor could the model what it keeps beside its parameters and buffers.
        """
        # Plugins first: asking for states drains the monitors, whose reports belong before the position.
        plugins = hooks.state_dict()
        position = observer.position()
        extra_state = copy_extra_state(self.model)
        drivers = {driver.name: pytree.copied(driver.state_dict()) for driver in self.drivers}
        buffers = {name: buffer.cpu() for name, buffer in copy_buffers(self.model).items()}
        frozen = {name: _on_host(value) for name, value in self.weights.frozen.items()}
        if old is None:
            parameters = self.weights.values.clone()
        else:
            # From here on nothing can fail: two copies of the parameters would be one too many.
            parameters = old.parameters
            parameters.buffer.copy_(self.weights.values.buffer)
        return Snapshot(
            parameters=parameters,
            frozen=frozen,
            buffers=buffers,
            rng=RunRng.capture(self.device),
            progress=self.progress.copy(),
            plugins=plugins,
            position=position,
            extra_state=extra_state,
            drivers=drivers,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Bring drivers, model, counters and random states back to ``snapshot``."""
        self._load_drivers(snapshot.drivers)
        self._restore_model(snapshot)
        snapshot.rng.restore(self.device)
        progress = snapshot.progress.copy()
        for each in fields(progress):
            setattr(self.progress, each.name, getattr(progress, each.name))

    def restore_model(self, contents: CheckpointContents, path: Path) -> Progress:
        """Bring the model alone back to a checkpoint, as ``read`` reads it, and return the counters in that.

        Drivers stay where they are: averages that one keeps beside the weights are those of the end.
        """
        drivers = {driver.name: pytree.copied(driver.state_dict()) for driver in self.drivers}
        found = self.read(contents, path)
        self._restore_model(found)
        self._load_drivers(drivers)
        return found.progress

    def _restore_model(self, snapshot: Snapshot) -> None:
        self.weights.write_flat(snapshot.parameters)
        self.weights.drop_gradients()
        with torch.no_grad():
            for name, value in snapshot.frozen.items():
                self.weights.frozen[name].copy_(value)
        restore_buffers(self.model, snapshot.buffers, self.shared)
        load_extra_state(self.model, snapshot.extra_state)

    def changed_buffers(self, since: Snapshot | None) -> Iterable[str]:
        """Return sentences on buffers that have other names, shapes or dtypes than in an earlier snapshot."""
        return () if since is None else changed_layouts(since.buffers, named_buffers(self.model))

    def limits(self, hooks: Hooks) -> Limits:
        """Return how large a checkpoint of this run can be."""
        tensors = [*self.weights.values.values(), *self.weights.frozen.values(), *self.model.buffers()]
        memory = {plugin.spec.name: plugin.usage.state_of_bytes for plugin in hooks.plugins}
        return Limits(sum(tensor.nbytes for tensor in tensors), memory, machine_bytes())

    def read(self, contents: CheckpointContents, path: Path) -> Snapshot:
        """Return the snapshot that a checkpoint holds, laid out for this model.

        Args:
            contents: What was read.
            path: The checkpoint, for messages.

        Raises:
            CheckpointError: Its tensors are not those of this model, or its drivers not those of this run.
            DamagedError: The engine's own state is not what the engine writes.
        """
        engine = EngineState.decode(contents.engine, contents.step, path, self.device)
        if engine.drivers.keys() != {driver.name for driver in self.drivers}:
            held, run = (_listed(names) for names in (engine.drivers, [d.name for d in self.drivers]))
            raise CheckpointError(
                f"{path} is of a run with {held} beside its plugins, and this one has {run}; "
                "resume with the job as it was"
            )
        # Before the tensors are compared: a driver may have changed what they are.
        self._load_drivers(engine.drivers)
        model_buffers = named_buffers(self.model)
        expected = {**self.weights.values, **self.weights.frozen, **model_buffers}
        # Before 0.3.1 those of a compiled model were written with what torch.compile puts into names.
        names = plain_names(contents.tensors)
        tensors = {names[name]: tensor for name, tensor in contents.tensors.items()}
        _check_tensors(expected, tensors, path)
        parameters = self.weights.values.clone()
        for name in parameters:
            parameters[name].copy_(tensors[name])
        return Snapshot(
            parameters=parameters,
            frozen={name: tensors[name].clone() for name in self.weights.frozen},
            buffers={name: tensors[name].clone() for name in model_buffers},
            rng=engine.rng,
            progress=engine.progress,
            plugins={plugin: _rename_keys(state, names) for plugin, state in contents.plugins.items()},
            position=engine.position,
            extra_state={plain_name(name): state for name, state in engine.extra_state.items()},
            drivers=engine.drivers,
        )

    def _load_drivers(self, states: Mapping[str, Any]) -> None:
        for driver in self.drivers:
            driver.load_state_dict(pytree.copied(states[driver.name]))


def load_plugin_states(hooks: Hooks, snapshot: Snapshot) -> None:
    """Give the running plugins back what they had at ``snapshot``.

    Raises:
        PluginError: A plugin did not take it.
    """
    hooks.load_state_dict(snapshot.plugins)


def restart_without_state(hooks: Hooks, snapshot: Snapshot, *, but: str) -> None:
    """Start those plugins anew that may have gained a state since ``snapshot``, where they had none.

    An optimizer has none before its first step, for example, and there is no
    other way back to that. Left alone are monitors, whose results change nothing unless they may ask,
    augment plugins that run ahead, whose results depend on nothing but the step, and
    those without the methods of a state, which so say that they need none to go on:
    each would cost as much time again as the one that failed.

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
        only_watches = role.observes and not plugin.spec.allow
        bound_to_step = not only_watches and ("backward" in plugin.accepts or not role.runs_ahead)
        may_have_gained = bound_to_step and plugin.keeps_state and plugin.spec.name not in snapshot.plugins
        if plugin.usage.state == "running" and may_have_gained:
            plugin.restart()


def _on_host(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "nothing"


def _rename_keys(state: TensorFile, names: Mapping[str, str]) -> TensorFile:
    """Return a plugin's state with other names of tensors: where it has one, it is all of a key or a text."""
    if all(name == new for name, new in names.items()):
        return state

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {names.get(key, key): rename(item) for key, item in value.items()}
        if isinstance(value, list):
            return [rename(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    return pytree.encode(rename(pytree.decode(state, copy=False)), copy=False)


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
                f"{tuple(tensor.shape)} {tensor.dtype} here; resume with the model that the run started with "
                "(one whose buffers change their shapes in training cannot be resumed)"
            )
