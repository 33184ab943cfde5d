"""``state.json``: what a checkpoint is, who wrote it, and the digest of each of its files.

Its bytes must be those that ringfence itself would write for what it says: a digest that is
right then vouches for every one of them, spaces and order included.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from packaging.version import Version

from ...hooks.errors import CheckpointError, visible
from ...hooks.series import series_of
from ...version import __version__
from . import durable_files

FORMAT = 1
NAME = "state.json"
MODEL = "model.safetensors"
#: How the network is built; none was written before series 0.4, nor is one where nobody says.
RECORD = "model.json"
ENGINE = "engine.safetensors"
#: The job and its environment in it are some KiB.
MAX_BYTES = 4 << 20
MAX_DEPTH = 64
#: Name of the folder that has the files of the best checkpoint, whichever step that is of.
BEST = "best"

_FOLDER = re.compile(r"(?:\.replaced-)?step-([0-9]{8,16})(?:\.[0-9]+)?")
_PLUGIN = re.compile(r"plugin-[0-9]{3,6}\.safetensors")
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Length = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+\.[0-9]+[0-9a-z.+]*\Z", max_length=64)]
_Format = Annotated[int, msgspec.Meta(ge=1, le=2**31)]


class DamagedError(CheckpointError):
    """A checkpoint is not as it was written; the one before it may be."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"checkpoint {path} is damaged: {visible(what)}")


class _Origin(msgspec.Struct, frozen=True):
    """The fields that every format has, so that a later one can be told as such."""

    format: _Format
    #: Series 0.1 did not write it.
    version: _Version = "0.1.0"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of ``state.json``.

    Attributes:
        format: Of the checkpoint; this version of ringfence knows 1.
        version: Of the ringfence that wrote it.
        step: Optimizer steps finished.
        metric: The job's metric if it was evaluated at this step; it may be infinite, never NaN.
        higher_is_better: Its direction.
        fingerprint: What a run that resumes must agree with.
        environment: Where the run was.
        plugins: Plugin to the file with its state.
        digests: Each file's SHA-256, in hexadecimal.
        lengths: Each file's length in bytes; series 0.1 did not write it.
        digest: SHA-256 of all the rest.
    """

    format: _Format
    version: _Version = "0.1.0"
    step: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    metric: float | None
    higher_is_better: bool
    fingerprint: dict[str, Any]
    environment: dict[str, Any] = msgspec.field(default_factory=dict)
    plugins: dict[str, str]
    digests: dict[str, _Sha256]
    lengths: dict[str, _Length] | None = None
    digest: _Sha256


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's name tells; -1 if it is no checkpoint's."""
    match = _FOLDER.fullmatch(path.name)
    if match is None or match[1] != f"{int(match[1]):08d}":
        return -1
    return int(match[1])


def encode(body: Mapping[str, Any]) -> bytes:
    """Return the bytes of ``state.json`` for all but its ``digest``.

    Raises:
        CheckpointError: They are more than ``decode`` takes.
    """
    data = _dump({**body, "digest": _digest(body)})
    if len(data) > MAX_BYTES:
        raise CheckpointError(
            f"the checkpoint would need {len(data)} bytes to name the job; at most {MAX_BYTES}. "
            "Shorten the options of its plugins"
        )
    return data


def read_manifest(path: Path) -> dict[str, Any]:
    """Return what ``state.json`` of a checkpoint says; it has the fields of ``Manifest``.

    Raises:
        CheckpointError: It was written by a later series, or in a format that this version does not know.
        DamagedError: It is missing or damaged.
    """
    return msgspec.structs.asdict(load(path))


def load(path: Path) -> Manifest:
    """Read a manifest as ``read_manifest`` does, as a ``Manifest``."""
    try:
        durable_files.check_folder(path)
        data, _ = durable_files.read_file(path / NAME, MAX_BYTES)
    except durable_files.UnreadableError as error:
        raise DamagedError(path, f"{NAME}: {error}") from error
    return decode(data.numpy().tobytes(), path)


def decode(data: bytes, path: Path) -> Manifest:
    """Check the bytes of ``state.json``.

    Raises:
        CheckpointError, DamagedError: As ``read_manifest``.
    """
    try:
        found = json.loads(data)
        ours = isinstance(found, dict) and _dump(found) == data
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, f"{NAME} is not JSON ({str(error)[:100] or 'nested too deep'})") from error
    if not ours or found.get("digest") != _digest(found):
        raise DamagedError(path, f"{NAME} does not match its digest")
    try:
        _check_origin(msgspec.convert(found, _Origin), path)
        manifest = msgspec.convert(found, Manifest)
    except msgspec.ValidationError as error:
        raise DamagedError(path, f"{NAME}: {str(error)[:200]}") from error
    _check(manifest, found, path)
    return manifest


def _check_origin(origin: _Origin, path: Path) -> None:
    here, there = Version(__version__), Version(origin.version)
    newer = (there.major, there.minor) > (here.major, here.minor)
    if newer or origin.format != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} was written by ringfence {origin.version}, in format {origin.format}; "
            f"this is {__version__}, which reads format {FORMAT} up to series {series_of(here)}. "
            f"Install what wrote it: pip install 'ringfence=={origin.version}'"
        )


def _check(manifest: Manifest, found: dict[str, Any], path: Path) -> None:
    """Check what types cannot say.

    Raises:
        DamagedError: A field does not fit the others.
    """
    files = list(manifest.plugins.values())
    named = {MODEL, ENGINE, *files, *({RECORD} & manifest.digests.keys())}
    faults = {
        f"it says step {manifest.step}": manifest.step != step_of(path) and path.name != BEST,
        "metric is not a number": manifest.metric is not None and math.isnan(manifest.metric),
        "it names files that no checkpoint has": not all(map(_PLUGIN.fullmatch, files)),
        "two plugins share a file": len(set(files)) < len(files),
        "digests are of other files": manifest.digests.keys() != named,
        "lengths are of other files": manifest.lengths is not None and manifest.lengths.keys() != named,
        f"it is nested more than {MAX_DEPTH} deep": _is_deep(found),
    }
    for fault, is_there in faults.items():
        if is_there:
            raise DamagedError(path, f"{NAME}: {fault}")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for entry in level for item in _below(entry)]
    return bool(level)


def _below(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode()


def _digest(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
