"""Checkpoints: one folder each, written so that a crash leaves the old one or the new one, never half of one.

    step-00000123/
      model.safetensors      parameters and buffers, by their names in the model
      engine.safetensors     counters, random states, recorder position (``hooks.plain``)
      plugin-000.safetensors state of a plugin (``hooks.plain``); ``state.json`` says whose
      state.json             format, step, fingerprint of the job, SHA-256 of every file

A checkpoint is written under a temporary name in the same folder, synced and
renamed. Reading one runs no code from it: there is no pickle anywhere.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ..hooks.errors import CheckpointError

FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY = ".writing-"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        step: Optimizer steps finished.
        tensors: The model's parameters and buffers, by name.
        engine: The engine's own state, ``hooks.plain`` bytes.
        plugins: Plugin name to its state, ``hooks.plain`` bytes.
        metric: The job's metric if it was evaluated at this step, else None.
        higher_is_better: Direction of the metric.
    """

    step: int
    tensors: Mapping[str, Tensor]
    engine: bytes
    plugins: Mapping[str, bytes]
    metric: float | None = None
    higher_is_better: bool = True


def write_checkpoint(folder: Path, contents: Contents, fingerprint: Mapping[str, Any], *, keep: int) -> Path:
    """Write one checkpoint, then remove those that are no longer needed.

    The latest ``keep`` stay, and the one with the best metric.

    Args:
        folder: Holds all checkpoints of the run; made if it is not there.
        contents: What to write.
        fingerprint: What a run that resumes from it must agree with; JSON data.
        keep: How many of the latest to keep, >= 1.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: The disk is full, the folder cannot be written, or another fault of the file
            system. What was there before is intact.
    """
    final = folder / f"step-{contents.step:08d}"
    temporary = folder / f"{_TEMPORARY}{contents.step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_temporary(folder)
        temporary.mkdir()
        _write_files(temporary, contents, fingerprint)
        _replace(temporary, final)
        _sync(folder)
        _prune(folder, keep)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(_explain(folder, error)) from error
    return final


def read_latest(
    folder: Path, fingerprint: Mapping[str, Any], *, note: Callable[[str], None]
) -> tuple[Path, Contents]:
    """Read the latest checkpoint that is intact.

    Args:
        folder: Holds all checkpoints of the run.
        fingerprint: Of the job that wants to resume.
        note: Told of each damaged checkpoint that is passed over.

    Raises:
        CheckpointError: There is none, none is intact, or it is from another job.
    """
    found = list_checkpoints(folder)
    if not found:
        raise CheckpointError(f"there is no checkpoint in {folder}; start the run anew")
    faults: list[str] = []
    for path in reversed(found):
        try:
            manifest = read_manifest(path)
            contents = _read_files(path, manifest)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        _check_fingerprint(path, manifest["fingerprint"], fingerprint)
        for fault in faults:
            note(f"{fault}; going back to {path.name}")
        return path, contents
    raise CheckpointError("no checkpoint can be used: " + "; ".join(faults))


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder`` by rising step, intact or not."""
    try:
        names = [entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(_explain(folder, error)) from error
    return sorted(names, key=_step_of)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return what ``state.json`` of a checkpoint says, checked against its own digest.

    Raises:
        CheckpointError: It is missing, damaged, or of a format that this version does not know.
    """
    try:
        manifest = json.loads((path / "state.json").read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged: state.json: {error.strerror or error}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: state.json is not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("digest") != _manifest_digest(manifest):
        raise CheckpointError(f"checkpoint {path} is damaged: state.json does not match its digest")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {manifest['format']}; this version of ringfence reads {FORMAT}"
        )
    return manifest


