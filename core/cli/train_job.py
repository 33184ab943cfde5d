"""``ringfence train``: what the user asks for is read and checked; what runs a job is imported only then."""

from __future__ import annotations

import gc
import sys

from ..isolation.host.processes.zygote_process import EarlyZygote
from .signals import StopFlag
from .train_request import TrainRequest, nothing_to_do, read_request


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
    job_file, base = read_request(request)
    stop.within_s = job_file.job.stop_within_s
    sandboxed = any(plugin.isolation == "sandbox" for plugin in job_file.job.plugins)
    # It and this process import torch side by side; for a job that cannot be read neither does.
    with EarlyZygote(needed=sandboxed) as zygote:
        from .run_job import run_job  # noqa: PLC0415 - see above

        _collect_garbage()
        return run_job(request, job_file, base, stop, zygote)


def _collect_garbage() -> None:
    """Begin to look for garbage, but never among what was imported: that stays.

    The command does not do so as it starts; whoever calls this in a process of another kind may.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
