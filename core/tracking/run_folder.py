"""The folder of a run: chosen, claimed, and written so that nothing is ever half there."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..hooks.errors import JobError, RunAbortedError, visible
from .untrusted_folder import OddFileError, Tree

JOB = "job.yaml"
#: Beside the job as any lock of plugins, so that a run that is resumed is held to it.
PLUGIN_LOCK = "job.lock.json"
RECORD = "run.json"
#: Version of the table of ``run.json`` in ``docs/run-folder.md``.
RECORD_SCHEMA = 1
REPORT = "report.html"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
#: Shows whose run it is (``own_runs``).
MADE_HERE = "made-here.json"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
_OF_RUNS = (
    METRICS,
    EVENTS,
    "model.json",
    "model.safetensors",
    "model-best.safetensors",
    "test_predictions.npz",
)
#: Of ``run.json``: some KiB a plugin, and the faults that are kept.
MAX_RECORD_BYTES = 16 << 20
#: Of ``job.yaml``: as much as is read of any job.
MAX_JOB_BYTES = 4 << 20
_CHECKPOINT = re.compile(r"step-([0-9]{8,16})(?:\.[0-9]+)?$")
DEFAULT_PARENT = Path("runs")
_RUNS_NAMED = 3

_ADVICE = {
    errno.EACCES: "you may not write there",
    errno.EDQUOT: "your disk quota is used up",
    errno.EEXIST: "a file of that name is in the way",
    errno.EISDIR: "a folder is where a file belongs",
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
    if isinstance(error, OddFileError):
        return visible(str(error.strerror))
    return _ADVICE.get(error.errno or 0, error.strerror or str(error))


def quoted(path: Path) -> str:
    """Return a path as a shell takes it, for commands that a message tells."""
    return shlex.quote(str(path))


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
        if folder.exists() and any(entry.name != LOCK for entry in folder.iterdir()):
            raise JobError(f"--out {folder}: the folder is not empty; choose another{_instead(folder)}")
    except OSError as error:
        raise unusable("--out", folder, error) from error


def _instead(folder: Path) -> str:
    """Return what else can be done with a folder that holds something: there must be a run to go on with."""
    if _checkpoint_steps(folder, "--out"):
        return f", or continue the run in it with --resume {quoted(folder)}"
    if (folder / RECORD).exists():
        return "; its run ended before the first checkpoint, so there is nothing to go on from"
    return f", for example {default_folder('run', folder)}"


def check_plain(folder: Path, flag: str = "--resume") -> None:
    """Check that a folder, which may come from anybody, holds files and folders only.

    Raises:
        JobError: It holds a link, a FIFO or the like, or a file that has another name elsewhere; those of
            checkpoints may, since they are never changed.
    """
    try:
        odd = next(Tree(folder).odd(several_names=[CHECKPOINTS]), None)
    except OSError as error:
        raise JobError(f"{flag} {folder}: cannot be read ({error.strerror or error})") from error
    if odd is not None:
        raise JobError(
            f"{flag} {folder}: {visible(odd)}; a run's folder holds files and folders only. Put a copy in "
            "its place, or remove it if it is not yours"
        )


def check_old(folder: Path) -> None:
    """Check that ``folder`` holds a run to resume, and nothing that could lead elsewhere.

    Raises:
        JobError: It does not.
    """
    try:
        names = {entry.name for entry in folder.iterdir()}
    except FileNotFoundError:
        raise JobError(
            f"--resume {folder}: there is no such folder; name the folder of a run, or start one with "
            f"--out {quoted(folder)}"
        ) from None
    except NotADirectoryError:
        raise JobError(f"--resume {folder}: is no folder; name the folder of a run") from None
    except OSError as error:
        raise JobError(
            f"--resume {folder}: cannot be read ({error.strerror or error}); change its permissions"
        ) from error
    if not names & {RECORD, CHECKPOINTS}:
        raise JobError(f"--resume {folder}: holds no run; {_runs_near(folder, empty=names <= {LOCK})}")
    steps = _checkpoint_steps(folder)
    check_plain(folder)
    if not steps:
        raise JobError(
            f"--resume {folder}: its run ended before the first checkpoint, so there is nothing to go on "
            "from; start it anew from its job file, with another --out"
        )


def _runs_near(folder: Path, *, empty: bool) -> str:
    """Return what to name in place of a folder without a run."""
    if empty:
        return f"name the folder of a run, or start one with --out {quoted(folder)}"
    runs = sorted(path.parent for path in folder.glob(f"*/{CHECKPOINTS}"))
    if not runs:
        return "name the folder of a run"
    more = ", …" if len(runs) > _RUNS_NAMED else ""
    return f"name the folder of a run; in it are {', '.join(map(str, runs[:_RUNS_NAMED]))}{more}"


def check_run(folder: Path) -> None:
    """Check that a folder, which may come from anybody, holds a run that can be looked at.

    Raises:
        JobError: It holds none, or one of a later series.
    """
    try:
        names = Tree(folder).names()
    except OSError as error:
        raise JobError(f"{folder}: cannot be read ({error.strerror}); name the folder of a run") from error
    if not names and not folder.exists():
        raise JobError(f"{folder}: there is no such folder; name the folder of a run")
    if RECORD not in names:
        raise JobError(f"{folder}: holds no {RECORD}; name the folder of a run")
    schema = read_record(folder).get("schema")
    if isinstance(schema, int) and schema > RECORD_SCHEMA:
        raise JobError(
            f"{folder}: {RECORD} has schema {schema}, which a later ringfence has written; this one reads "
            f"{RECORD_SCHEMA}: update it (pip install --upgrade ringfence)"
        )


def lies_in_run(job: Path) -> bool:
    """Tell whether a job file lies in a run's folder, or below one, and so may be anybody's.

    Whoever sends one may leave out what shows that it is a run's: any file that only runs write will do, and
    so will any with which the folder can be used as one.
    """
    # By names that others may have as well: only those beside it count.
    beside = any(os.path.lexists(job.parent / name) for name in _OF_RUNS)
    return (
        beside
        or _has_checkpoint(job.parent / CHECKPOINTS)
        or any(
            os.path.lexists(folder / name)
            for folder in job.absolute().parents
            for name in (RECORD, MADE_HERE)
        )
    )


def _has_checkpoint(folder: Path) -> bool:
    try:
        return any(map(_CHECKPOINT.search, os.listdir(folder)))  # noqa: PTH208 - of names alone
    except OSError:
        return False


def steps_done(folder: Path) -> int:
    """Return the step of the newest checkpoint in a run's folder; 0 if there is none."""
    return max(_checkpoint_steps(folder), default=0)


