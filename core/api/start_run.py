"""Read a job, prepare it and run it: the one order, for the command line and for Python programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..isolation.host.processes.zygote_process import EarlyZygote
from ..job.job_file import JobFile
from .launch import Launch
from .train_request import read_request

if TYPE_CHECKING:
    from ..run.execute import RunOutcome


def start_run(launch: Launch) -> RunOutcome:
    """Run what is asked for, and return what it left.

    Args:
        launch: Takes note of how far it comes, for whoever has to tell of an error.

    Raises:
        RingfenceError: The job is wrong, or a fault ended the run.
        CutOffError: It was stopped before the first step.
    """
    job_file, base = read_request(launch.request)
    launch.check(job_file)
    launch.stop.within_s = job_file.job.stop_within_s
    # It and this process import torch side by side; for a job that cannot be read neither does.
    with EarlyZygote(needed=_is_sandboxed(job_file)) as zygote:
        from .launched_run import run_launched  # noqa: PLC0415 - see above

        launch.imported()
        return run_launched(launch, job_file, base, zygote)


def _is_sandboxed(job_file: JobFile) -> bool:
    return any(plugin.isolation == "sandbox" for plugin in job_file.job.plugins)
