"""Checkpoints: one folder each, written so that a crash leaves the old one or the new one, never half of one.

    step-00000123/
      model.safetensors      parameters and buffers, by their names in the model
      model.json             how the model is built, for whoever loads it without the job
      engine.safetensors     counters, random states, observer's position, drivers (``engine_state``)
      plugin-000.safetensors state of a plugin (``pytree``); ``state.json`` says whose
      state.json             format, step, fingerprint of the job, SHA-256 of every file (``manifest``)

A checkpoint is written under a temporary name in the same folder, synced and
renamed. Reading one runs no code from it: there is no pickle anywhere.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ...hooks.errors import CheckpointError, visible
from ...plugins.interface import excess_state
from ...plugins.machine_memory import machine_bytes
from ...tensors import pytree, tensor_file
from ...tensors.tensor_file import TensorFile, TensorFileError
from ...version import __version__
from ..tensor_names import plain_names
from . import durable_files, manifest
from .best_checkpoint import name_best
from .engine_state import extra_state_in
from .manifest import DamagedError, Manifest, read_manifest
from .retention import WRITING, Note, clear, free_name, list_checkpoints, prune, replace

__all__ = [
    "CheckpointContents",
    "Limits",
    "list_checkpoints",
    "read_latest",
    "read_manifest",
    "read_network",
    "read_newest",
    "write_checkpoint",
]

#: The engine's own state takes some 20 KiB.
MAX_ENGINE_BYTES = 64 << 20
#: Beside that it keeps averages of the weights: at most two, in 32 bits where the model may have 16.
_AVERAGES = 4
#: Damaged ones that are read before the rest is left unread: each may take as long as one that is whole.
MAX_DAMAGED = 20
_FAULTS_NAMED = 5
#: Names and shapes of the model's tensors.
_HEAD_BYTES = tensor_file.MAX_HEADER_BYTES + tensor_file.SIZE_BYTES

T = TypeVar("T")
#: Given each file of weights and its digest, returns the bytes of ``model.json`` beside them.
Describe = Callable[[Mapping[str, str]], bytes]


@dataclass(frozen=True, slots=True)
class CheckpointContents:
    """The contents of a checkpoint.

    Attributes:
        step: Optimizer steps finished.
        tensors: The model's parameters and buffers, by name.
        engine: The engine's own state, as ``hooks.plain`` encodes it.
        plugins: Plugin name to its state, as ``hooks.plain`` encodes it.
        metric: The job's metric if it was evaluated at this step, else None.
        higher_is_better: Direction of the metric.
    """

    step: int
    tensors: Mapping[str, Tensor]
    engine: TensorFile
    plugins: Mapping[str, TensorFile]
    metric: float | None = None
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class NetworkState:
    """The part of a checkpoint that makes the outputs of its network.

    Attributes:
        tensors: Parameters and buffers, by plain name.
        extra_state: Name of a module to what its ``get_extra_state`` gave.
        record: The bytes of its ``model.json``; None if it has none.
    """

    tensors: Mapping[str, Tensor]
    extra_state: Mapping[str, Any]
    record: bytes | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that is read into memory.

    Attributes:
        model_bytes: Of parameters and buffers.
        plugins: Plugin to the memory that ``excess_state`` holds its state against.
        memory_bytes: The same for all other plugins.
    """

    model_bytes: int
    plugins: Mapping[str, int]
    memory_bytes: int


def write_checkpoint(
    folder: Path,
    contents: CheckpointContents,
    fingerprint: Mapping[str, Any],
    *,
    keep: int,
    environment: Mapping[str, Any] | None = None,
    describe: Describe | None = None,
    note: Note = lambda _: None,
) -> Path:
    """Write one checkpoint, then remove those that are no longer needed.

    The latest ``keep`` stay, and the one with the best metric, whose files are in ``folder/best`` as well.

    Args:
        folder: Holds all checkpoints of the run; made if it is not there.
        contents: What to write.
        fingerprint: What a run that resumes from it must agree with; JSON data.
        keep: How many of the latest to keep, >= 1.
        environment: Where the run is, for a run that resumes elsewhere; JSON data.
        describe: Gives its ``model.json``; without it there is none.
        note: Told of what is no longer needed and cannot be removed.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: The disk is full, the folder cannot be written, or another fault of the file
            system. What was there before is intact.
    """
    final = folder / f"step-{contents.step:08d}"
    temporary = None
    try:
        durable_files.make_folder(folder)
        clear(folder, note)
        temporary = free_name(folder, f"{WRITING}{contents.step:08d}")
        temporary.mkdir()
        _write_files(temporary, contents, fingerprint, environment or {}, describe)
        replace(temporary, final, note)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(_explain(folder, error)) from error
    name_best(folder, prune(folder, final, keep, note), note)
    return final


