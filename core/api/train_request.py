"""What the user asks of ``ringfence train`` or ``ringfence.train``, and the job that is meant, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hooks.errors import CheckpointError, JobError, visible
from ..job.flags import FAST_DEV_RUN, OVERFIT
from ..job.job_file import Job, JobFile, check_job, read_job
from ..job.python_job import ORIGIN, apply_keys
from ..job.yaml_document import Document
from ..plugins.number_words import counted
from ..tracking import run_folder
from ..tracking.folder_lock import check_free

if TYPE_CHECKING:
    from ..plugins.observer import Observer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """A job to run, and how.

    Attributes:
        path: The job; None takes ``job``, or the one that ``resume`` ran.
        job: One that a program hands over; ``keys`` alone may be one as well.
        keys: Keys of the job that a program gives.
        sets: Values of ``--set``.
        plugins: Values of ``--plugin``.
        out: Folder of the run; chosen if None.
        resume: Folder of the run to go on with.
        accept: Values of ``--accept``.
        trust_code: Follow whatever a run's folder names: code, grants, places.
        quiet: Show the result only.
        debug: Show the tracebacks of plugins' faults.
        objects: Key of the job to the object that stands for what it names.
        observers: Told what happens, beside what shows it.
        macs: Count the multiplications of the model.
        fast_dev_run: Take one step of everything.
        overfit: Train on so many samples, and evaluate on the same.
        is_kept: Whether the run leaves a folder.

    Raises:
        JobError: What is asked for does not go together.
    """

    path: Path | None = None
    job: Mapping[str, Any] | Job | None = None
    keys: Mapping[str, Any] = field(default_factory=dict)
    sets: Sequence[str] = ()
    plugins: Sequence[str] = ()
    out: Path | None = None
    resume: Path | None = None
    accept: Sequence[str] = ()
    trust_code: bool = False
    quiet: bool = False
    debug: bool = False
    objects: Mapping[str, Any] = field(default_factory=dict)
    observers: Sequence[Observer] = ()
    macs: bool = False
    fast_dev_run: bool = False
    overfit: int | None = None
    is_kept: bool = True

    def __post_init__(self) -> None:
        if self.fast_dev_run and self.overfit is not None:
            raise JobError(
                f"{FAST_DEV_RUN} and {OVERFIT} are both given; each is a run of its own kind, choose one"
            )
        if self.overfit is not None and self.overfit < 1:
            raise JobError(f"{OVERFIT} {self.overfit}: it takes at least one sample")
        if self.resume is not None and (self.fast_dev_run or self.overfit is not None):
            flag = FAST_DEV_RUN if self.fast_dev_run else OVERFIT
            raise JobError(
                f"{flag} and --resume, both given, do not go together: a run that is cut down begins anew"
            )


def nothing_to_do(request: TrainRequest) -> str:
    """Return what to say where a run is to be resumed that has taken all the steps of its job, or ``""``.

    Raises:
        JobError: The folder that is named cannot be this run's.
    """
    resume = request.resume
    if resume is not None:
        check_free(resume, "--resume")
        run_folder.check_old(resume)
        _check_whole(resume)
        named = request.path or request.job or request.keys or request.sets or request.plugins
        return "" if named or request.accept else _over(resume)
    if request.out is not None:
        check_free(request.out, "--out")
        run_folder.check_new(request.out)
    return ""


def _check_whole(folder: Path) -> None:
    """Refuse to go on with a run that was cut down.

    Raises:
        JobError: It was.
    """
    reduction = run_folder.read_record(folder).get("reduction")
    if isinstance(reduction, dict):
        kind = visible(str(reduction.get("kind")))
        raise JobError(
            f"--resume {folder}: that run was cut down to try its job out ({kind}), and is no part of a "
            "whole one; start that anew, with another --out"
        )


def _over(folder: Path) -> str:
    """Return what to say of a run that has taken all the steps of its job, or ``""``."""
    record = run_folder.read_record(folder)
    steps, epochs = record.get("steps"), record.get("epochs")
    if record.get("status") != "completed" or not isinstance(steps, int) or not isinstance(epochs, int):
        return ""
    # It may have been edited since.
    data = run_folder.job_of(folder)
    job = None if data is None else read_job(folder / run_folder.JOB, data=data).job
    if job is None or (job.steps or 0) > steps or (job.epochs or 0) > epochs or _last_whole(folder) < steps:
        return ""
    return (
        f"completed after {counted(steps, 'step')}: nothing to do. To go on, ask for more, for example: "
        f"ringfence train --resume {run_folder.quoted(folder)} --set steps={2 * steps}"
    )


def _last_whole(folder: Path) -> int:
    """Return the step of the newest checkpoint that is not damaged; -1 if there is none.

    It is read whole: one whose bytes have rotted has its length, and then there is something to do.
    """
    from ..engine.checkpoints.checkpoint import read_latest  # noqa: PLC0415 - imports torch, which takes a second

    try:
        _, contents = read_latest(folder / run_folder.CHECKPOINTS, lambda *_: None, note=lambda _: None)
    except CheckpointError:
        return -1
    return contents.step


def read_request(request: TrainRequest) -> tuple[JobFile, Path]:
    """Return the job and the folder that its relative paths start from."""
    path, resume, keys = request.path, request.resume, request.keys
    if path is not None:
        if not run_folder.lies_in_run(path):
            job_file = read_job(path, request.sets, request.plugins, keys=keys)
            return job_file, job_file.job.base(path)
        from ..tracking.own_runs import permitted  # noqa: PLC0415 - takes time, and few jobs lie in one

        # It was written by a run: naming it is asking for that run again, not vouching for what it names.
        permission = permitted(path.parent, trust_code=request.trust_code)
        is_own_name = path.name == run_folder.JOB
        data = permission.job_data if is_own_name else run_folder.job_of(path.parent, path.name)
        job_file = read_job(path, request.sets, request.plugins, data=data, keys=keys)
        return job_file, permission.base_of(job_file, path)
    if request.job is not None or (keys and resume is None):
        job_file = _of_program(request)
        return job_file, job_file.job.base(Path("job"))
    if resume is None:
        raise JobError("name a job file")
    from ..tracking.own_runs import permitted  # noqa: PLC0415 - as above

    permission = permitted(resume, trust_code=request.trust_code)
    data = permission.job_data
    if data is None:
        raise JobError(f"--resume {resume}: {run_folder.JOB} is missing in it; name the job file as well")
    job_file = read_job(resume / run_folder.JOB, request.sets, request.plugins, data=data, keys=keys)
    base_folder = permission.base_of(job_file, resume / run_folder.JOB)
    if not permission.trust_code or job_file.job.base_folder is not None:
        return job_file, base_folder
    # A run of 0.2 or earlier has it in its record only.
    base = run_folder.read_record(resume).get("base_folder")
    if not isinstance(base, str):
        raise JobError(
            f"--resume {resume}: {run_folder.RECORD} is missing or damaged, and tells no base_folder; "
            "name the job file as well"
        )
    return job_file, Path(base)


def _of_program(request: TrainRequest) -> JobFile:
    """Return the job that a program gives; its relative paths start from the current folder."""
    given = request.job or {}
    document = Document(ORIGIN, {})
    problems = apply_keys(document, given.file_form() if isinstance(given, Job) else given)
    return check_job(document, [*problems, *apply_keys(document, request.keys)])
