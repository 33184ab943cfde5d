"""Run a job that was read and checked as a file, and show how it goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ..hooks.errors import CutOffError, DataError, JobError, RingfenceError
from ..isolation.host.processes.zygote_process import EarlyZygote
from ..job.job_file import JobFile
from ..run.execute import RunOptions, RunOutcome, execute
from ..run.prepare import Prepared, prepare
from ..tracking import run_folder
from ..tracking.folder_lock import FolderTakenError
from .run_display import PlainView, QuietView, RunDisplay, View, rate_words
from .signals import StopFlag, to_stderr
from .terminal_display import TerminalView
from .train_request import TrainRequest

_DIGITS_SHOWN = 16
_REPORTED = "report  {}"
_CONTINUED = "continue with: ringfence train --resume {}"


def run_job(request: TrainRequest, job_file: JobFile, base: Path, stop: StopFlag, zygote: EarlyZygote) -> int:
    """Run a job and return the exit status.

    Args:
        request: What the user asks for.
        job_file: The job.
        base: Folder that its relative paths start from.
        stop: What the user's signals set.
        zygote: For the sandbox.

    Raises:
        RingfenceError: The job is wrong, or a fault ended the run.
    """
    resume = request.resume
    here = _working_folder()
    with _explain_missing_base(base):
        prepared = prepare(job_file, base, tell=(lambda _: None) if request.quiet else to_stderr)
    if resume is not None:
        _check_length(resume, prepared.setup.steps_total)
    # The user's model or data may have gone elsewhere; paths are those of where the command was started.
    start = Path() if _working_folder() == here else here
    view = _view(quiet=request.quiet)
    tell = view.line if isinstance(view, TerminalView) else to_stderr
    display = RunDisplay(view, resumed=resume is not None, trace=tell if request.debug else None)
    outcome = _run(prepared, request, start, display, stop, zygote)
    return CutOffError.exit_status if outcome is None else _print_outcome(outcome, display)


def _run(
    prepared: Prepared,
    request: TrainRequest,
    start: Path,
    display: RunDisplay,
    stop: StopFlag,
    zygote: EarlyZygote,
) -> RunOutcome | None:
    """Run a job, in a folder below ``start`` if none is asked for; None, and said so, if it has no result."""
    asked = request.resume or request.out
    folder = None if asked is None else start / asked
    options = RunOptions(
        resume=request.resume is not None,
        accept=request.accept,
        observers=[display],
        stop=stop.request,
        zygote=zygote,
    )

    def run_in(chosen: Path) -> RunOutcome:
        nonlocal folder
        folder = chosen
        outcome = execute(prepared, chosen, options)
        # As the user would write them; while it ran they had to be absolute.
        return replace(outcome, folder=chosen, report=chosen / outcome.report.name)

    view = display.view
    if isinstance(view, TerminalView):
        stop.tell = view.line
    stop.has_begun = lambda: display.status.info is not None
    stop.starting()
    try:
        return _run_in_a_free_one(request.path, run_in, start) if folder is None else run_in(folder)
    except CutOffError:
        to_stderr(_ending_words("interrupted before the first step", folder))
    except KeyboardInterrupt:
        to_stderr(_ending_words("interrupted, at once", folder))
    except RingfenceError:
        view.close()
        if folder is not None and display.status.info is not None:
            _tell_what_is_left(folder)
        raise
    finally:
        stop.tell = to_stderr
        view.close()
    return None


def _print_outcome(outcome: RunOutcome, display: RunDisplay) -> int:
    """Show how a run ended, and return the exit status."""
    result = outcome.result
    metrics = "  ".join(f"test {name} {value:.4f}" for name, value in result.final_metrics.items())
    # The evaluation may be of an earlier step than the one at which the run was interrupted.
    at = f"at step {result.final_metrics_step}: " * (result.final_metrics_step not in (None, result.steps))
    _say(f"{result.status.replace('_', ' ')} after {result.steps} steps  {at}{metrics}".rstrip())
    if result.steps_given_up:
        _say(f"the {result.steps_given_up} steps after that were given up: the next one took too long")
    for plugin in display.status.plugins:
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


def _ending_words(how: str, folder: Path | None) -> str:
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
