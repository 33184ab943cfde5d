"""One run: wire job, plugins, engine and sandbox together, and leave a folder.

Everything that can be wrong with a job is told before any of a plugin's code runs or a
file is written; what the run leaves is written also when it fails.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from ..discovery.provenance import Provenance, provenance_of
from ..engine.buffers import unsaved_buffers
from ..engine.checkpoints.checkpoint import NetworkState
from ..engine.checkpoints.fingerprint_diff import CONTENTS
from ..engine.extra_state import copy_extra_state
from ..engine.recovery.resume import check_resumable
from ..engine.stream_place import stream_places
from ..engine.train import Result, train
from ..hooks.errors import (
    CheckpointError,
    CutOffError,
    DataError,
    IncompatiblePluginError,
    JobError,
    PluginError,
    PluginLoadError,
    RunAbortedError,
    SandboxUnavailableError,
)
from ..isolation.host.processes.zygote_process import EarlyZygote
from ..job.problems import Problem
from ..plugins.manager import Hooks
from ..plugins.number_words import counted
from ..plugins.observer import Observer
from ..plugins.stop_request import StopRequest
from ..report.page import write_report
from ..tracking import run_folder
from ..tracking.describe_model import describe_model
from ..tracking.fanout import Fanout
from ..tracking.folder_lock import hold_lock
from ..tracking.metrics_csv import METRICS_CSV, write_metrics_csv
from ..tracking.metrics_log import BOARD, REPORTS, SAMPLES, MetricsLog
from ..tracking.model_files import write_model_files
from ..tracking.model_record import NAME as MODEL_RECORD
from ..tracking.model_record import ModelChoice, ModelRecord, read_weights_told
from ..tracking.prediction_log import PredictionLog
from ..tracking.predictions import MISTAKES, TEST_PREDICTIONS
from ..tracking.provenance_record import change_words, held, read_beginning
from ..tracking.run_history import RunHistory, read_earlier
from ..tracking.run_record import RunRecord, read_accepted, read_averaged_metrics
from ..tracking.tensorboard import LEFT_OUT, is_installed
from .given_objects import told_of
from .grant_permissions import write_reaches
from .job_fingerprint import accepting
from .load_plugins import Planned, load, refusal
from .plugin_sandbox import open_sandbox, starter
from .prepare import Prepared
from .tree_fit import check_tree_fit

_UNLOCKED = "nothing keeps a second process from writing there too, so start none"
_NO_LOCK = (
    f"there is no lock beside the job, so {run_folder.PLUGIN_LOCK} in the run's folder was not compared with "
    "what is installed"
)
#: All that a run writes into its folder.
_WRITTEN = (
    run_folder.JOB,
    run_folder.PLUGIN_LOCK,
    run_folder.RECORD,
    run_folder.REPORT,
    run_folder.CHECKPOINTS,
    MODEL_RECORD,
    run_folder.MADE_HERE,
    run_folder.METRICS,
    METRICS_CSV,
    run_folder.EVENTS,
    REPORTS,
    SAMPLES,
    MISTAKES,
    TEST_PREDICTIONS,
    BOARD,
)
#: What ends a run without a word of its own in the folder, if it comes before the first step is done.
_NOTHING_DONE = (
    KeyboardInterrupt,
    CutOffError,
    DataError,
    IncompatiblePluginError,
    JobError,
    PluginError,
    SandboxUnavailableError,
)
#: What a page can fail with: it is made of numbers and names that nobody vouches for.
_REPORT_FAULTS = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run left.

    Attributes:
        folder: The run's folder, absolute.
        result: How it ended.
        report: The HTML report.
    """

    folder: Path
    result: Result
    report: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a job is run.

    Attributes:
        resume: Go on from the latest checkpoint in the folder.
        accept: Keys of which the job may differ from that checkpoint.
        observers: Told what happens.
        stop: Looked at between steps, and between the batches of an evaluation; once it is made the run
            checkpoints and ends. Once it is over, what a plugin has in hand is cut off; where it never is, a
            plugin may take its whole deadline.
        report: Whether to make the HTML report.
        zygote: For the sandbox, if there is to be one.
    """

    resume: bool = False
    accept: Collection[str] = ()
    observers: Sequence[Observer] = ()
    stop: StopRequest = field(default_factory=StopRequest)
    report: bool = True
    zygote: EarlyZygote | None = None


def execute(prepared: Prepared, folder: Path, options: RunOptions | None = None) -> RunOutcome:
    """Train, and leave ``folder``: job, record, metrics, events, checkpoints, report.

    Args:
        prepared: The job.
        folder: Made if it is not there; holds a run already if one is to be resumed.
        options: How to run it.

    Raises:
        RingfenceError: The run could not be started, or a fault ended it.
        CutOffError: A new run was stopped before its first step was done, and has left nothing; or ``stop``
            was over before a resumed one went on, and its folder is as it was.
    """
    options = options or RunOptions()
    _keep_out(prepared, folder)
    flag = "--resume" if options.resume else "--out"
    made = not folder.exists()
    run_folder.claim(folder, flag)
    with hold_lock(folder, flag) as locked:
        if not options.resume:
            # Another process may have begun in it since it was chosen.
            run_folder.check_new(folder)
        else:
            run_folder.check_plain(folder)
        # The user's code may change the working folder at any time.
        folder = folder.absolute()
        record, told = _record(prepared, folder, resume=options.resume)
        if not options.resume:
            # A run that is resumed keeps its record until its checkpoint is known to fit the job.
            record.open()
        if not is_installed():
            told = (*told, LEFT_OUT)
        if options.resume and prepared.lock is None and (folder / run_folder.PLUGIN_LOCK).exists():
            told = (*told, _NO_LOCK)
        if not locked:
            told = (*told, f"{folder} is on a file system without locks: {_UNLOCKED}")
        return _recorded(prepared, options, record, told, made=made)


def _record(prepared: Prepared, folder: Path, *, resume: bool) -> tuple[RunRecord, Sequence[str]]:
    """Return the run's record, which counts on from an earlier one, and what to tell of that."""
    earlier, told = read_earlier(folder) if resume else (RunHistory(), ())
    job = prepared.job_file.job
    return RunRecord(
        folder,
        job.based(prepared.base).to_yaml(),
        prepared.base,
        job.seed,
        str(prepared.setup.device),
        model=_model_record(prepared, folder, resume=resume),
        preprocessing=prepared.setup.data.preprocessing,
        data_notes=prepared.setup.data.notes,
        judged_by=prepared.setup.data.judged_by,
        start=prepared.start,
        reduction=None if prepared.reduction is None else prepared.reduction.to_dict(),
        objects=prepared.objects,
        earlier=earlier,
        accepted=read_accepted(folder) if resume else [],
        plugin_lock="" if prepared.lock is None else prepared.lock.lock.encode(),
        began_with=read_beginning(folder) if resume else {},
        averaged_metrics=read_averaged_metrics(folder) if resume else {},
        resumed=earlier.resumed + resume,
    ), (*told, *told_of(prepared.objects))