def read_latest(
    folder: Path,
    agree: Callable[[Path, Mapping[str, Any]], object],
    *,
    note: Callable[[str], None],
    limits: Limits | None = None,
) -> tuple[Path, CheckpointContents]:
    """Read the latest checkpoint that is intact, behind at most ``MAX_DAMAGED`` that are not.

    Args:
        folder: Holds all checkpoints of the run.
        agree: Given the checkpoint and what its ``state.json`` says; raises where the job that wants to
            resume does not agree with it.
        note: Told of each damaged checkpoint that is passed over.
        limits: What is too large to be read; by default what this machine could not hold.

    Raises:
        CheckpointError: There is none, none of those is intact, or it is from another job.
    """
    return read_newest(folder, agree, lambda contents, _: contents, note=note, limits=limits)


def read_newest(
    folder: Path,
    agree: Callable[[Path, Mapping[str, Any]], object],
    decode: Callable[[CheckpointContents, Path], T],
    *,
    note: Callable[[str], None],
    limits: Limits | None = None,
) -> tuple[Path, T]:
    """Read the newest checkpoint as ``read_latest`` does, as what ``decode`` makes of the contents.

    Args:
        folder: As there.
        agree: As there.
        decode: Raises ``DamagedError`` for contents that cannot be used; those before are then tried.
        note: As there.
        limits: As there.

    Raises:
        CheckpointError: As there, or raised by ``decode``.
    """
    found = list_checkpoints(folder)
    if not found:
        raise CheckpointError(f"there is no checkpoint in {folder}; start the run anew")
    limits = limits or Limits(machine_bytes(), {}, machine_bytes())
    faults: list[str] = []
    for path in found[: -MAX_DAMAGED - 1 : -1]:
        try:
            told = manifest.load(path)
            agree(path, read_manifest(path))
            value = decode(_read_files(path, told, limits), path)
        except DamagedError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            note(f"{fault}; going back to {path.name}")
        return path, value
    raise CheckpointError(f"no checkpoint can be used: {_join_faults(faults)}{_unread(found[:-MAX_DAMAGED])}")


def read_checkpoint(path: Path, limits: Limits) -> CheckpointContents:
    """Read one checkpoint.

    Raises:
        CheckpointError: It is of a later series, or damaged (``DamagedError``).
    """
    return _read_files(path, manifest.load(path), limits)


def read_network(path: Path, max_bytes: int, max_record_bytes: int, *, extra: bool = True) -> NetworkState:
    """Read what a checkpoint holds of its network; plugins' states are left unread.

    Args:
        path: The checkpoint.
        max_bytes: Of parameters and buffers.
        max_record_bytes: Of its ``model.json``.
        extra: Whether to read what modules keep beside their tensors, which lies in a file of its own.

    Raises:
        CheckpointError: It is of a later series, or damaged (``DamagedError``).
    """
    told = manifest.load(path)
    tensors = _read_tensors(path, told, max_bytes)
    extra_state = extra_state_in(_read_engine(path, told, max_bytes), path) if extra else {}
    record = None
    if manifest.RECORD in told.digests:
        record = _read(path, told, manifest.RECORD, max_record_bytes).numpy().tobytes()
    # Before 0.3.1 those of a compiled model were written with what torch.compile puts into names.
    names = plain_names(tensors)
    return NetworkState({names[name]: tensor for name, tensor in tensors.items()}, extra_state, record)


def _join_faults(faults: Sequence[str]) -> str:
    more = len(faults) - _FAULTS_NAMED
    return "; ".join(faults[:_FAULTS_NAMED]) + (f"; and {more} more are damaged" if more > 0 else "")


def _unread(older: Sequence[Path]) -> str:
    """Say what to do about those that lie behind too many damaged ones."""
    if not older:
        return ""
    return (
        f". The {len(older)} before them, the latest {older[-1].name}, were not looked at: "
        "remove the damaged ones to have them tried"
    )


