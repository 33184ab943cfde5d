"""Check a job whole; nothing is started."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..discovery.catalog import Catalog
from ..discovery.provenance import Provenance, provenance_of
from ..engine.averaging import WeightAverage
from ..engine.checkpoints.fingerprint import Fingerprint
from ..engine.driver import Driver
from ..engine.session import Session
from ..engine.setup import Setup
from ..engine.trial import macs_a_sample
from ..hooks.errors import IncompatiblePluginError, JobError
from ..job.job_file import JobFile
from .ingredients import averages_of, build, check_names, choices_of
from .job_fingerprint import fingerprint_of
from .load_plugins import Planned, plan, with_input_range, with_target_kind
from .long_waits import tell_if_slow
from .memory_shares import with_shares
from .parameter_patterns import check_groups
from .plugin_lock import FoundLock, check_lock, find_lock
from .reduced_run import Reduction
from .resumed_split import choose_split
from .start_facts import start_facts
from .start_weights import start_weights
from .tree_fit import target_kind

#: More threads than have so many digits are a slip, and too many for a job.
_THREADS_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job whose every fault would have been told, with all that follows from it worked out.

    Attributes:
        job_file: The job, with its threads, its plugins' shares of the memory and what is held out for
            validation written out.
        base: Folder that its relative paths start from.
        plugins: Found and checked, not started: with their options, permissions and shares.
        setup: Model, data, loss and metric, device and steps, tried together.
        fingerprint: What decides the course of the run.
        start: What there is to tell of it before the first step, as JSON data.
        averages: Of the weights, kept beside them.
        reduction: How the run is cut down; None runs the whole job.
        lock: What its plugins may be made of, if that lies beside it.
        provenance: What they are made of, as it was compared with the lock; None if there is none.
        objects: Key of the job to its name for the object that a program has given in its place.
        drivers: What else acts on the run between its steps, in this order, after the averages.
    """

    job_file: JobFile
    base: Path
    plugins: Sequence[Planned]
    setup: Setup
    fingerprint: Fingerprint
    start: Mapping[str, Any] = field(default_factory=dict)
    averages: Sequence[WeightAverage] = ()
    reduction: Reduction | None = None
    lock: FoundLock | None = None
    provenance: Provenance | None = None
    objects: Mapping[str, str] = field(default_factory=dict)
    drivers: Sequence[Driver[Session]] = ()


def prepare(
    job_file: JobFile,
    base: Path,
    installed: Catalog | None = None,
    *,
    tell: Callable[[str], None] = lambda _: None,
    macs: bool = False,
    given: Mapping[str, Any] = MappingProxyType({}),
    resume: Path | None = None,
    reduction: Reduction | None = None,
) -> Prepared:
    """Check a job against the installed plugins, the models and the data; nothing is started.

    Args:
        job_file: The job.
        base: Folder that its relative paths start from.
        installed: Where to look for plugins; what is installed by default.
        tell: Told what is being done where that takes long, from another thread.
        macs: Whether to count the multiplications of the model as well.
        given: Key of the job to the object that a program has given in place of what the job names.
        resume: Folder of the run that is to go on: with the weights of its checkpoint, so that ``start_from``
            is not read, and with the split that it began with; None for a new run.
        reduction: How the run is cut down, if it is.

    Raises:
        JobError: With all faults that can be told without reading data; or what is installed differs from
            the lock beside the job.
        IncompatiblePluginError: A plugin does not fit this core.
        DataError: The data cannot be read, or does not fit.
    """
    planned = _checked(job_file, base, installed, given)
    lock, provenance = find_lock(job_file), None
    if lock is not None:
        with tell_if_slow(tell, "reading what plugins are made of, to compare it with the lock"):
            provenance = provenance_of([item.spec for item in planned])
        check_lock(lock, provenance, Path(job_file.document.name))
    threads = job_file.job.threads or default_threads()
    torch.set_num_threads(threads)
    # Written out, since the last bits of the weights depend on it: a resumed run takes as many anywhere.
    job_file = dataclasses.replace(job_file, job=job_file.job.model_copy(update={"threads": threads}))
    job_file = with_shares(job_file, [item.spec for item in planned])
    setup = build(job_file, base, given, choose_split(job_file.job, resume), reduction)
    check_groups(planned, setup)
    # Written out as well: it decides which samples are trained on.
    held_out = {"validation_fraction": setup.data.held_out}
    job_file = dataclasses.replace(job_file, job=job_file.job.model_copy(update=held_out))
    told: tuple[str, ...] = ()
    if reduction is not None:
        told = tuple(reduction.sentences(planned, setup.data, job_file.job))
        planned = reduction.plugins(planned)
    started = None if resume is not None else start_weights(job_file, base, setup)
    if started is not None:
        told += tuple(started.sentences())
    tried = dataclasses.replace(setup.tried, told=(*told, *setup.tried.told))
    setup = dataclasses.replace(setup, tried=tried)
    averages = averages_of(job_file, setup, reduction)
    with tell_if_slow(tell, "reading the training data, to know between which numbers they lie"):
        planned = with_input_range(planned, setup.data.train.input_range)
    planned = with_target_kind(planned, target_kind(setup.data.train))
    with tell_if_slow(tell, "reading the data, to know them again when the run is resumed"):
        fingerprint = fingerprint_of(job_file.job, [item.spec for item in planned], setup)
    names = [item.spec.name for item in planned]
    facts = start_facts(job_file.job, names, setup, macs_a_sample(setup) if macs else None, started)
    return Prepared(
        job_file,
        base,
        planned,
        setup,
        fingerprint,
        facts,
        averages,
        reduction=reduction,
        lock=lock,
        provenance=provenance,
        objects={key: choices_of(job_file.job, given)[key].name for key in given},
    )


def default_threads() -> int:
    """Return the trainer's threads where the job does not say: ``OMP_NUM_THREADS``, or one a core."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdecimal() and 1 <= len(asked) <= _THREADS_DIGITS and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0))


def _checked(
    job_file: JobFile, base: Path, installed: Catalog | None, given: Collection[str]
) -> list[Planned]:
    """Return the planned plugins, or raise one error with all that is wrong."""
    faults = []
    problems = check_names(job_file, given)
    if problems:
        faults.append(str(job_file.error(problems)))
    try:
        planned = plan(job_file, installed, base=base)
    except (JobError, IncompatiblePluginError) as error:
        if not faults:
            raise
        faults.append(str(error))
    if faults:
        raise JobError("\n".join(faults))
    return planned