def _prediction_log(prepared: Prepared, folder: Path) -> list[Observer]:
    """Return what keeps predictions, where each sample has one class, or numbers, to compare with."""
    train, loss = prepared.setup.data.train, prepared.setup.config.loss
    in_classes = train.num_classes is not None and not train.at_positions
    has_one = isinstance(train.targets, Tensor) and (in_classes or train.targets.dtype == torch.float32)
    if not has_one or (loss.takes_any and prepared.setup.tried.outputs):
        return []
    return [PredictionLog(folder, train.class_names, loss.per_sample)]


def _model_record(prepared: Prepared, folder: Path, *, resume: bool) -> ModelRecord:
    """Return what ``model.json`` says; a resumed run's weights are those of its last end until the next."""
    job = prepared.job_file.job
    choice = ModelChoice(job.model.name, job.model.options, job.seed)
    setup = prepared.setup
    described = describe_model(
        choice,
        setup.data,
        prepared.fingerprint.values[CONTENTS],
        classes_last=setup.objective.has_classes_last,
    )
    return msgspec.structs.replace(described, weights=read_weights_told(folder) if resume else {})


def _recorded(
    prepared: Prepared, options: RunOptions, record: RunRecord, told: Sequence[str], *, made: bool
) -> RunOutcome:
    """Train, and have ``record`` and the folder say what became of it, however it ends."""
    folder, observers, data = record.folder, options.observers, prepared.setup.data
    with closing(MetricsLog(folder, class_names=data.train.class_names, resumed=options.resume)) as log:
        keeper = Fanout(log, [record, *_prediction_log(prepared, folder), *observers])
        try:
            for sentence in told:
                keeper.event(sentence)
            _show(data.notes, observers)
            result = _train(prepared, options, record, keeper)
            if result.status == "interrupted" and not (options.resume or record.stepped):
                # To go on from its start is to start it: one way to end, whichever moment the signal met.
                raise CutOffError("the first step")
            # What is written late must be on disk, or told as lost, before the record says how the run ended.
            with keeper.loss_told():
                log.close()
            _write_model(prepared, record, result.weights_from)
        except BaseException as fault:
            if isinstance(fault, _NOTHING_DONE) and not (options.resume or record.stepped):
                # Nothing was trained: the message tells all there is, and the name stays free.
                _discard(folder, log, whole=made)
                raise
            error = _error_of(fault, record)
            record.fail(error)
            # What went wrong matters more than that the disk may be full as well.
            with contextlib.suppress(OSError, RunAbortedError):
                if record.begun:
                    log.event(f"ended: {record.error}")
            with contextlib.suppress(CheckpointError, OSError, RunAbortedError):
                if record.begun and not isinstance(error, (KeyboardInterrupt, CutOffError)):
                    _write_model(prepared, record, record.checkpoint)
            with contextlib.suppress(OSError, RunAbortedError):
                shown = options.report and not isinstance(error, (KeyboardInterrupt, CutOffError))
                _leave(record, log, observers, report=shown)
            if made and not record.begun:
                # Nothing was trained: the message tells all there is, and the name stays free.
                shutil.rmtree(folder, ignore_errors=True)
            if error is not fault:
                raise error from fault
            raise
        record.finish(result)
        if result.status == "interrupted":
            with keeper.loss_told():
                log.event(f"interrupted after {counted(result.steps, 'step')}, with a checkpoint")
        return RunOutcome(folder, result, _leave(record, log, observers, report=options.report))


