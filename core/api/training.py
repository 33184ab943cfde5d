"""Train from a Python program: a script, a notebook, a test."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..discovery.catalog import catalog
from ..discovery.used_process import refuse_used_process
from ..hooks.errors import CheckpointError, CutOffError, DataError, JobError, RingfenceError, RunAbortedError
from ..imports.import_guard import guard
from ..job.job_file import Job, JobFile
from .finished_run import Run, open_run
from .interruption import HeldSignals, to_stderr
from .launch import Launch
from .objects_in_job import take_objects
from .process_state import TorchState, given_model, own_environment
from .start_run import start_run
from .train_request import TrainRequest, nothing_to_do

if TYPE_CHECKING:
    from ..plugins.observer import Observer
    from ..run.execute import RunOutcome
    from .run_display import View

#: What messages say of flags, as a program writes it.
_AS_PYTHON = (
    (
        re.compile(r"ringfence train --resume (\S+) --set (\w+)=(\S+)"),
        r"ringfence.train(out='\1', resume=True, \2=\3)",
    ),
    (re.compile(r"ringfence train --resume (\S+)"), r"ringfence.train(out='\1', resume=True)"),
    (re.compile(r"--resume ([^\s,;:]+)"), r"resume=True, out=\1"),
    (re.compile(r"--set (\w+)=([^\s,;]+)"), r"\1=\2"),
    (re.compile(r"--accept ([^\s,;:]+)"), r"accept=['\1']"),
    (re.compile(r"--fast-dev-run\b"), "fast_dev_run=True"),
    (re.compile(r"--overfit (-?\d+)"), r"overfit=\1"),
    (re.compile(r"--overfit\b"), "overfit"),
    (re.compile(r"--resume\b"), "resume=True"),
    (re.compile(r"--out\b"), "out"),
    (re.compile(r"--trust-code\b"), "trust_code=True"),
)
#: Errors whose text is all that they hold.
_PLAIN_ERRORS = (CheckpointError, DataError, JobError, RunAbortedError)


def train(
    job: Job | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    accept: Sequence[str] = (),
    trust_code: bool = False,
    observers: Sequence[Observer] = (),
    progress: bool = True,
    fast_dev_run: bool = False,
    overfit: int | None = None,
    macs: bool = False,
    **keys: Any,
) -> Run:
    """Train the model that a job describes, as ``ringfence train`` does, and return the run.

    Args:
        job: A job file, a ``Job``, or a mapping with the keys of a job file; none if ``keys`` say it all.
        out: Folder of the run; by default ``runs/JOB-1``, ``runs/JOB-2``, …
        resume: Go on with the run in ``out``; without a job, with the one that it ran.
        accept: Keys of which the job may differ from the run's checkpoint, as ``--accept``.
        trust_code: Import, run and open whatever the folder of a run names that goes on or is repeated; your
            own runs need no word of yours.
        observers: Told what happens, in the thread that trains.
        progress: Show how it goes: bars on a terminal, lines in a notebook or a log.
        fast_dev_run: Try the job out with one step of everything; the run's folder says so, and cannot be
            resumed.
        overfit: Try the model out: train on so many samples, and evaluate on the same; likewise.
        macs: Count the multiplications of the model, and tell at the start.
        keys: Keys of the job, ``model="cnn"``, ``epochs=3``, ``plugins=[{"optim": {…}}]``, each in place of
            what ``job`` says. Relative paths start from the folder of the job file, or the current one.
            ``model``, ``data``, ``loss`` and ``metric`` may be objects: a module, which then is the one that
            is trained, or a function that returns one; arrays, a data set of torch, ``Data``, or a function;
            a function of outputs and targets; a metric of torchmetrics; so may the names in a list of losses
            and in ``metrics``, and ``sample_weights``: a function, or a tensor. The run says what it cannot
            do then.

    Returns:
        The finished run.

    Raises:
        JobError: The job is wrong; the message lists every fault, each by its key.
        IncompatiblePluginError: A plugin does not fit this core.
        RingfenceError: What else ends a run, as in the command line: its folder says how it goes on.
        KeyboardInterrupt: Ctrl-C, once the run has its checkpoint; ``resume=True`` goes on from there.
    """
    folder = None if out is None else Path(out)
    if resume and folder is None:
        raise JobError("resume=True: say with out=… in which folder the run is that goes on")
    keys, objects = take_objects(keys)
    if isinstance(job, Mapping):
        job, more = take_objects(job)
        objects = {**{key: value for key, value in more.items() if key not in keys}, **objects}
    try:
        request = TrainRequest(
            path=Path(job) if isinstance(job, str | os.PathLike) else None,
            job=None if isinstance(job, str | os.PathLike) else job,
            keys=keys,
            out=None if resume else folder,
            resume=folder if resume else None,
            accept=tuple(accept),
            trust_code=trust_code,
            quiet=not progress,
            observers=tuple(observers),
            objects=objects,
            fast_dev_run=fast_dev_run,
            overfit=overfit,
            macs=macs,
        )
        with own_environment(), given_model(objects.get("model")):
            return _train(request)
    except _PLAIN_ERRORS as error:
        error.args = (as_python(str(error)), *error.args[1:])
        raise


def as_python(text: str) -> str:
    """Return a message about flags in the words of a program."""
    for pattern, words in _AS_PYTHON:
        text = pattern.sub(words, text)
    return text


def _train(request: TrainRequest) -> Run:
    say = _nobody if request.quiet else _say
    if over := nothing_to_do(request):
        assert request.resume is not None  # noqa: S101 - a new run has all to do
        say(as_python(over))
        return open_run(request.resume)
    stop, torch_state = HeldSignals(), TorchState()
    launch = Launch(
        request,
        stop,
        _nobody if request.quiet else to_stderr,
        _viewer(request),
        torch_state.keep,
        _refuse_used_process,
    )
    outcome: RunOutcome | None = None
    with ExitStack() as stack:
        stack.callback(torch_state.restore)
        stack.callback(stop.release)
        try:
            outcome = start_run(launch)
        except CutOffError:
            _tell_end(say, "interrupted before the first step", launch)
        except KeyboardInterrupt:
            if launch.is_started:
                _tell_end(say, "interrupted, at once", launch)
            raise
        except RingfenceError:
            _tell_what_is_left(say, launch)
            raise
    if outcome is not None:
        _tell_outcome(say, launch, outcome)
    stop.deliver()
    if outcome is None:
        # Whoever handles the signal has let the program go on, and there is no run to give it.
        raise KeyboardInterrupt
    return open_run(outcome.folder)


def _refuse_used_process(job_file: JobFile) -> None:
    installed = catalog()
    trusted = (plugin.name for plugin in job_file.job.plugins if plugin.isolation == "trusted")
    chosen = [installed.plugins[name].distribution for name in trusted if name in installed.plugins]
    refuse_used_process(installed, chosen)
    for distribution in chosen:
        # What it has imported before is no hazard either: that is what was chosen.
        guard().allow(distribution)


def _viewer(request: TrainRequest) -> Callable[[], tuple[View, Callable[[str], None]]]:
    def make() -> tuple[View, Callable[[str], None]]:
        from .views import beside, choose_view  # noqa: PLC0415 - imports torch, as the run has

        view = choose_view(quiet=request.quiet)
        return view, beside(view, _nobody if request.quiet else to_stderr)

    return make


def _tell_outcome(say: Callable[[str], None], launch: Launch, outcome: RunOutcome) -> None:
    from .endings import outcome_lines  # noqa: PLC0415 - as above

    assert launch.display is not None  # noqa: S101 - the run was shown
    for line in outcome_lines(outcome, launch.display, _resume):
        say(line)


def _tell_what_is_left(say: Callable[[str], None], launch: Launch) -> None:
    from .endings import lines_of_what_is_left  # noqa: PLC0415 - as above

    if launch.folder is not None and launch.has_begun:
        for line in lines_of_what_is_left(launch.folder, _resume):
            say(line)


def _tell_end(say: Callable[[str], None], ended: str, launch: Launch) -> None:
    from .endings import line_without_last_state  # noqa: PLC0415 - as above

    say(line_without_last_state(ended, launch.folder, _resume))


def _resume(folder: Path) -> str:
    return f"ringfence.train(out={str(folder)!r}, resume=True)"


def _say(text: str) -> None:
    from .views import say  # noqa: PLC0415 - as above

    say(text)


def _nobody(text: str) -> None:
    """Show nothing."""
