"""``ringfence train``: read the job, run it, show how it goes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console

from .. import folder as run_folder
from ..hooks.errors import JobError
from ..job import JobFile, read_job
from .progress import PlainView, Progress, QuietView, View
from .terminal import TerminalView

INTERRUPTED = 130
_DIGITS_SHOWN = 16


def train_job(
    path: Path | None,
    sets: Sequence[str],
    plugins: Sequence[str],
    *,
    out: Path | None,
    resume: Path | None,
    quiet: bool,
) -> int:
    """Run a job and return the exit status.

    Args:
        path: The job; None takes the one that ``resume`` ran.
        sets: Values of ``--set``.
        plugins: Values of ``--plugin``.
        out: Folder of the run; chosen if None.
        resume: Folder of the run to go on with.
        quiet: Show the result only.

    Raises:
        RingfenceError: The job is wrong, or a fault ended the run.
    """
    if resume is not None:
        run_folder.check_old(resume)
    elif out is not None:
        run_folder.check_new(out)
    job_file, base = _read(path, sets, plugins, resume)
    # The engine takes seconds to import; a job that cannot be read is told of at once.
    from ..run import prepare, run  # noqa: PLC0415

    prepared = prepare(job_file, base)
    if resume is not None:
        _check_length(resume, prepared.ingredients.steps_total)
    folder = resume or out or run_folder.default_folder(Path(path or "job").stem)
    view = _view(quiet=quiet)
    progress = Progress(view)
    with StopFlag(view) as stop:
        try:
            outcome = run(prepared, folder, resume=resume is not None, watchers=[progress], stop=stop.is_set)
        finally:
            view.close()
    result = outcome.result
    metrics = "  ".join(f"test {name} {value:.4f}" for name, value in result.final_metrics.items())
    _say(f"{result.status} after {result.steps} steps  {metrics}".rstrip())
    for plugin in progress.status.plugins:
        if plugin.usage.state == "disabled":
            _say(f"plugin '{plugin.spec.name}' failed and was disabled: the run went on without it")
    _say(f"weights {result.weights_sha256[:_DIGITS_SHOWN]}…  {result.steps_per_second:.1f} steps/s")
    _say(f"report  {outcome.report}")
    if result.status == "interrupted":
        _say(f"continue with: ringfence train --resume {folder}")
        return INTERRUPTED
    return 0


class StopFlag:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop, and the second into an end at once.

    Args:
        view: Where to say so.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._is_set = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_set(self) -> bool:
        """Tell whether the run should stop."""
        return self._is_set

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's signature
        if self._is_set:
            # A third one is left to the kernel, should cleaning up hang.
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        self._is_set = True
        self._view.line("stopping after this step, with a checkpoint; once more ends at once")


def _read(
    path: Path | None, sets: Sequence[str], plugins: Sequence[str], resume: Path | None
) -> tuple[JobFile, Path]:
    """Return the job and the folder that its relative paths start from."""
    if path is not None:
        return read_job(path, sets, plugins), path.parent.resolve()
    if resume is None:
        raise JobError("name a job file")
    job_file = read_job(resume / run_folder.JOB, sets, plugins)
    try:
        base = json.loads((resume / run_folder.RECORD).read_text())["base_folder"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"--resume {resume}: {run_folder.RECORD} cannot be read ({error}); name the job file as well"
        ) from error
    return job_file, Path(base)


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
    return TerminalView(console) if console.is_terminal else PlainView(_say)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
