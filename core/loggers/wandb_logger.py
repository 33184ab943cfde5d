"""Numbers for Weights & Biases; offline, they are a folder that ``wandb sync`` sends when its user wants."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .faults import explained
from .follow import Numbers
from .logger import Logger

#: Before it is imported: reports of its own errors, and what it would find out about machine and code.
_QUIET = {
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
}


class WandbLogger(Logger):
    """Logs to wandb.

    Args:
        run: Name of the run.
        job: Its configuration.
        project: The project.
        place: Folder; wandb makes ``wandb/`` in it.
        online: Whether it may reach the server that its user has set up.

    Raises:
        JobError: From any method: wandb says what is wrong.
    """

    def __init__(self, run: str, job: Mapping[str, str], project: str, place: Path, *, online: bool) -> None:
        os.environ |= _QUIET
        import wandb  # noqa: PLC0415 - an extra, and only here

        self._fault: type[Exception] = wandb.errors.Error
        place.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            mode="online" if online else "offline",
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        with explained("wandb", self._fault):
            self._run: Any = wandb.init(
                project=project, name=run, config=dict(job), dir=str(place), settings=settings
            )
        self._is_online = online
        # Monitors report late: the order of calls is not that of steps.
        self._run.define_metric("*", step_metric="step")

    def log(self, numbers: Iterable[Numbers]) -> None:
        """Take numbers."""
        with explained("wandb", self._fault):
            for one in numbers:
                self._run.log({"step": one.step, **one.values})

    def _end(self, *, is_good: bool) -> None:
        with explained("wandb", self._fault):
            self._run.finish(exit_code=0 if is_good else 1)

    def where(self) -> str:
        """Return its folder or its address."""
        if self._is_online:
            return str(self._run.url)
        return f"send it with: wandb sync {Path(self._run.dir).parent}"
