"""Where the time goes between a plugin's fault and the first step that is taken again.

What is timed is wrapped from here, so that a run outside of this benchmark pays nothing for it.
On a machine that does other things as well, part of the time is none of ours: the kernel tells how
long each process could have run and was not let. Trainer, zygote and workers wait for one another
here, so that what each of them was kept from can be taken off.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from outside import children

from ringfence.hooks.errors import PluginError, PluginTimeoutError
from ringfence.isolation.host.calls.channel import Channel
from ringfence.isolation.host.isolated_plugin import IsolatedPlugin
from ringfence.isolation.host.processes.worker_group import WorkerGroup
from ringfence.tracking.metrics_log import MetricsLog

_TRAIN = importlib.import_module("ringfence.engine.train")
_RECOVERY = importlib.import_module("ringfence.engine.recovery.recover")
_STATE = importlib.import_module("ringfence.engine.state")

#: Owner, name there, and what the tables call it. None of them calls another, so that they add up.
TIMED: tuple[tuple[Any, str, str], ...] = (
    (WorkerGroup, "end", "end"),
    (WorkerGroup, "_fork", "fork"),
    (WorkerGroup, "_lock", "lock up"),
    (WorkerGroup, "_load", "import"),
    (IsolatedPlugin, "load_state_dict", "states"),
    (_STATE.TrainState, "restore", "model"),
    (MetricsLog, "rolled_back", "record"),
)
PARTS = ("notice", *(label for _, _, label in TIMED), "rest")


@dataclass(slots=True)
class Fault:
    """One fault; times are those of ``time.monotonic()``.

    Attributes:
        began_at: When the worker was gone or raised, or should have answered.
        noticed_at: When the engine began to recover.
        ready_at: When the first step of the replay began; 0 before that.
        steps_lost: Steps to take again.
        error: Class of the error.
        kept_off_s: For how long others had the processor while this was going on.
        seconds: What each part took.
    """

    began_at: float = 0.0
    noticed_at: float = 0.0
    ready_at: float = 0.0
    steps_lost: int = 0
    error: str = ""
    kept_off_s: float = 0.0
    delays: dict[int, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def parts(self) -> dict[str, float]:
        """Return every part in seconds, ``total`` from the fault until the run could go on, and ``alone``.

        The last is the total without the time in which other processes had the processor.
        """
        whole = self.ready_at - self.noticed_at
        notice = self.noticed_at - self.began_at
        rest = whole - sum(self.seconds.values())
        known = {name: self.seconds[name] for name in PARTS[1:-1]}
        return {
            "notice": notice,
            **known,
            "rest": rest,
            "total": notice + whole,
            "alone": notice + whole - self.kept_off_s,
        }


@dataclass(slots=True)
class Watch:
    """What was seen in a run.

    Attributes:
        faults: In the order in which they were noticed.
        snapshots: When each was begun, and what it took, in seconds.
        asked: Plugin to when its last request was begun.
    """

    faults: list[Fault] = field(default_factory=list)
    snapshots: list[tuple[float, float]] = field(default_factory=list)
    asked: dict[str, float] = field(default_factory=dict)

    @property
    def recovering(self) -> Fault | None:
        """The fault that the run has not come back from yet."""
        return self.faults[-1] if self.faults and not self.faults[-1].ready_at else None

    def take(self, error: PluginError, step: int) -> None:
        """Note that the engine has a fault before it."""
        began = self.asked.get(error.plugin, 0.0)
        if isinstance(error, PluginTimeoutError):
            began += float(str(error).rpartition("no reply within ")[2].split()[0])
        now = time.monotonic()
        fault = Fault(began_at=began, noticed_at=now, steps_lost=step, error=type(error).__name__)
        fault.delays = delays()
        self.faults.append(fault)

    def end(self, fault: Fault) -> None:
        """Note that the run goes on."""
        fault.ready_at = time.monotonic()
        after = delays()
        there = [after[pid] - before for pid, before in fault.delays.items() if pid in after]
        # Several new workers start at one time, so the one that was held up most counts.
        new = [delay for pid, delay in after.items() if pid not in fault.delays]
        fault.kept_off_s = sum(there) + max(new, default=0.0)


def delays() -> dict[int, float]:
    """Return for how many seconds each process of this run, and this thread, waited for a processor."""
    zygotes = children(os.getpid())
    pids = [*zygotes, *(worker for zygote in zygotes for worker in children(zygote))]
    paths = {pid: Path(f"/proc/{pid}/schedstat") for pid in pids}
    paths[0] = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    found = {}
    for pid, path in paths.items():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[pid] = int(path.read_text().split()[1]) / 1e9
    return found


@contextmanager
def watching() -> Iterator[Watch]:
    """Time what happens in the runs of this block."""
    watch = Watch()
    with ExitStack() as stack:
        for owner, name, label in TIMED:
            stack.enter_context(mock.patch.object(owner, name, _timed(watch, getattr(owner, name), label)))
        recover, take_step, begin = _TRAIN.recover, _TRAIN.take_step, Channel.begin
        snapshot = _STATE.TrainState.snapshot

        def noted_recover(run: Any, error: PluginError) -> Any:
            watch.take(error, run.progress.step)
            result = recover(run, error)
            watch.faults[-1].steps_lost -= run.progress.step
            return result

        def noted_step(*args: Any) -> Any:
            if (fault := watch.recovering) is not None:
                watch.end(fault)
            return take_step(*args)

        def noted_begin(channel: Channel, *args: Any, **kwargs: Any) -> None:
            watch.asked[channel.plugin] = time.monotonic()
            begin(channel, *args, **kwargs)

        def noted_snapshot(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            taken = snapshot(*args, **kwargs)
            watch.snapshots.append((began, time.monotonic() - began))
            return taken

        stack.enter_context(mock.patch.object(_TRAIN, "recover", noted_recover))
        stack.enter_context(mock.patch.object(_TRAIN, "take_step", noted_step))
        stack.enter_context(mock.patch.object(Channel, "begin", noted_begin))
        stack.enter_context(mock.patch.object(_STATE.TrainState, "snapshot", noted_snapshot))
        yield watch


def _timed(watch: Watch, function: Callable[..., Any], label: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            if (fault := watch.recovering) is not None:
                fault.seconds[label] += time.monotonic() - began

    return wrapper
