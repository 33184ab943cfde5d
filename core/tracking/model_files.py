"""The weights of a run's network as files of its folder, and reading them back without trust.

    model.safetensors          as the run left them: parameters and buffers by plain name, for any loader
    model-best.safetensors     likewise, of the checkpoint with the best metric
    model-ema.safetensors      likewise, with an average of the weights as a run came to its end; or model-swa
    model.extra.safetensors    only where there is such: what a module gives with ``get_extra_state``, and
                               buffers that its ``state_dict`` leaves out; likewise for each of the others

``model.json`` has the digest of each. A checkpoint holds all of it as well, and is what is read first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import msgspec
from torch import Tensor

from ..engine.checkpoints import durable_files
from ..engine.checkpoints.checkpoint import (
    MAX_DAMAGED,
    MAX_ENGINE_BYTES,
    NetworkState,
    list_checkpoints,
    read_network,
)
from ..engine.checkpoints.manifest import MODEL, DamagedError, step_of
from ..engine.checkpoints.retention import list_by_metric
from ..hooks.errors import CheckpointError, JobError, shorten, visible
from ..plugins.machine_memory import machine_bytes
from ..tensors import pytree, tensor_file
from ..tensors.tensor_file import TensorFile, TensorFileError
from .model_record import MAX_BYTES, ModelRecord, decode_model_record, write_model_record
from .run_folder import CHECKPOINTS
from .untrusted_folder import Tree

LAST = MODEL
BEST = "model-best.safetensors"
_EXTRA_STATE = "extra_state"
_BUFFERS = "buffers"
_SHOWN = 200
#: What loaders of others look for in a file.
_METADATA = {"format": "pt"}
_HEAD_BYTES = tensor_file.MAX_HEADER_BYTES + tensor_file.SIZE_BYTES

#: Which state of a run: the one with the best metric, the last one, or the one after so many steps.
_StateName = Literal["best", "last"]
CheckpointName = _StateName | int
#: Whose weights: the model's own, or an average that the run kept of them.
WeightsName = Literal["model", "ema", "swa"]
STATE_NAMES, WEIGHTS_NAMES = get_args(_StateName), get_args(WeightsName)
Tell = Callable[[str], None]


def check_state_named(checkpoint: object, weights: object) -> None:
    """Check what names a state of a run, and whose weights.

    Raises:
        JobError: It is none of those that there can be.
    """
    if checkpoint not in STATE_NAMES and (type(checkpoint) is not int or checkpoint < 0):
        raise JobError(f"checkpoint is {checkpoint!r}; expected 'best', 'last' or a number of steps")
    if weights not in WEIGHTS_NAMES:
        raise JobError(f"weights is {weights!r}; expected 'model', 'ema' or 'swa'")


def write_model_files(
    folder: Path,
    record: ModelRecord,
    last: Path,
    averages: Mapping[str, NetworkState] = MappingProxyType({}),
    *,
    unsaved: Collection[str] = (),
) -> None:
    """Write a run's weights, last and best, from its checkpoints, and their digests to ``model.json``.

    Args:
        folder: The run's.
        record: Of its model.
        last: The checkpoint that the run was left at.
        averages: Name of an average of the weights to the network with it.
        unsaved: Names of the buffers that the ``state_dict`` of the model leaves out.

    Raises:
        CheckpointError: A checkpoint cannot be read.
        OSError: A file cannot be written.
    """
    states = {LAST: read_network(last, machine_bytes(), MAX_BYTES)}
    for path in list_by_metric(folder / CHECKPOINTS, _drop):
        with contextlib.suppress(DamagedError):
            states[BEST] = states[LAST] if path == last else read_network(path, machine_bytes(), MAX_BYTES)
            break
    states |= {_average_name(name): state for name, state in averages.items()}
    digests = dict(record.weights)
    for name, state in states.items():
        digests |= write_weights(folder, name, state, unsaved=unsaved)
    write_model_record(folder, msgspec.structs.replace(record, weights=digests))


def write_weights(
    folder: Path, name: str, state: NetworkState, *, unsaved: Collection[str] = ()
) -> dict[str, str]:
    """Write one state of a network to a run's folder.

    Args:
        folder: The run's.
        name: ``model.safetensors`` or another of its kind.
        state: What to write.
        unsaved: As in ``write_model_files``.

    Returns:
        Each file that was written to its SHA-256, as ``ModelRecord.weights`` has it.

    Raises:
        OSError: A file cannot be written.
    """
    tensors = {key: tensor for key, tensor in state.tensors.items() if key not in unsaved}
    files = {name: TensorFile.of(tensors, _METADATA)}
    beside = {key: tensor for key, tensor in state.tensors.items() if key in unsaved}
    if beside or state.extra_state:
        extra = {_EXTRA_STATE: dict(state.extra_state), _BUFFERS: beside}
        files[_extra_name(name)] = pytree.encode(extra, copy=False)
    digests = {}
    for file_name, file in files.items():
        digest = hashlib.sha256()
        Tree(folder).write(file_name, _hashed(file.chunks(), digest.update), sync=True)
        digests[file_name] = digest.hexdigest()
    return digests


def read_state(
    folder: Path,
    record: ModelRecord,
    checkpoint: CheckpointName = "best",
    *,
    weights: WeightsName = "model",
    max_bytes: int | None = None,
    extra: bool = True,
    tell: Tell,
) -> NetworkState:
    """Read the weights of a run by name, from a folder that may be anybody's.

    Where a checkpoint is damaged the one before it is taken (of ``best``, the next best), and that is told.

    Args:
        folder: The run's.
        record: What its ``model.json`` says.
        checkpoint: Which state; a number of steps is that one or none.
        weights: Whose weights; an average is there of the run's end only.
        max_bytes: Of parameters and buffers; never more than half of this machine's memory.
        extra: Whether what modules keep beside their tensors is wanted too.
        tell: Told, as sentences, of what was passed over.

    Raises:
        CheckpointError: There is no such state, or none that is whole.
    """
    half = machine_bytes() // 2
    max_bytes = half if max_bytes is None else min(max_bytes, half)
    if weights != "model":
        return _read_average(folder, record, checkpoint, weights, max_bytes)
    candidates = _candidates(folder, checkpoint, tell)
    faults: list[str] = []
    for path in candidates:
        try:
            state = read_network(path, max_bytes, MAX_BYTES, extra=extra)
            _check_record(state, record, path)
        except DamagedError as error:
            faults.append(str(error))
            if len(faults) > MAX_DAMAGED:
                raise CheckpointError(
                    f"{folder}: more than {MAX_DAMAGED} of its checkpoints are damaged, such as this: {error}"
                ) from error
            continue
        for fault in faults:
            tell(f"{fault}; taking {path.name} in its place")
        return state
    if isinstance(checkpoint, int):
        raise CheckpointError("; ".join(faults) or _no_such(folder, checkpoint))
    name = BEST if checkpoint == "best" else LAST
    if name not in record.weights:
        raise CheckpointError("; ".join(faults) or _nothing(folder, checkpoint))
    state = _read_weights(folder, name, record, max_bytes)
    for fault in faults:
        tell(f"{fault}; taking {name} in its place")
    return state


def _read_average(
    folder: Path, record: ModelRecord, checkpoint: CheckpointName, weights: str, max_bytes: int
) -> NetworkState:
    name = _average_name(weights)
    if isinstance(checkpoint, int):
        raise CheckpointError(
            f"{folder}: weights='{weights}' are its last, not those of step {checkpoint}; name one of both"
        )
    if name not in record.weights:
        there = ", ".join(sorted(record.weights)) or "nothing yet"
        raise CheckpointError(f"{folder}: the run kept no such average: {name} is not there, but {there}")
    return _read_weights(folder, name, record, max_bytes)


def _candidates(folder: Path, checkpoint: CheckpointName, tell: Tell) -> Iterable[Path]:
    """Return the checkpoints that will do, the one that is wanted first."""
    place = folder / CHECKPOINTS
    _check_plain(place)
    if checkpoint == "best":
        return list_by_metric(place, tell)
    found = list_checkpoints(place)
    if checkpoint == "last":
        return reversed(found)
    return [path for path in found if step_of(path) == checkpoint]


def _check_plain(place: Path) -> None:
    """Check that checkpoints lie in a folder below the run's, and that no link leads elsewhere."""
    try:
        durable_files.check_folder(place)
    except durable_files.UnreadableError as error:
        if os.path.lexists(place):
            raise CheckpointError(f"{place}: {error}") from error