def _checkpoint_steps(folder: Path, flag: str = "--resume") -> list[int]:
    """Return the steps of the checkpoints in a run's folder, whole or not.

    Raises:
        JobError: The folder of checkpoints cannot be read.
    """
    try:
        names = Tree(folder).names(CHECKPOINTS)
    except (NotADirectoryError, OddFileError):
        return []
    except OSError as error:
        why = error.strerror or error
        raise JobError(
            f"{flag} {folder}: {CHECKPOINTS} cannot be read ({why}); change its permissions"
        ) from error
    found = (_CHECKPOINT.match(name.removeprefix(".replaced-")) for name in names)
    return [int(match[1]) for match in found if match]


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
        raise unusable(flag, folder, error) from error


def read_record(folder: Path) -> dict[str, Any]:
    """Return what ``run.json`` of a folder holds; nothing where it cannot be read."""
    try:
        value = json.loads(Tree(folder).read(RECORD, MAX_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def job_of(folder: Path, name: str = JOB) -> bytes | None:
    """Return what ``job.yaml`` of a run holds, or another job file in it; None if it is not there.

    Raises:
        JobError: It cannot be read.
    """
    try:
        return Tree(folder).read(name, MAX_JOB_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JobError(f"{folder / name}: cannot be read: {error.strerror or error}") from error


def keep_old_job(folder: Path, step: int, job: str) -> Path | None:
    """Copy ``job.yaml`` before a resume after ``step`` steps replaces it by another.

    Args:
        folder: The run's.
        step: Of the checkpoint that the run goes on from.
        job: The text that takes its place.

    Returns:
        ``job-before-step-N.yaml``, or with a number where that is taken; None if there is nothing to keep.

    Raises:
        OSError: It cannot be read or written.
    """
    tree = Tree(folder)
    try:
        old = tree.read(JOB, MAX_JOB_BYTES)
    except FileNotFoundError:
        return None
    if old == job.encode():
        return None
    stem = f"job-before-step-{step}"
    for number in itertools.count(1):
        name = f"{stem}.yaml" if number == 1 else f"{stem}-{number}.yaml"
        try:
            kept = tree.read(name, MAX_JOB_BYTES)
        except FileNotFoundError:
            tree.write(name, [old], sync=True)
            return folder / name
        if kept == old:
            return folder / name
    return None  # for the type checker: counting has no end


def write_text(path: Path, text: str) -> None:
    """Replace the file ``path`` by one that holds ``text``; a crash leaves the old one or the new one."""
    Tree(path.parent).write(path.name, [text.encode(errors="replace")], sync=True)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def explain_disk_faults(folder: Path) -> Iterator[None]:
    """Turn faults of the disk while a run goes on into a clear end of the run.

    Raises:
        RunAbortedError: The disk is full or has become unwritable.
    """
    try:
        yield
    except OSError as error:
        is_odd = isinstance(error, OddFileError)
        if error.errno not in DISK_FAULTS and not is_odd:
            raise
        remedy = "Put a file of its own in its place" if is_odd else "Make room"
        raise RunAbortedError(
            f"the run's folder {folder} can no longer be written: {explain_disk(error)}; the checkpoints "
            f"in it are whole. {remedy}, then continue with --resume {quoted(folder)}"
        ) from error


def unusable(flag: str, folder: Path, error: OSError) -> JobError:
    """Return the error of a folder that cannot be written, with why."""
    advice = "choose another folder"
    if flag == "--resume":
        advice = "make room, or change its permissions, or resume a copy of it elsewhere"
    return JobError(f"{flag} {folder}: cannot be written: {explain_disk(error)}; {advice}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in {float("inf"), float("-inf")}):  # noqa: PLR0124 - NaN
        return None
    return value
