"""One run: wire job, plugins, engine and sandbox together, and leave a folder.

Everything that can be wrong with a job is told before a process is started or a
file is written; what the run leaves is written also when it fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import folder as run_folder
from .build import Ingredients, build, check_names
from .engine.config import resolve_device
from .engine.train import Result, train
from .fanout import Fanout, Watcher
from .hooks.errors import CheckpointError, IncompatiblePluginError, JobError, RingfenceError, RunAbortedError
from .hooks.manager import Hooks
from .hooks.plugin import Plugin, PluginSpec
from .isolation.pool import Sandbox
from .job import Job, JobFile
from .loader import Planned, load, plan
from .record import RunRecord
from .report import RunRecorder, write_report

#: What a resumed run must agree with. How long it trains and how it is judged (``steps``, ``epochs``,
#: ``early_stopping``, ``eval_every``) may be changed on purpose, so that a finished run can be made longer;
#: a schedule then follows the new length. The rest is about cost, such as workers, threads and snapshots.
_COURSE = (
    "model",
    "data",
    "batch_size",
    "grad_accum_steps",
    "loss",
    "metric",
    "schedule",
    "seed",
)

#: What a page can fail with: it is made of numbers and names that nobody vouches for.
_REPORT_FAULTS = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run left.

    Attributes:
        folder: The run's folder.
        result: How it ended.
        report: The HTML report.
    """

    folder: Path
    result: Result
    report: Path


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job whose every fault would have been told.

    Attributes:
        job_file: The job.
        base: Folder that its relative paths start from.
        plugins: Found and checked, not started.
        ingredients: Model, data and configuration.
    """

    job_file: JobFile
    base: Path
    plugins: Sequence[Planned]
    ingredients: Ingredients


def prepare(job_file: JobFile, base: Path) -> Prepared:
    """Check a job against the installed plugins, the models and the data; nothing is started.

    Args:
        job_file: The job.
        base: Folder that its relative paths start from.

    Raises:
        JobError: With all faults that can be told without reading data.
        IncompatiblePluginError: A plugin does not fit this core.
        DataError: The data cannot be read, or does not fit.
    """
    planned = _checked(job_file)
    torch.set_num_threads(job_file.job.threads or len(os.sched_getaffinity(0)))
    return Prepared(job_file, base, planned, build(job_file, base))


def run(
    prepared: Prepared,
    folder: Path,
    *,
    resume: bool = False,
    watchers: Sequence[Watcher] = (),
    stop: Callable[[], bool] = lambda: False,
) -> RunOutcome:
    """Train, and leave ``folder``: job, record, metrics, events, checkpoints, report.

    Args:
        prepared: The job.
        folder: Made if it is not there; holds a run already if ``resume``.
        resume: Go on from the latest checkpoint in ``folder``.
        watchers: Told what happens.
        stop: Asked between steps; once it says True the run checkpoints and ends.

    Raises:
        RingfenceError: The run could not be started, or a fault ended it.
    """
    made = not folder.exists()
    run_folder.claim(folder, "--resume" if resume else "--out")
    job = prepared.job_file.job
    record = RunRecord(folder, job.to_yaml(), prepared.base, job.seed, str(resolve_device(job.device)))
    if not resume:
        # A run that is resumed keeps its record until its checkpoint is known to fit the job.
        record.open()
    names = prepared.ingredients.data.train.class_names
    with closing(RunRecorder(folder, class_names=names, resumed=resume)) as recorder:
        keeper = Fanout(recorder, [record, *watchers])
        try:
            result = _train(prepared, record, keeper, [recorder, *watchers], resume=resume, stop=stop)
            # What is written late must be on disk before the record says how the run ended.
            recorder.close()
        except BaseException as fault:
            error = _ended(fault, record)
            record.fail(error)
            # What went wrong matters more than that the disk may be full as well.
            with contextlib.suppress(OSError, RunAbortedError):
                if record.begun:
                    recorder.event(f"ended: {record.error}")
            with contextlib.suppress(OSError, RunAbortedError):
                _leave(record, recorder, watchers, report=not isinstance(error, KeyboardInterrupt))
            if made and not record.begun:
                # Nothing was trained: the message tells all there is, and the name stays free.
                shutil.rmtree(folder, ignore_errors=True)
            if error is not fault:
                raise error from fault
            raise
        record.finish(result)
        if result.status == "interrupted":
            recorder.event(f"interrupted after {result.steps} steps, with a checkpoint")
        return RunOutcome(folder, result, _leave(record, recorder, watchers))


def _ended(fault: BaseException, record: RunRecord) -> BaseException:
    """Return what a fault means: a checkpoint that cannot be written ends a run, and is no bad input."""
    if isinstance(fault, CheckpointError) and record.begun:
        return RunAbortedError(
            f"{fault}. The checkpoints written before are whole: go on with --resume {record.folder}"
        )
    return fault


def _leave(
    record: RunRecord, recorder: RunRecorder, watchers: Sequence[Watcher], *, report: bool = True
) -> Path:
    """Write record and report of a run that has begun; return the report's path."""
    if record.opened:
        record.write()
    path = record.folder / run_folder.REPORT
    if record.begun and report:
        try:
            write_report(record.folder)
        except _REPORT_FAULTS as fault:
            # The run is what it is: its weights and its record are whole, and the page can be made again.
            message = (
                f"the report could not be written ({type(fault).__name__}: {fault}); "
                f"try again with: ringfence report {record.folder}"
            )
            for watcher in watchers:
                watcher.event(message)
            with contextlib.suppress(OSError, RunAbortedError):
                recorder.event(message)
    return path