def _write_model(prepared: Prepared, record: RunRecord, left: Path | None) -> None:
    """Leave the weights of a run that has a checkpoint as files of their own.

    Args:
        prepared: The job.
        record: The run's.
        left: The checkpoint whose weights the run was left with.

    Raises:
        CheckpointError: The checkpoint is damaged.
        RunAbortedError: The disk is full or cannot be written.
    """
    if left is None or record.model is None:
        return
    model, unsaved = prepared.setup.model, unsaved_buffers(prepared.setup.model)
    averages = {
        average.name: NetworkState(average.result, copy_extra_state(model))
        for average in prepared.averages
        if average.result is not None
    }
    with run_folder.explain_disk_faults(record.folder):
        write_model_files(record.folder, record.model, left, averages, unsaved=unsaved)


def _show(notes: Sequence[str], observers: Sequence[Observer]) -> None:
    """Show what is true of the data whatever becomes of the run: the record has it, and it is no event."""
    for sentence in notes:
        for observer in observers:
            observer.event(sentence)


def _discard(folder: Path, log: MetricsLog, *, whole: bool) -> None:
    """Remove what a new run has written, and its folder if it made that: the name is free again."""
    with contextlib.suppress(OSError, RunAbortedError):
        log.close()
    if whole:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in (folder / name for name in _WRITTEN):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _error_of(fault: BaseException, record: RunRecord) -> BaseException:
    """Return what a fault means: a checkpoint that cannot be written ends a run, and is no bad input."""
    if isinstance(fault, CheckpointError) and record.begun:
        flag = f"--resume {run_folder.quoted(record.folder)}"
        return RunAbortedError(f"{fault}. The checkpoints written before are whole: go on with {flag}")
    return fault


