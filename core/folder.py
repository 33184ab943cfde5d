"""The folder of a run: chosen, claimed, and written so that nothing is ever half there."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .hooks.errors import JobError, RunAbortedError

JOB = "job.yaml"
RECORD = "run.json"
REPORT = "report.html"
CHECKPOINTS = "checkpoints"
DEFAULT_PARENT = Path("runs")

_ADVICE = {
    errno.EACCES: "you may not write there",
    errno.EDQUOT: "your disk quota is used up",
    errno.EEXIST: "a file of that name is in the way",
    errno.ENOENT: "it cannot be made there",
    errno.ENOSPC: "the disk is full",
    errno.ENOTDIR: "part of the path is a file, not a folder",
    errno.EPERM: "you may not write there",
    errno.EROFS: "the file system is read-only",
}
#: Faults of a disk that no plugin and no bug of ours brings about.
DISK_FAULTS = frozenset({*_ADVICE, errno.EIO} - {errno.ENOENT, errno.EEXIST, errno.ENOTDIR})


def explain_disk(error: OSError) -> str:
    """Return why a folder cannot be written, in plain words."""
    return _ADVICE.get(error.errno or 0, error.strerror or str(error))


def default_folder(job_name: str, parent: Path = DEFAULT_PARENT) -> Path:
    """Return the first of ``runs/<job>-1``, ``runs/<job>-2``, … that does not exist."""
    candidates = (parent / f"{job_name}-{n}" for n in itertools.count(1))
    return next(path for path in candidates if not path.exists())


def check_new(folder: Path) -> None:
    """Check that a new run may have ``folder``; nothing is made yet.

    Raises:
        JobError: It holds something, or cannot be written.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise JobError(
                f"--out {folder}: the folder is not empty; choose another, or continue the run in it "
                f"with --resume {folder}"
            )
    except OSError as error:
        raise _unusable("--out", folder, error) from error


def check_old(folder: Path) -> None:
    """Check that ``folder`` holds a run to resume.

    Raises:
        JobError: It does not.
    """
    if not folder.is_dir():
        raise JobError(f"--resume {folder}: there is no such folder; name the folder of a run")
    if not (folder / CHECKPOINTS).is_dir():
        raise JobError(
            f"--resume {folder}: holds no checkpoints; name the folder of a run, "
            f"or start one with --out {folder}"
        )


def steps_done(folder: Path) -> int:
    """Return the step of the newest checkpoint in a run's folder; 0 if there is none."""
    names = (path.name.removeprefix("step-") for path in (folder / CHECKPOINTS).glob("step-*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def claim(folder: Path, flag: str = "--out") -> None:
    """Make ``folder`` and try to write to it.

    Raises:
        JobError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".try-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unusable(flag, folder, error) from error


def write_text(path: Path, text: str) -> None:
    """Replace the file ``path`` by one that holds ``text``; a crash leaves the old one or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner only; a report is meant to be shared.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def disk_faults_told(folder: Path) -> Iterator[None]:
    """Turn faults of the disk while a run goes on into a clear end of the run.

    Raises:
        RunAbortedError: The disk is full or has become unwritable.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise RunAbortedError(
            f"the run's folder {folder} can no longer be written: {explain_disk(error)}; the checkpoints "
            f"in it are whole. Make room, then continue with --resume {folder}"
        ) from error


def _unusable(flag: str, folder: Path, error: OSError) -> JobError:
    return JobError(f"{flag} {folder}: cannot be written: {explain_disk(error)}; choose another folder")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in {float("inf"), float("-inf")}):  # noqa: PLR0124 - NaN
        return None
    return value
