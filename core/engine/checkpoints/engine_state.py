"""The engine's own state in a checkpoint: counters, random states and the observer's position."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from ...reproducibility.generator_states import NumpyState, PythonState, RunRng, TorchRng, as_numpy
from ...tensors import pytree
from ...tensors.tensor_file import TensorFile
from ..progress import Progress
from ..tensor_names import plain_name
from .manifest import ENGINE, DamagedError

#: What checkpoints before 0.3 lack: nobody could say where numpy's generator stood.
_NUMPY = "rng_numpy"
#: There only if the model gives any, so that checkpoints of others are as they were.
_EXTRA = "extra_state"
#: Likewise, if the run has any.
_DRIVERS = "drivers"
_KEYS = frozenset({"progress", "rng_cpu", "rng_cuda", "rng_python", _NUMPY, "recorder"})
_PROGRESS = frozenset(Progress.__dataclass_fields__)
#: What checkpoints before 0.4 lack: no schedule waited for a plateau, no plugin could ask for anything, and
#: none was shown the loss of an epoch.
_NEW_PROGRESS = {"asked_step", "epoch_loss", "plateau", "stop_asked"}
_PYTHON_VERSION = 3
_WORDS = 624
_CUDA_BYTES = 16


@dataclass(frozen=True, slots=True)
class EngineState:
    """The state of the engine in a checkpoint.

    Attributes:
        progress: Counters and judgements.
        rng: States of the generators.
        position: The observer's: plain data, which the observer itself checks.
        extra_state: Name of a module to what it keeps beside parameters and buffers: plain data, which the
            module itself checks.
        drivers: Name of a driver to its state: plain data.
    """

    progress: Progress
    rng: RunRng
    position: Any
    extra_state: Mapping[str, Any] = field(default_factory=dict)
    drivers: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> TensorFile:
        """Return it as a file."""
        value = {
            "progress": asdict(self.progress),
            "rng_cpu": self.rng.torch_rng.cpu,
            "rng_cuda": self.rng.torch_rng.cuda,
            "rng_python": self.rng.python,
            _NUMPY: self.rng.numpy,
            "recorder": self.position,
        }
        if self.extra_state:
            value[_EXTRA] = dict(self.extra_state)
        if self.drivers:
            value[_DRIVERS] = dict(self.drivers)
        return pytree.encode(value, copy=False)

    @classmethod
    def decode(cls, file: TensorFile, step: int, path: Path, device: torch.device) -> EngineState:
        """Check what a file holds.

        Args:
            file: Read from a checkpoint.
            step: What the checkpoint's ``state.json`` says.
            path: The checkpoint, for messages.
            device: Where the loop runs.

        Raises:
            DamagedError: It is not what ``encode`` writes.
        """
        try:
            value = pytree.decode(file)
            if not isinstance(value, dict) or (value.keys() | {_NUMPY}) - {_EXTRA, _DRIVERS} != _KEYS:
                raise ValueError("other keys than the engine writes")
            if not isinstance(value.get(_EXTRA, {}), dict):
                raise ValueError("extra_state is no mapping of modules")  # noqa: TRY004 - one kind for all
            if not isinstance(value.get(_DRIVERS, {}), dict):
                raise ValueError("drivers is no mapping of drivers")  # noqa: TRY004 - as above
            return cls(
                progress=_progress(value["progress"], step),
                rng=RunRng(
                    TorchRng(_cpu(value["rng_cpu"]), _cuda(value["rng_cuda"], device)),
                    _python(value["rng_python"]),
                    _numpy(value.get(_NUMPY)),
                ),
                position=value["recorder"],
                extra_state=value.get(_EXTRA, {}),
                drivers=value.get(_DRIVERS, {}),
            )
        except ValueError as error:
            raise DamagedError(path, f"{ENGINE}: {str(error)[:200]}") from error


def extra_state_in(file: TensorFile, path: Path) -> dict[str, Any]:
    """Return name of a module to its extra state, of an engine's state of which nothing else is wanted.

    Args:
        file: Read from a checkpoint.
        path: The checkpoint, for messages.

    Raises:
        DamagedError: It is not what ``EngineState.encode`` writes.
    """
    try:
        value = pytree.decode(file)
    except ValueError as error:
        raise DamagedError(path, f"{ENGINE}: {str(error)[:200]}") from error
    found = value.get(_EXTRA, {}) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise DamagedError(path, f"{ENGINE}: extra_state is no mapping of modules")
    return {plain_name(name): state for name, state in found.items()}


def _progress(value: Any, step: int) -> Progress:
    if not isinstance(value, dict) or value.keys() | _NEW_PROGRESS != _PROGRESS:
        raise ValueError("progress has other fields than the engine writes")
    try:
        progress = msgspec.convert(value, Progress)
    except msgspec.ValidationError as error:
        raise ValueError(f"progress: {error}") from error
    if progress.step != step:
        raise ValueError(f"progress is of step {progress.step}")
    best = -1 if progress.best_step is None else progress.best_step
    if not (
        -1 <= progress.evaluated_step <= step
        and -1 <= progress.asked_step <= step
        and best <= step
        and progress.evaluations_without_gain >= 0
    ):
        raise ValueError("progress counts more than was done")
    seen = progress.plateau
    if not 0 <= seen.factor <= 1 or min(seen.waited, seen.resting) < 0:
        raise ValueError("progress has a plateau that no schedule comes to")
    if (progress.best_step is None) != (progress.best_metric is None) or best < -1:
        raise ValueError("progress has half of a best value")
    return progress


def _cpu(value: Any) -> Tensor:
    state = _bytes(value, "rng_cpu", torch.get_rng_state().numel())
    try:
        torch.Generator().set_state(state)
    except RuntimeError as error:
        raise ValueError(f"rng_cpu: {error}") from error
    return state


def _cuda(value: Any, device: torch.device) -> Tensor | None:
    if value is None:
        return None
    state = _bytes(value, "rng_cuda", _CUDA_BYTES)
    if device.type == "cuda":
        try:
            torch.Generator(device).set_state(state)
        except RuntimeError as error:
            raise ValueError(f"rng_cuda: {error}") from error
    return state


def _bytes(value: Any, name: str, nbytes: int) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype != torch.uint8 or value.shape != (nbytes,):
        raise ValueError(f"{name} is not {nbytes} bytes")
    return value


def _python(value: Any) -> PythonState:
    match value:
        case [int(version), [*words, int(position)], float() | None as gauss]:
            state = version, (*words, position), gauss
        case _:
            raise ValueError("rng_python has another form than random.getstate() gives")
    # Python takes what it is given here: a word too large or a string would fail at the first draw.
    if version != _PYTHON_VERSION or not _is_twister(words, position):
        raise ValueError("rng_python is no state of Python's generator")
    random.Random().setstate(state)  # noqa: S311 - the states of a run, not secrets
    return state


def _numpy(value: Any) -> NumpyState | None:
    match value:
        case None:
            return None
        case [[*words], int(position), 0 | 1 as waiting, float(number)] if _is_twister(words, position):
            state = tuple(words), position, waiting, number
        case _:
            raise ValueError("rng_numpy is no state of numpy's generator")
    np.random.RandomState().set_state(as_numpy(state))
    return state


def _is_twister(words: list[Any], position: int) -> bool:
    """Tell whether these are the words of a Mersenne Twister, and a position among them."""
    whole = all(isinstance(word, int) and 0 <= word < 2**32 for word in words)
    return whole and len(words) == _WORDS and 0 <= position <= _WORDS