def _check_record(state: NetworkState, record: ModelRecord, path: Path) -> None:
    """Check that a checkpoint is of the network that the run's ``model.json`` tells of."""
    if state.record is None:
        return
    own = decode_model_record(state.record, f"{path}/model.json")
    if (own.model, own.edits) != (record.model, record.edits):
        raise CheckpointError(
            f"{path} is of another network than the run's model.json: {_network_name(own)} there, "
            f"{_network_name(record)} here"
        )


def _network_name(record: ModelRecord) -> str:
    return visible(f"'{record.model.name}' with {shorten(str(record.model.options), _SHOWN)}")


def _read_weights(folder: Path, name: str, record: ModelRecord, max_bytes: int) -> NetworkState:
    try:
        tensors = tensor_file.read(_read(folder, name, record, max_bytes + _HEAD_BYTES)).tensors
        extra_name = _extra_name(name)
        extra: Any = {}
        if extra_name in record.weights:
            size = max_bytes + MAX_ENGINE_BYTES
            extra = pytree.decode(pytree.read(_read(folder, extra_name, record, size)))
    except (TensorFileError, pytree.PlainDataError, RuntimeError) as error:
        raise CheckpointError(f"{folder}/{name} is damaged: {error}") from error
    if not isinstance(extra, dict) or extra.keys() - {_EXTRA_STATE, _BUFFERS}:
        raise CheckpointError(f"{folder}/{extra_name} is damaged: it holds something else than a run writes")
    buffers, extra_state = extra.get(_BUFFERS, {}), extra.get(_EXTRA_STATE, {})
    if not isinstance(extra_state, dict) or not isinstance(buffers, dict) or not _are_tensors(buffers):
        raise CheckpointError(f"{folder}/{extra_name} is damaged: it holds something else than a run writes")
    return NetworkState({**tensors, **buffers}, extra_state)


