"""``run.json``: what a run was, how it ended, and what each plugin cost.

The schema is documented in ``docs/run-folder.md``.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch

from ..discovery.provenance import Provenance
from ..engine.checkpoints.fingerprint_diff import Difference
from ..engine.preprocessing import Preprocessing
from ..engine.train import Result
from ..hooks.errors import RunAbortedError
from ..hooks.types import StepInfo
from ..plugins.failure_policy import FaultLog
from ..plugins.interface import Plugin
from ..plugins.observer import Observer, RunInfo
from ..version import __version__
from .model_record import ModelRecord, write_model_record
from .own_runs import note_own_run
from .preprocessing_file import write_preprocessing
from .provenance_record import Held, changes, distribution_records, held, of_plugin
from .run_folder import (
    JOB,
    PLUGIN_LOCK,
    RECORD,
    RECORD_SCHEMA,
    explain_disk_faults,
    keep_old_job,
    read_record,
    write_json,
    write_text,
)
from .run_history import EarlierPlugin, RunHistory

#: Errors without a message of their own.
_UNTOLD: dict[type, str] = {KeyboardInterrupt: "ended at once, on the user's second request"}


@dataclass
class RunRecord(Observer):
    """The record of one run, as ``run.json`` holds it.

    Written at the start, when training begins, with each checkpoint and each fault, and at the end: what
    a killed run had counted is lost from its last checkpoint on, as its steps are.

    Attributes:
        folder: The run's.
        job: The resolved job, as YAML.
        base: Folder that relative paths of the job start from.
        seed: The job's.
        device: Where the loop runs.
        model: What ``model.json`` says; None writes none.
        preprocessing: How the reader made samples of files, if that is to be kept.
        data_notes: What there is to know of the data, as sentences.
        judged_by: Part of the data that the run is judged by: ``validation`` or ``test``.
        objects: Key of the job to its name for the object that a program gave in its place.
        reduction: How the run is cut down, as JSON data; None if it is a whole one.
        start: What is known of data, model and plan before the first step, as JSON data.
        status: ``running``, ``completed``, ``stopped_early``, ``interrupted``, ``aborted`` or ``failed``.
        error: Why it was aborted or failed.
        result: What the engine returned, if it did.
        plugins: In the job's order.
        order: Hook to plugins, in firing order.
        faults: Those of this process.
        earlier: What the processes before this one have counted.
        resumed: How often the run was resumed, this time included.
        opened: Whether the files of this run are in the folder.
        begun: Whether the loop was reached.
        stepped: Whether this process has finished a step.
        checkpoint: The last one written, as far as this process was told.
        accepted: What the user has let differ from a checkpoint, with the checkpoint's ``step``; of
            earlier resumes too.
        plugin_lock: What they may be made of, as text; ``""`` if there is none.
        provenance: What they are made of, once it is known.
        began_with: The distributions that an earlier process began the run with.
        averaged_metrics: Average of the weights to part of the data to what it was last measured at there.
    """

    folder: Path
    job: str
    base: Path
    seed: int
    device: str
    model: ModelRecord | None = None
    preprocessing: Preprocessing | None = None
    data_notes: Sequence[str] = ()
    judged_by: str = "test"
    reduction: Mapping[str, Any] | None = None
    start: Mapping[str, Any] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)
    status: str = "running"
    error: str | None = None
    result: Result | None = None
    plugins: Sequence[Plugin] = ()
    order: Mapping[str, Sequence[str]] = field(default_factory=dict)
    faults: FaultLog = field(default_factory=FaultLog)
    earlier: RunHistory = field(default_factory=RunHistory)
    accepted: list[dict[str, Any]] = field(default_factory=list)
    plugin_lock: str = ""
    provenance: Provenance | None = None
    began_with: Mapping[str, Held] = field(default_factory=dict)
    averaged_metrics: dict[str, dict[str, Mapping[str, float]]] = field(default_factory=dict)
    resumed: int = 0
    opened: bool = False
    begun: bool = False
    stepped: bool = False
    checkpoint: Path | None = None
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _trained_s: float = 0.0
    _training_began: float | None = None
    _faults_written: int = 0

    def plugins_started(self, plugins: Sequence[Plugin], order: Mapping[str, Sequence[str]]) -> None:
        """Take the plugins that run."""
        self.plugins, self.order = plugins, order

    def open(self) -> None:
        """Write the job, what the model is, and the first record.

        Raises:
            RunAbortedError: The disk is full or cannot be written.
        """
        with explain_disk_faults(self.folder):
            write_text(self.folder / JOB, self.job)
            if self.plugin_lock:
                write_text(self.folder / PLUGIN_LOCK, self.plugin_lock)
            if self.model is not None:
                write_model_record(self.folder, self.model)
            if self.preprocessing is not None:
                write_preprocessing(self.folder, self.preprocessing)
            note_own_run(self.folder, self.job, self.model)
        self.opened = True
        self.write()

    def write(self) -> None:
        """Replace ``run.json``.

        Raises:
            RunAbortedError: The disk is full or cannot be written.
        """
        self._faults_written = self.faults.count
        with explain_disk_faults(self.folder):
            write_json(self.folder / RECORD, self.to_dict())

    def started(self, info: RunInfo) -> None:  # noqa: ARG002 - an observer's signature
        """Note that training begins: the job fits the folder's checkpoints."""
        self.begun = True
        self._training_began = time.perf_counter()
        self.open()

    def step(self, step: StepInfo, loss: float | None, samples: int) -> None:  # noqa: ARG002 - an observer's signature
        """Note the time."""
        self.stepped = True
        self._look_at_clock()

    def evaluated_beside(
        self,
        step: int,  # noqa: ARG002 - an observer's signature
        epoch: int,  # noqa: ARG002 - as above
        metrics: Mapping[str, float],
        *,
        part: str,
        name: str,
    ) -> None:
        """Note what an average of the weights is worth."""
        self.averaged_metrics.setdefault(name, {})[part] = dict(metrics)

    def checkpointed(self, step: int, path: Path) -> None:  # noqa: ARG002 - an observer's signature
        """Note the last checkpoint: a run that is aborted or killed has one too."""
        self.checkpoint = path
        self._look_at_clock()
        self.write()

    def event(self, message: str) -> None:  # noqa: ARG002 - an observer's signature
        """Write it down if a plugin has failed: the next checkpoint may never come."""
        if self.begun and self.faults.count != self._faults_written:
            self._look_at_clock()
            self.write()

    def accept(self, step: int, differences: Sequence[Difference]) -> None:
        """Note what the user lets differ from the checkpoint of ``step``; the job before stays beside.

        Raises:
            RunAbortedError: The disk is full or cannot be written.
        """
        with explain_disk_faults(self.folder):
            keep_old_job(self.folder, step, self.job)
        entries = [{"step": step, **difference.to_dict()} for difference in differences]
        self.accepted += [entry for entry in entries if entry not in self.accepted]

    def finish(self, result: Result) -> None:
        """Note how the run ended."""
        self.result, self.status = result, result.status

    def fail(self, error: BaseException) -> None:
        """Note what ended the run."""
        self.status = "aborted" if isinstance(error, RunAbortedError) else "failed"
        self.error = str(error) or _UNTOLD.get(type(error), type(error).__name__)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        result = self.result
        now, system = datetime.now(UTC), os.uname()
        return {
            "schema": RECORD_SCHEMA,
            "status": self.status,
            "error": self.error,
            "final_metrics": {} if result is None else result.final_metrics,
            "final_metrics_step": None if result is None else result.final_metrics_step,
            "judged_by": self.judged_by,
            "test_metrics": {} if result is None else result.test_metrics,
            "averaged_metrics": self.averaged_metrics,
            "best_metric": None if result is None else result.best_metric,
            "best_step": None if result is None else result.best_step,
            "steps": None if result is None else result.steps,
            "epochs": None if result is None else result.epochs,
            "weights_sha256": None if result is None else result.weights_sha256,
            "checkpoint": self._relative(self.checkpoint if result is None else result.checkpoint),
            "weights_from": None if result is None else self._relative(result.weights_from),
            "seconds": self._seconds(),
            "steps_per_second": None if result is None else round(result.steps_per_second, 3),
            "started": self.earlier.started or self.began.isoformat(timespec="seconds"),
            "resumed": self.resumed,
            "written": now.isoformat(timespec="seconds"),
            "seed": self.seed,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "base_folder": str(self.base),
            "data_notes": list(self.data_notes),
            "objects": dict(self.objects),
            "reduction": self.reduction,
            "start": dict(self.start),
            "accepted": self.accepted,
            "ringfence_version": __version__,
            "python_version": platform.python_version(),
            "torch_version": torch.__version__,
            # Not platform.platform(): that starts whatever is called uname on the path.
            "platform": f"{system.sysname}-{system.release}-{system.machine}",
            "hooks": {hook: list(names) for hook, names in self.order.items()},
            "plugins": [
                plugin_record(plugin, self.earlier.plugin(plugin.spec.name), self.provenance)
                for plugin in self.plugins
            ],
            **self._distributions(),
            **self.earlier.faults_with(self.faults),
        }

    def _distributions(self) -> dict[str, Any]:
        if self.provenance is None:
            return {"distributions": [], "distributions_changed": []}
        return {
            "distributions": distribution_records(self.provenance),
            "distributions_changed": changes(self.began_with, held(self.provenance)),
        }

    def _look_at_clock(self) -> None:
        if self._training_began is not None:
            self._trained_s = time.perf_counter() - self._training_began

    def _seconds(self) -> float | None:
        """Return the time of training of all processes, None before the first has begun with it."""
        if self._training_began is None:
            return self.earlier.seconds
        own = self._trained_s if self.result is None else self.result.seconds
        return round((self.earlier.seconds or 0.0) + own, 3)

    def _relative(self, path: Path | None) -> str | None:
        """Return a path inside the folder, so that the folder may be moved."""
        if path is None:
            return None
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)


