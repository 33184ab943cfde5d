"""``ringfence train``: what runs a job is imported once the job is read and checked."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..api.launch import Launch
from ..api.start_run import start_run
from ..api.train_request import TrainRequest, nothing_to_do
from ..hooks.errors import CutOffError, RingfenceError
from ..tracking.run_folder import quoted
from .signals import StopFlag, to_stderr

if TYPE_CHECKING:
    from ..api.run_display import View
    from ..run.execute import RunOutcome


def train_job(request: TrainRequest, stop: StopFlag) -> int:
    """Run a job and return the exit status.

    Args:
        request: Which, and how.
        stop: What the user's signals set.

    Raises:
        RingfenceError: The job is wrong, or a fault ended the run.
    """
    if over := nothing_to_do(request):
        sys.stdout.write(f"{over}\n")
        return 0
    view = _quiet_view if request.quiet else _view
    launch = Launch(request, stop, _nobody if request.quiet else to_stderr, view, _collect_garbage)
    try:
        return _print_outcome(launch, start_run(launch))
    except CutOffError:
        _tell_end("interrupted before the first step", launch.folder)
    except KeyboardInterrupt:
        if not launch.is_started:
            raise
        _tell_end("interrupted, at once", launch.folder)
    except RingfenceError:
        if launch.folder is not None and launch.has_begun:
            from ..api.endings import lines_of_what_is_left  # noqa: PLC0415 - as below

            _print(lines_of_what_is_left(launch.folder, _resume))
        raise
    return CutOffError.exit_status


def _print_outcome(launch: Launch, outcome: RunOutcome) -> int:
    """Show how a run ended, and return the exit status."""
    from ..api.endings import outcome_lines  # noqa: PLC0415 - imports torch, as the run has

    assert launch.display is not None  # noqa: S101 - the run was shown
    _print(outcome_lines(outcome, launch.display, _resume, is_kept=launch.request.is_kept))
    return CutOffError.exit_status if outcome.result.status == "interrupted" else 0


def _tell_end(ended: str, folder: Path | None) -> None:
    from ..api.endings import line_without_last_state  # noqa: PLC0415 - as above

    to_stderr(line_without_last_state(ended, folder, _resume))


def _view() -> tuple[View, Callable[[str], None]]:
    from ..api.views import beside, choose_view  # noqa: PLC0415 - as above

    view = choose_view(quiet=False)
    return view, beside(view, to_stderr)


def _quiet_view() -> tuple[View, Callable[[str], None]]:
    from ..api.run_display import QuietView  # noqa: PLC0415 - as above

    return QuietView(), to_stderr


def _print(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _nobody(text: str) -> None:
    """Show nothing of what takes long."""


def _resume(folder: Path) -> str:
    return f"ringfence train --resume {quoted(folder)}"


def _collect_garbage() -> None:
    """Begin to look for garbage, but never among what was imported: that stays.

    The command does not do so as it starts; whoever calls this in a process of another kind may.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
