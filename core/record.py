"""``run.json``: what a run was, how it ended, and what each plugin cost.

The schema is documented in ``docs/run-folder.md``.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .engine.recorder import NullRecorder, RunInfo
from .engine.train import Result
from .folder import JOB, RECORD, disk_faults_told, write_json, write_text
from .hooks.errors import RunAbortedError
from .hooks.plugin import Plugin
from .hooks.types import Report, StepInfo
from .version import __version__

SCHEMA = 1
#: Errors without a message of their own.
_UNTOLD: dict[type, str] = {KeyboardInterrupt: "ended at once, on the user's second request"}


@dataclass
class RunRecord(NullRecorder):
    """What ``run.json`` of one run holds; written at the start, when training begins, and at the end.

    Attributes:
        folder: The run's.
        job: The resolved job, as YAML.
        base: Folder that relative paths of the job start from.
        seed: The job's.
        device: Where the loop runs.
        status: ``running``, ``completed``, ``stopped_early``, ``interrupted``, ``aborted`` or ``failed``.
        error: Why it was aborted or failed.
        result: What the engine returned, if it did.
        plugins: In the job's order.
        order: Hook to plugins, in firing order.
        opened: Whether the files of this run are in the folder.
        begun: Whether the loop was reached.
        checkpoint: The last one written, as far as this process was told.
    """

    folder: Path
    job: str
    base: Path
    seed: int
    device: str
    status: str = "running"
    error: str | None = None
    result: Result | None = None
    plugins: Sequence[Plugin] = ()
    order: Mapping[str, Sequence[str]] = field(default_factory=dict)
    opened: bool = False
    begun: bool = False
    checkpoint: Path | None = None
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def open(self) -> None:
        """Write the job and the first record.

        Raises:
            RunAbortedError: The disk is full or cannot be written.
        """
        with disk_faults_told(self.folder):
            write_text(self.folder / JOB, self.job)
        self.opened = True
        self.write()

    def write(self) -> None:
        """Replace ``run.json``.

        Raises:
            RunAbortedError: The disk is full or cannot be written.
        """
        with disk_faults_told(self.folder):
            write_json(self.folder / RECORD, self.to_dict())

    def started(self, info: RunInfo) -> None:  # noqa: ARG002 - the recorder's signature
        """Note that training begins: the job fits the folder's checkpoints."""
        self.begun = True
        self.open()

    def checkpointed(self, step: int, path: Path) -> None:  # noqa: ARG002 - the recorder's signature
        """Note the last checkpoint: a run that is aborted has one too."""
        self.checkpoint = path

    def finish(self, result: Result) -> None:
        """Note how the run ended."""
        self.result, self.status = result, result.status

    def fail(self, error: BaseException) -> None:
        """Note what ended the run."""
        self.status = "aborted" if isinstance(error, RunAbortedError) else "failed"
        self.error = str(error) or _UNTOLD.get(type(error), type(error).__name__)

    def reported(
        self, plugin: str, step: StepInfo, scalars: Mapping[str, float], report: Report | None
    ) -> None:
        """Take no notice: reports are for the metrics file."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        result = self.result
        now = datetime.now(UTC)
        return {
            "schema": SCHEMA,
            "status": self.status,
            "error": self.error,
            "final_metrics": {} if result is None else result.final_metrics,
            "best_metric": None if result is None else result.best_metric,
            "best_step": None if result is None else result.best_step,
            "steps": None if result is None else result.steps,
            "epochs": None if result is None else result.epochs,
            "weights_sha256": None if result is None else result.weights_sha256,
            "checkpoint": self._relative(self.checkpoint if result is None else result.checkpoint),
            "seconds": None if result is None else round(result.seconds, 3),
            "steps_per_second": None if result is None else round(result.steps_per_second, 3),
            "started": self.began.isoformat(timespec="seconds"),
            "written": now.isoformat(timespec="seconds"),
            "seed": self.seed,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "base_folder": str(self.base),
            "ringfence_version": __version__,
            "python_version": platform.python_version(),
            "torch_version": torch.__version__,
            "platform": platform.platform(),
            "hooks": {hook: list(names) for hook, names in self.order.items()},
            "plugins": [plugin_record(plugin) for plugin in self.plugins],
        }

    def _relative(self, path: Path | None) -> str | None:
        """Return a path inside the folder, so that the folder may be moved."""
        if path is None:
            return None
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)


def plugin_record(plugin: Plugin) -> dict[str, Any]:
    """Return one plugin's entry."""
    spec, usage = plugin.spec, plugin.usage
    return {
        "name": spec.name,
        "distribution": spec.distribution,
        "version": spec.version,
        "role": spec.role,
        "isolation": spec.isolation,
        "layers": list(usage.layers),
        "workers": spec.workers,
        "budget_bytes": usage.budget_bytes,
        "peak_bytes": usage.peak_bytes,
        "calls": usage.calls,
        "seconds": round(usage.seconds, 6),
        "restarts": usage.restarts,
        "skipped": usage.skipped,
        "state": usage.state,
    }