def read_accepted(folder: Path) -> list[dict[str, Any]]:
    """Return what earlier resumes of the run in ``folder`` accepted; nothing where the record cannot tell."""
    entries = read_record(folder).get("accepted")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def read_averaged_metrics(folder: Path) -> dict[str, dict[str, Mapping[str, float]]]:
    """Return what the record of the run in ``folder`` tells of averages; nothing where it cannot tell."""
    try:
        return msgspec.convert(
            read_record(folder).get("averaged_metrics", {}), dict[str, dict[str, Mapping[str, float]]]
        )
    except msgspec.ValidationError:
        return {}


def plugin_record(
    plugin: Plugin, earlier: EarlierPlugin, provenance: Provenance | None = None
) -> dict[str, Any]:
    """Return one plugin's entry, counted on from ``earlier``."""
    spec, usage = plugin.spec, plugin.usage
    return {
        "name": spec.name,
        "distribution": spec.distribution,
        "version": spec.version,
        **dict(of_plugin(provenance, spec.name)),
        "role": spec.role,
        "isolation": spec.isolation,
        "layers": list(usage.layers),
        "permissions": spec.permissions.to_dict(),
        "workers": spec.workers,
        "budget_bytes": usage.budget_bytes,
        "state": usage.state,
        **earlier.counted_on(usage),
    }
