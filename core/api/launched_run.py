"""Run a job that was read and checked, and show how it goes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..hooks.errors import DataError, JobError
from ..isolation.host.processes.zygote_process import EarlyZygote
from ..job.job_file import JobFile
from ..plugins.number_words import counted
from ..run.execute import RunOptions, RunOutcome, execute
from ..run.prepare import Prepared, prepare
from ..run.reduced_run import Reduction
from ..tracking import run_folder
from ..tracking.folder_lock import FolderTakenError
from .launch import Launch
from .run_display import RunDisplay
from .start_block import start_lines
from .train_request import TrainRequest
from .views import terminal_width


def run_launched(launch: Launch, job_file: JobFile, base: Path, zygote: EarlyZygote) -> RunOutcome:
    """Run a job, in a folder below the current one if none is asked for.

    Args:
        launch: What is asked for; takes note of the folder and the display.
        job_file: The job.
        base: Folder that its relative paths start from.
        zygote: For the sandbox.

    Raises:
        RingfenceError: The job is wrong, or a fault ended the run.
    """
    request = launch.request
    here = _working_folder()
    with _explain_missing_base(base):
        prepared = prepare(
            job_file,
            base,
            tell=launch.tell,
            macs=request.macs,
            resume=request.resume,
            given=request.objects,
            reduction=_reduction(request),
        )
    if request.resume is not None:
        _check_length(request.resume, prepared.setup.steps_total)
    # The user's model or data may have gone elsewhere; paths are those of where the command was started.
    start = Path() if _working_folder() == here else here
    view, tell = launch.make_view()
    launch.display = RunDisplay(
        view,
        resumed=request.resume is not None,
        start=start_lines(prepared.start, terminal_width()),
        trace=tell if request.debug else None,
    )
    told_by, launch.stop.tell = launch.stop.tell, tell
    try:
        return _run(launch, launch.display, prepared, start, zygote)
    finally:
        launch.stop.tell = told_by
        view.close()


def _run(
    launch: Launch, display: RunDisplay, prepared: Prepared, start: Path, zygote: EarlyZygote
) -> RunOutcome:
    """Run in the folder that is asked for, or in one below ``start``."""
    request, stop = launch.request, launch.stop
    asked = request.resume or request.out
    launch.folder = None if asked is None else start / asked
    options = RunOptions(
        resume=request.resume is not None,
        accept=request.accept,
        observers=[display, *request.observers],
        stop=stop.request,
        zygote=zygote,
    )

    def run_in(chosen: Path) -> RunOutcome:
        launch.folder = chosen
        outcome = execute(prepared, chosen, options)
        # As the user would write them; while it ran they had to be absolute.
        return replace(outcome, folder=chosen, report=chosen / outcome.report.name)

    stop.has_begun = lambda: launch.has_begun
    stop.starting()
    launch.is_started = True
    if launch.folder is not None:
        return run_in(launch.folder)
    if not request.is_kept:
        try:
            with tempfile.TemporaryDirectory(prefix="ringfence-", ignore_cleanup_errors=True) as place:
                return run_in(Path(place) / "run")
        finally:
            launch.folder = None
    return run_in_a_free_one(request.path, run_in, start)


def _reduction(request: TrainRequest) -> Reduction | None:
    """Return how a run is cut down; None if it is not."""
    return Reduction(request.overfit) if request.fast_dev_run or request.overfit is not None else None


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()  # it was removed; absolute paths are as good as ever


def run_in_a_free_one(
    job: Path | None, run_in: Callable[[Path], RunOutcome], start: Path = Path()
) -> RunOutcome:
    """Run in the first default folder below ``start`` that is free when the run begins."""
    while True:
        folder = run_folder.default_folder(Path(job or "job").stem, start / run_folder.DEFAULT_PARENT)
        try:
            return run_in(folder)
        except FolderTakenError:
            # Another process was quicker, so that the next look finds another one.
            if not folder.exists():
                raise


@contextmanager
def _explain_missing_base(base: Path) -> Iterator[None]:
    """Add to an error that the folder from which relative paths start is gone, where it is."""
    try:
        yield
    except (JobError, DataError) as error:
        if base.is_dir():
            raise
        raise type(error)(
            f"{error}\nrelative paths of the job start from {base}, which is gone; if it was moved, say "
            "where it is now, as an absolute path, with --set base_folder=DIR"
        ) from error


def _check_length(resume: Path, steps_total: int) -> None:
    done = run_folder.steps_done(resume)
    if done > steps_total:
        raise JobError(
            f"--resume {resume}: the run has taken {counted(done, 'step')} already, and the job asks for "
            f"{steps_total}; ask for more, for example with --set steps={2 * done}"
        )
