"""What ``ringfence report`` does: write the page of a run anew."""

from __future__ import annotations

from pathlib import Path

from ..hooks.errors import JobError
from ..tracking import run_folder
from .signals import to_stderr


def rewrite_report(folder: Path) -> Path:
    """Write ``report.html`` and ``metrics.csv`` of a run anew and return the page's path.

    Raises:
        JobError: ``folder`` holds no run, or one of a later series.
    """
    run_folder.check_run(folder)
    from ..report.page import write_report  # noqa: PLC0415 - imports matplotlib
    from ..tracking.metrics_csv import write_metrics_csv  # noqa: PLC0415 - imports torch

    try:
        write_metrics_csv(folder)
        return write_report(folder, lambda sentence: to_stderr(f"left out: {sentence}"))
    except OSError as error:
        raise JobError(f"{folder}: no page can be written there: {run_folder.explain_disk(error)}") from error
