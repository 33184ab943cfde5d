"""``ringfence train``: read the job, run it, show how it goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ..hooks.errors import CheckpointError, CutOffError, DataError, JobError, RingfenceError
from ..job.job_file import JobFile, read_job
from ..tracking import run_folder
from ..tracking.folder_lock import FolderTakenError, check_free
from .run_display import PlainView, QuietView, RunDisplay, View, rate_words
from .signals import StopFlag, to_stderr
from .terminal_display import TerminalView

if TYPE_CHECKING:
    from ..run.execute import RunOutcome
    from ..run.prepare import Prepared

_DIGITS_SHOWN = 16
_REPORTED = "report  {}"
_CONTINUED = "continue with: ringfence train --resume {}"


def train_job(
    path: Path | None,
    sets: Sequence[str],
    plugins: Sequence[str],
    *,
    out: Path | None,
    resume: Path | None,
    accept: Sequence[str],
    quiet: bool,
    debug: bool = False,
    stop: StopFlag,
) -> int:
    """Run a job and return the exit status.

    Args:
        path: The job; None takes the one that ``resume`` ran.
        sets: Values of ``--set``.
        plugins: Values of ``--plugin``.
        out: Folder of the run; chosen if None.
        resume: Folder of the run to go on with.
        accept: Values of ``--accept``.
        quiet: Show the result only.
        debug: Show the tracebacks of plugins' faults.
        stop: What the user's signals set.

    Raises:
        RingfenceError: The job is wrong, or a fault ended the run.
    """
    if resume is not None:
        check_free(resume, "--resume")
        run_folder.check_old(resume)
        if not (path or sets or plugins or accept) and (over := _over(resume)):
            _say(over)
            return 0
    elif out is not None:
        check_free(out, "--out")
        run_folder.check_new(out)
    job_file, base = _read(path, sets, plugins, resume)
    stop.within_s = job_file.job.stop_within_s
    # The engine takes seconds to import; a job that cannot be read is told of at once.
    from ..run.prepare import prepare  # noqa: PLC0415

    here = _working_folder()
    with _missing_base_told(base):
        prepared = prepare(job_file, base, tell=(lambda _: None) if quiet else to_stderr)
    if resume is not None:
        _check_length(resume, prepared.ingredients.steps_total)
    # The user's model or data may have gone elsewhere; paths are those of where the command was started.
    start = Path() if _working_folder() == here else here
    folder = resume or out
    view = _view(quiet=quiet)
    tell = view.line if isinstance(view, TerminalView) else to_stderr
    progress = RunDisplay(view, resumed=resume is not None, trace=tell if debug else None)
    outcome = _run(
        prepared,
        path,
        None if folder is None else start / folder,
        progress,
        stop,
        resume=resume is not None,
        accept=accept,
        start=start,
    )
    return CutOffError.exit_status if outcome is None else _told(outcome, progress)


def _run(
    prepared: Prepared,
    job: Path | None,
    folder: Path | None,
    progress: RunDisplay,
    stop: StopFlag,
    *,
    resume: bool,
    accept: Sequence[str],
    start: Path,
) -> RunOutcome | None:
    """Run a job, in a folder below ``start`` if None; say so, and return None, if it has no result."""
    from ..run.execute import run  # noqa: PLC0415

    def run_in(chosen: Path) -> RunOutcome:
        nonlocal folder
        folder = chosen
        outcome = run(
            prepared,
            chosen,
            resume=resume,
            accept=accept,
            watchers=[progress],
            stop=stop.request,
        )
        # As the user would write them; while it ran they had to be absolute.
        return replace(outcome, folder=chosen, report=chosen / outcome.report.name)

    view = progress.view
    if isinstance(view, TerminalView):
        stop.tell = view.line
    stop.has_begun = lambda: progress.status.info is not None
    stop.starting()
    try:
        return _run_in_a_free_one(job, run_in, start) if folder is None else run_in(folder)
    except CutOffError:
        to_stderr(_ended("interrupted before the first step", folder))
    except KeyboardInterrupt:
        to_stderr(_ended("interrupted, at once", folder))
    except RingfenceError:
        view.close()
        if folder is not None and progress.status.info is not None:
            _tell_what_is_left(folder)
        raise
    finally:
        stop.tell = to_stderr
        view.close()
    return None


def _told(outcome: RunOutcome, progress: RunDisplay) -> int:
    """Show how a run ended, and return the exit status."""
    result = outcome.result
    metrics = "  ".join(f"test {name} {value:.4f}" for name, value in result.final_metrics.items())
    # The evaluation may be of an earlier step than the one at which the run was interrupted.
    at = f"at step {result.final_metrics_step}: " * (result.final_metrics_step not in (None, result.steps))
    _say(f"{result.status.replace('_', ' ')} after {result.steps} steps  {at}{metrics}".rstrip())
    if result.steps_given_up:
        _say(f"the {result.steps_given_up} steps after that were given up: the next one took too long")
    for plugin in progress.status.plugins:
        if plugin.usage.state == "disabled":
            _say(f"plugin '{plugin.spec.name}' failed and was disabled: the run went on without it")
    speed = rate_words(result.steps_per_second)
    _say(f"weights {result.weights_sha256[:_DIGITS_SHOWN]}…  {speed}".rstrip())
    _say(_REPORTED.format(outcome.report))
    if result.status == "interrupted":
        _say(_CONTINUED.format(run_folder.quoted(outcome.folder)))
        return CutOffError.exit_status
    return 0


def _tell_what_is_left(folder: Path) -> None:
    """Say where the report is of a run that has failed, and how it goes on; its error follows."""
    if (folder / run_folder.REPORT).is_file():
        _say(_REPORTED.format(folder / run_folder.REPORT))
    if run_folder.read_record(folder).get("checkpoint") is not None:
        _say(_CONTINUED.format(run_folder.quoted(folder)))


def _ended(how: str, folder: Path | None) -> str:
    """Say how a run ended without its last state, and what there is of it."""
    done = 0 if folder is None else run_folder.steps_done(folder)
    if folder is None or not done:
        return f"{how}; no step was kept"
    resume = f"ringfence train --resume {run_folder.quoted(folder)}"
    return f"{how}; kept is step {done}, the last checkpoint. Continue with: {resume}"


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()  # it was removed; absolute paths are as good as ever


def _run_in_a_free_one(
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
        f"completed after {steps} steps: nothing to do. To go on, ask for more, for example: "
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


def _read(
    path: Path | None, sets: Sequence[str], plugins: Sequence[str], resume: Path | None
) -> tuple[JobFile, Path]:
    """Return the job and the folder that its relative paths start from."""
    if path is not None:
        job_file = read_job(path, sets, plugins)
        return job_file, job_file.job.base(path)
    if resume is None:
        raise JobError("name a job file")
    data = run_folder.job_of(resume)
    if data is None:
        raise JobError(f"--resume {resume}: {run_folder.JOB} is missing in it; name the job file as well")
    job_file = read_job(resume / run_folder.JOB, sets, plugins, data=data)
    if job_file.job.base_folder is not None:
        return job_file, job_file.job.base(resume / run_folder.JOB)
    # A run of 0.2 or earlier has it in its record only.
    base = run_folder.read_record(resume).get("base_folder")
    if not isinstance(base, str):
        raise JobError(
            f"--resume {resume}: {run_folder.RECORD} is missing or damaged, and tells no base_folder; "
            "name the job file as well"
        )
    return job_file, Path(base)


@contextmanager
def _missing_base_told(base: Path) -> Iterator[None]:
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
            f"--resume {resume}: the run has taken {done} steps already, and the job asks for {steps_total}; "
            f"ask for more, for example with --set steps={2 * done}"
        )


def _view(*, quiet: bool) -> View:
    if quiet:
        return QuietView()
    console = Console()
    return TerminalView(console) if _can_draw(console) else PlainView(_say)


def _can_draw(console: Console) -> bool:
    """Tell whether the output is a terminal that obeys a cursor.

    A notebook gives its commands one that only looks so, or has rich take any output for one.
    """
    is_notebook = console.is_jupyter or "JPY_PARENT_PID" in os.environ
    return sys.stdout.isatty() and console.is_terminal and not (is_notebook or console.is_dumb_terminal)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