def _leave(record: RunRecord, log: MetricsLog, observers: Sequence[Observer], *, report: bool) -> Path:
    """Write record and report of a run that has begun; return the report's path."""
    if record.opened:
        record.write()
    path = record.folder / run_folder.REPORT
    if record.begun:
        try:
            write_metrics_csv(record.folder)
            if report:
                write_report(record.folder)
        except _REPORT_FAULTS as fault:
            # The run is what it is: its weights and its record are whole, and the page can be made again.
            message = (
                f"the report could not be written ({type(fault).__name__}: {fault}); "
                f"try again with: ringfence report {run_folder.quoted(record.folder)}"
            )
            for observer in observers:
                observer.event(message)
            with contextlib.suppress(OSError, RunAbortedError):
                log.event(message)
    return path


def _train(prepared: Prepared, options: RunOptions, record: RunRecord, keeper: Fanout) -> Result:
    """Start the plugins, train, and end the plugins."""
    setup = prepared.setup
    checkpoints = record.folder / run_folder.CHECKPOINTS
    fingerprint = accepting(prepared.fingerprint, options.accept, record.accepted, record.accept)
    if options.resume:
        check_resumable(checkpoints, fingerprint)
    with ExitStack() as stack:
        sandbox = open_sandbox(prepared.plugins, stack, stop=options.stop, zygote=options.zygote)
        # Imports torchmetrics, while the process that plugins are forked from imports what optimizers need.
        setup.objective.try_metric(setup.data.judging)
        # Before any of it is imported, and while that process is still at it.
        specs = [item.spec for item in prepared.plugins]
        record.provenance = prepared.provenance or provenance_of(specs)
        if told := change_words(record.began_with, held(record.provenance)):
            keeper.event(told)
        hooks = Hooks(setup.config.seed, keeper)
        stack.callback(hooks.close)
        # Before that: what is told of plugins at their end must not change what became of the run.
        stack.callback(keeper.training_over)
        held_to = _digested(prepared, record.provenance)
        load(held_to, hooks, starter(sandbox), keeper.event)
        check_tree_fit(hooks.plugins, prepared.setup)
        record.faults = hooks.failures.log
        keeper.plugins_started(hooks.plugins, hooks.order())
        try:
            return train(
                setup,
                hooks,
                observer=keeper,
                checkpoints=checkpoints,
                resume=options.resume,
                fingerprint=fingerprint,
                allocate=None if sandbox is None else sandbox.allocate,
                stop=options.stop,
                drivers=[*prepared.averages, *stream_places(setup), *prepared.drivers],
                describe=None if record.model is None else record.model.encode,
            )
        except PluginLoadError as error:
            refused = refusal(prepared.plugins, error)
            if refused is None:
                raise
            raise refused from error


def _digested(prepared: Prepared, provenance: Provenance) -> list[Planned]:
    """Return the plugins with what each is made of, which its sandbox holds what it imports to."""
    is_whole = prepared.lock is not None
    return [
        replace(
            item, spec=replace(item.spec, digested=provenance.files_of(item.spec.name, is_whole=is_whole))
        )
        for item in prepared.plugins
    ]


def _keep_out(prepared: Prepared, folder: Path) -> None:
    """Refuse a plugin that could change the run's own folder.

    Raises:
        JobError: The job grants it.
    """
    problems = []
    for item in prepared.plugins:
        granted = write_reaches(item.spec.permissions, folder)
        if granted is not None:
            message = (
                f"{granted} may not be written by a plugin: it is, holds or lies in the run's own folder, "
                f"{folder}; choose another with --out"
            )
            problems.append(Problem(("plugins", item.position, "write"), message))
    if problems:
        raise prepared.job_file.error(problems)