def _are_tensors(values: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in values.items())


def _read(folder: Path, name: str, record: ModelRecord, max_bytes: int) -> Tensor:
    try:
        descriptor = Tree(folder).open(name, os.O_RDONLY)
        try:
            data, digest = durable_files.read_descriptor(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except (OSError, durable_files.UnreadableError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{folder}/{name} cannot be read: {visible(str(said))}") from error
    if digest != record.weights[name]:
        raise CheckpointError(f"{folder}/{name} is damaged: it does not match its digest in model.json")
    return data


def _average_name(average: str) -> str:
    return f"model-{average}.safetensors"


def _extra_name(name: str) -> str:
    return name.replace(".safetensors", ".extra.safetensors")


def _no_such(folder: Path, step: int) -> str:
    there = ", ".join(str(step_of(path)) for path in list_checkpoints(folder / CHECKPOINTS))
    return f"{folder}: there is no checkpoint of step {step}; there are those of {there or 'none'}"


def _nothing(folder: Path, checkpoint: CheckpointName) -> str:
    if checkpoint == "best" and list_checkpoints(folder / CHECKPOINTS):
        return (
            f"{folder}: the run was not evaluated yet, so that none is the best; ask for the last checkpoint"
        )
    return f"{folder}: there are no weights: its run ended before the first checkpoint"


def _hashed(chunks: Iterable[memoryview], update: Callable[[memoryview], None]) -> Iterator[memoryview]:
    for chunk in chunks:
        update(chunk)
        yield chunk


def _drop(sentence: str) -> None:
    """A damaged checkpoint is told of when somebody resumes from it, or loads it."""