def _train(
    prepared: Prepared,
    record: RunRecord,
    keeper: Fanout,
    watchers: Sequence[Watcher],
    *,
    resume: bool,
    stop: Callable[[], bool],
) -> Result:
    """Start the plugins, train, and end the plugins."""
    ingredients = prepared.ingredients
    with ExitStack() as stack:
        sandbox = _sandbox(prepared.plugins, stack)
        hooks = Hooks(prepared.job_file.job.seed, keeper)
        stack.callback(hooks.close)
        load(prepared.plugins, hooks, _starter(sandbox), keeper.event)
        record.plugins, record.order = hooks.plugins, hooks.order()
        for watcher in watchers:
            watcher.plugins_started(hooks.plugins, record.order)
        return train(
            ingredients.model,
            ingredients.data,
            hooks,
            ingredients.config,
            recorder=keeper,
            checkpoints=record.folder / run_folder.CHECKPOINTS,
            resume=resume,
            fingerprint=fingerprint(prepared.job_file.job),
            allocate=None if sandbox is None else sandbox.allocate,
            stop=stop,
        )


def fingerprint(job: Job) -> Mapping[str, Any]:
    """Return what decides a run's course, as JSON data: a resumed run must agree with it."""
    whole = job.model_dump(mode="json")
    course = {key: whole[key] for key in _COURSE}
    return course | {"plugins": [{plugin.name: plugin.options} for plugin in job.plugins]}


def _checked(job_file: JobFile) -> list[Planned]:
    """Return the planned plugins, or raise one error with all that is wrong."""
    faults = []
    problems = check_names(job_file)
    if problems:
        faults.append(str(job_file.error(problems)))
    try:
        planned = plan(job_file)
    except (JobError, IncompatiblePluginError) as error:
        if not faults:
            raise
        faults.append(str(error))
    if faults:
        raise JobError("\n".join(faults))
    return planned


def _sandbox(planned: Sequence[Planned], stack: ExitStack) -> Sandbox | None:
    """Start a sandbox if a plugin needs one."""
    if all(item.spec.isolation == "trusted" for item in planned):
        return None
    return stack.enter_context(Sandbox())


def _starter(sandbox: Sandbox | None) -> Callable[[PluginSpec], Plugin]:
    def start(spec: PluginSpec) -> Plugin:
        if sandbox is None:
            raise RingfenceError(f"plugin '{spec.name}' is to be sandboxed, but no sandbox was started")
        return sandbox.start(spec)

    return start