def _write_files(
    folder: Path,
    contents: CheckpointContents,
    fingerprint: Mapping[str, Any],
    environment: Mapping[str, Any],
    describe: Describe | None,
) -> None:
    plugins = {name: f"plugin-{i:03d}.safetensors" for i, name in enumerate(contents.plugins)}
    try:
        files = {manifest.MODEL: TensorFile.of(contents.tensors)}
    except TensorFileError as error:
        raise CheckpointError(f"the model cannot be written to a checkpoint: {error}") from error
    files[manifest.ENGINE] = contents.engine
    files |= {plugins[name]: state for name, state in contents.plugins.items()}
    with durable_files.NewFiles() as new:
        written = {name: new.write(folder / name, file.chunks()) for name, file in files.items()}
        if describe is not None:
            record = describe({manifest.MODEL: written[manifest.MODEL].sha256})
            written[manifest.RECORD] = new.write(folder / manifest.RECORD, [record])
        body = {
            "format": manifest.FORMAT,
            "version": __version__,
            "step": contents.step,
            "metric": contents.metric,
            "higher_is_better": contents.higher_is_better,
            "fingerprint": dict(fingerprint),
            "environment": dict(environment),
            "plugins": plugins,
            "digests": {name: file.sha256 for name, file in written.items()},
            "lengths": {name: file.nbytes for name, file in written.items()},
        }
        new.write(folder / manifest.NAME, [manifest.encode(body)])
        new.sync()
    durable_files.sync_folder(folder)


def _read_files(path: Path, told: Manifest, limits: Limits) -> CheckpointContents:
    """Read every file of a checkpoint.

    Raises:
        CheckpointError: The model's is larger than this model.
        DamagedError: One is missing, damaged or not what it should be.
    """
    tensors = _read_tensors(path, told, limits.model_bytes)
    engine = _read_engine(path, told, limits.model_bytes)
    plugins = {}
    for plugin, name in told.plugins.items():
        memory = limits.plugins.get(plugin, limits.memory_bytes)
        whose = f"the state of plugin '{plugin}'"
        excess = excess_state(durable_files.length(path / name), memory)
        if excess is not None:
            raise DamagedError(path, f"{name}, {whose}: {excess}")
        plugins[plugin] = _read_plain(path, told, name, memory, f", {whose}")
    return CheckpointContents(
        step=told.step,
        tensors=tensors,
        engine=engine,
        plugins=plugins,
        metric=told.metric,
        higher_is_better=told.higher_is_better,
    )


def _read_tensors(path: Path, told: Manifest, max_bytes: int) -> Mapping[str, Tensor]:
    model = _read(path, told, manifest.MODEL, max_bytes + _HEAD_BYTES)
    try:
        return tensor_file.read(model).tensors
    except (TensorFileError, RuntimeError) as error:
        raise DamagedError(path, f"{manifest.MODEL}: {error}") from error


def _read_engine(path: Path, told: Manifest, model_bytes: int) -> TensorFile:
    most = MAX_ENGINE_BYTES + min(_AVERAGES * model_bytes, machine_bytes() // 4)
    return _read_plain(path, told, manifest.ENGINE, most, "")


def _read_plain(path: Path, told: Manifest, name: str, max_bytes: int, whose: str) -> TensorFile:
    try:
        return pytree.read(_read(path, told, name, max_bytes))
    except pytree.PlainDataError as error:
        raise DamagedError(path, f"{name}{whose}: {error}") from error


def _read(path: Path, told: Manifest, name: str, max_bytes: int) -> Tensor:
    wanted = None if told.lengths is None else told.lengths[name]
    if wanted is not None and 0 <= durable_files.length(path / name) != wanted:
        raise DamagedError(
            path,
            f"{name} does not match its digest: "
            f"it has {durable_files.length(path / name)} bytes in place of {wanted}",
        )
    try:
        data, digest = durable_files.read_file(path / name, max_bytes)
    except durable_files.UnreadableError as error:
        raise DamagedError(path, f"{name}: {error}") from error
    if digest != told.digests[name]:
        raise DamagedError(path, f"{name} does not match its digest")
    return data


_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "the file would be longer than may be written here (see `ulimit -f`); raise that limit",
    errno.EMFILE: "too many files are open (see `ulimit -n`); raise that limit",
    errno.EACCES: "you may not write there; choose another folder or change its permissions",
    errno.EPERM: "you may not write there; choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "part of the path is a file, not a folder; choose another folder",
    errno.EEXIST: "a file of that name is in the way; choose another folder",
    errno.EIO: "the disk has a fault; choose a folder on another",
}


def _explain(folder: Path, error: OSError) -> str:
    advice = _ADVICE.get(error.errno or 0, "choose another folder")
    reason = visible(error.strerror or str(error))
    return f"the checkpoint folder {folder} cannot be used: {reason}; {advice}"