def _write_files(folder: Path, contents: Contents, fingerprint: Mapping[str, Any]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in contents.tensors.items()}
    digests = {"model.safetensors": _write(folder / "model.safetensors", safetensors.torch.save(tensors))}
    digests["engine.safetensors"] = _write(folder / "engine.safetensors", contents.engine)
    plugins = {}
    for i, (plugin, state) in enumerate(contents.plugins.items()):
        plugins[plugin] = f"plugin-{i:03d}.safetensors"
        digests[plugins[plugin]] = _write(folder / plugins[plugin], state)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "step": contents.step,
        "metric": contents.metric,
        "higher_is_better": contents.higher_is_better,
        "fingerprint": dict(fingerprint),
        "plugins": plugins,
        "digests": digests,
    }
    manifest["digest"] = _manifest_digest(manifest)
    _write(folder / "state.json", json.dumps(manifest, indent=2).encode())
    _sync(folder)


def _read_files(path: Path, manifest: Mapping[str, Any]) -> Contents:
    files = {name: _read(path, name, digest) for name, digest in manifest["digests"].items()}
    try:
        tensors = safetensors.torch.load(files["model.safetensors"])
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: model.safetensors: {error}") from error
    return Contents(
        step=manifest["step"],
        tensors=tensors,
        engine=files["engine.safetensors"],
        plugins={plugin: files[name] for plugin, name in manifest["plugins"].items()},
        metric=manifest["metric"],
        higher_is_better=manifest["higher_is_better"],
    )


def _read(path: Path, name: str, digest: str) -> bytes:
    try:
        data = (path / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {name}: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"checkpoint {path} is damaged: {name} does not match its digest")
    return data


def _write(path: Path, data: bytes) -> str:
    """Write and sync ``data``; return its SHA-256."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def _sync(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(temporary: Path, final: Path) -> None:
    """Rename ``temporary``; only an empty folder can be replaced, so an older ``final`` moves away first."""
    if final.exists():
        aside = final.with_name(f"{_TEMPORARY}{final.name}")
        final.rename(aside)
        temporary.rename(final)
        shutil.rmtree(aside)
    else:
        temporary.rename(final)


def _remove_temporary(folder: Path) -> None:
    """Remove what a killed run left."""
    for entry in folder.iterdir():
        if entry.name.startswith(_TEMPORARY):
            shutil.rmtree(entry)


def _prune(folder: Path, keep: int) -> None:
    found = list_checkpoints(folder)
    for path in set(found[:-keep]) - {_best(found)}:
        shutil.rmtree(path)


def _best(found: list[Path]) -> Path | None:
    """Return the intact checkpoint with the best metric, the earlier of two equals."""
    best: tuple[float, Path] | None = None
    for path in found:
        try:
            manifest = read_manifest(path)
        except CheckpointError:
            # A damaged one is not worth keeping; ``read_latest`` names it if it is ever needed.
            continue
        metric = manifest["metric"]
        if metric is None:
            continue
        value = metric if manifest["higher_is_better"] else -metric
        if best is None or value > best[0]:
            best = value, path
    return None if best is None else best[1]


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _check_fingerprint(path: Path, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    # Through JSON, as the saved one went: tuples become lists.
    current = json.loads(json.dumps(dict(current)))
    differing = [key for key in sorted(saved.keys() | current.keys()) if saved.get(key) != current.get(key)]
    if differing:
        told = "; ".join(f"{key}: {saved.get(key)!r} there, {current.get(key)!r} here" for key in differing)
        raise CheckpointError(
            f"checkpoint {path} is from another job ({told}); resume with the job that it was started with"
        )


_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
    errno.EACCES: "you may not write there; choose another folder or change its permissions",
    errno.EPERM: "you may not write there; choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "part of the path is a file, not a folder; choose another folder",
    errno.EEXIST: "a file of that name is in the way; choose another folder",
}


def _explain(folder: Path, error: OSError) -> str:
    advice = _ADVICE.get(error.errno or 0, "choose another folder")
    return f"the checkpoint folder {folder} cannot be used: {error.strerror or error}; {advice}"
