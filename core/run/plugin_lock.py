"""The lock beside a job: what its plugins are made of, file by file, and how what is installed differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from ..compat.version_range import CORE
from ..discovery.distribution_digest import DistributionDigest
from ..discovery.provenance import Provenance
from ..hooks.errors import JobError, shorten, visible
from ..job.job_file import JobFile
from ..tracking import run_folder
from ..tracking.untrusted_folder import Tree

#: Some hundred bytes a file, of two hundred thousand; in memory it takes fourteen times as much.
MAX_BYTES = 32 << 20
_ENDING = ".lock.json"
_JOBS = (".yaml", ".yml")
#: Of the files of a distribution, and of all distributions, that differ.
_SHOWN = 8
_SHOWN_CHARACTERS = 200

_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class LockedDistribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One distribution as it was locked.

    Attributes:
        version: None where it is required and was not installed.
        files: Name to SHA-256, where every file was read.
        list: SHA-256 of its list of files, where that was.
        not_digested: Why there is neither.
    """

    version: str | None
    files: dict[str, _Sha256] = {}
    list: _Sha256 | None = None
    not_digested: str | None = None


class PluginLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a job's plugins may be made of.

    Attributes:
        schema: Of this file, as ``docs/security.md`` describes it.
        plugins: Plugin to its distribution.
        distributions: By name.
    """

    schema: Literal[1]
    plugins: dict[str, str]
    distributions: dict[str, LockedDistribution]

    def encode(self) -> str:
        """Return it as text: sorted, a line a file.

        Raises:
            JobError: It is longer than what is read again.
        """
        text = json.dumps(msgspec.to_builtins(self), indent=1, sort_keys=True) + "\n"
        if len(text) > MAX_BYTES:
            raise JobError(
                f"the lock would have {len(text)} bytes, of the files of {len(self.distributions)} "
                f"distributions; at most {MAX_BYTES}. Lock from an environment that has what the plugins need"
            )
        return text


@dataclass(frozen=True, slots=True)
class FoundLock:
    """A lock and where it lies."""

    path: Path
    lock: PluginLock


def lock_path(job: Path) -> Path:
    """Return where the lock of a job lies: beside it."""
    return job.with_name(f"{job.stem}{_ENDING}")


def find_lock(job_file: JobFile) -> FoundLock | None:
    """Return the lock beside a job, None if there is none.

    Raises:
        JobError: It cannot be read.
    """
    job = Path(job_file.document.name)
    if job.suffix not in _JOBS:
        return None  # the job was never a file
    path = lock_path(job)
    try:
        data = Tree(path.parent).read(path.name, MAX_BYTES)
        return FoundLock(path, msgspec.json.decode(data, type=PluginLock))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        why = error.strerror or str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = str(error)
    raise JobError(f"{path}: cannot be read as a lock of plugins ({visible(why)}); {_lock_anew(job)}")


def lock_of(provenance: Provenance) -> PluginLock:
    """Return the lock of what is installed.

    Raises:
        JobError: A distribution of strangers cannot be digested.
    """
    strangers = {name for names in provenance.plugins.values() for name in names}
    gaps = [
        f"  {_called(digest)}: {digest.gap}"
        for digest in provenance.distributions.values()
        if digest.gap and digest.version and digest.name in strangers - {CORE}
    ]
    if gaps:
        raise JobError("\n".join(["what the job's plugins are made of cannot be locked:", *gaps]))
    return PluginLock(
        schema=1,
        plugins={plugin: names[0] for plugin, names in provenance.plugins.items()},
        distributions={name: _locked(digest) for name, digest in provenance.distributions.items()},
    )


def check_lock(found: FoundLock, provenance: Provenance, job: Path) -> None:
    """Check that what is installed is what was locked.

    Raises:
        JobError: It differs; with every distribution and file.
    """
    told = list(differences(found.lock, provenance))
    if told:
        lines = [
            f"{found.path} locks what the plugins of this job are made of, and what is installed differs:"
        ]
        lines += [f"  {line}" for line in _few(told)]
        lines.append(
            "Install what was locked (pip install NAME==VERSION), or take out what is not in the lock; if "
            f"you have looked at the change and want it, {_lock_anew(job)}, with the same --set and --plugin"
        )
        raise JobError("\n".join(lines))


def differences(lock: PluginLock, provenance: Provenance) -> Iterator[str]:
    """Yield how what is installed differs from what was locked; of the job's own plugins alone."""
    for plugin, (own, *_) in provenance.plugins.items():
        locked = lock.plugins.get(plugin)
        if locked is None:
            yield f"plugin '{plugin}', of {_called(provenance.distributions[own])}, is not in the lock"
        elif locked != own:
            yield f"plugin '{plugin}' comes from {own}, and from {_shown(locked)} in the lock"
    for name, digest in provenance.distributions.items():
        then = lock.distributions.get(name)
        if then is None:
            users = [plugin for plugin, names in provenance.plugins.items() if name in names]
            of = f", which plugin '{users[0]}' brings," if users else ""
            yield f"{_called(digest)}{of} is not in the lock"
        else:
            yield from _distribution_differences(then, digest)


def _distribution_differences(then: LockedDistribution, digest: DistributionDigest) -> Iterator[str]:
    now = _locked(digest)
    if then.version != now.version:
        if then.version is None:
            yield f"{_called(digest)} was not installed when the lock was made"
        elif now.version is None:
            yield f"{digest.name} {_shown(then.version)} is in the lock, and is not installed"
        else:
            yield f"{_called(digest)} is installed, and {_shown(then.version)} is in the lock"
    elif now.not_digested is not None and then.not_digested is None:
        yield f"{_called(digest)} cannot be compared: {now.not_digested}"
    elif then.list != now.list:
        yield f"{_called(digest)}: its list of files has changed"
    elif files := list(_file_differences(then.files, now.files)):
        yield f"{_called(digest)}: {', '.join(_few(files))}"


def _file_differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            how = "was added" if name not in then else "is missing" if name not in now else "has changed"
            yield f"{_shown(name)} {how}"


def _locked(digest: DistributionDigest) -> LockedDistribution:
    if not digest.version:
        return LockedDistribution(None)
    files = {name: file.sha256 for name, file in digest.files.items()}
    return LockedDistribution(digest.version, files, digest.record or None, digest.gap or None)


def _called(digest: DistributionDigest) -> str:
    return _shown(f"{digest.name} {digest.version}".rstrip())


def _shown(text: str) -> str:
    return shorten(visible(text), _SHOWN_CHARACTERS)


def _few(told: list[str]) -> list[str]:
    return told if len(told) <= _SHOWN else [*told[:_SHOWN], f"and {len(told) - _SHOWN} more"]


def _lock_anew(job: Path) -> str:
    return f"lock anew: ringfence plugins lock {run_folder.quoted(job)}"
