"""The account of one plugin: what it may use, and what it does use, of memory, time, threads and files.

The watchdog calls what is here, from two threads: one for what is counted in
microseconds, one for folders, which may take a worker's files as long as it likes to count.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ....plugins.interface import PluginUsage
from ...policy.procfs import threads_go_on, usage, while_there
from .cgroup import Cgroup
from .cpu_time import SLACK_S, Meter, put_last
from .epoll_watches import MAX_WATCHES, watches
from .file_locks import MAX_LOCKS
from .foreign_maps import foreign_bytes
from .scratch_folder import MAX_IN_MEMORY_BYTES, MAX_SCRATCH_BYTES, look_into
from .stray_descriptors import Queue
from .worker_process import Process

#: Between two looks at memory, at most; sooner where the budget could be used up sooner.
INTERVAL_S = 0.05
_LEAST_INTERVAL_S = 0.002
#: No process was seen to take memory faster, huge pages included; for when to look again.
_FASTEST_BYTES_PER_S = 8 << 30
#: What may be taken while this thread waits for its turn in a trainer that is busy with Python.
_LATE_BYTES = 48 << 20
#: Files take longer to count than memory does.
SCRATCH_INTERVAL_S = 1.0
#: Between two of these looks, at least; less where files are memory, and the kernel does not tell what
#: was written.
FILES_INTERVAL_S = 0.05
FILES_IN_MEMORY_INTERVAL_S = 0.005
#: Counted at once when so much was written since the last look.
_WRITTEN_BYTES = 8 << 20
#: Looked at once when so much more of files is mapped than at the last look.
_MAPPED_BYTES = 16 << 20
#: A look may take no more than this part of the time, however many files there are.
_LOOKING = 0.25
#: Of one worker; a thread costs kernel memory that its budget does not show.
MAX_THREADS = 128
#: Looks in a row at which a plugin that is to go last has threads that do not.
_MAX_ESCAPES = 40


@dataclass(slots=True, eq=False)
class Account:
    """The account of one plugin: what it may use, and what it does use.

    The budget is held against everything in a worker's own page tables, the pages
    that it was forked with included: the kernel does not tell cheaply which of
    them it has written to. What is shown as the plugin's use leaves them out.

    Attributes:
        budget_bytes: For all its workers and result buffers together.
        usage: Where the figures go.
        processes: Its workers.
        result_bytes: Buffers that it writes its results to.
        exceeded_bytes: What it used when it was killed for its memory, or 0.
        exceeded: Why it was killed if not for its memory, as the end of a sentence about it, or ``""``.
        threads: Cores that each worker may keep busy while a call is in hand.
        cgroup: Where its workers are, if it has one.
        files_are_memory: Its scratch folders lie in memory and count towards the budget.
        look_at: When its memory is to be measured next, on ``time.monotonic()``.
        queues: What its workers send to, where the kernel cannot keep descriptors out of it.
    """

    budget_bytes: int
    usage: PluginUsage
    processes: list[Process] = field(default_factory=list)
    result_bytes: int = 0
    exceeded_bytes: int = 0
    exceeded: str = ""
    threads: int = 1
    cgroup: Cgroup | None = None
    files_are_memory: bool = False
    look_at: float = 0.0
    queues: list[Queue] = field(default_factory=list)
    _meters: dict[int, Meter] = field(default_factory=dict)
    _files: dict[int, _Files] = field(default_factory=dict)
    _mappings: dict[int, _Mappings] = field(default_factory=dict)
    _escapes: int = 0

    def measure(self) -> None:
        """Add up what it uses now; kill all its workers if that is past the budget."""
        began = time.monotonic()
        # Should this look fail, the next one is not at once.
        self.look_at = began + INTERVAL_S
        used = own = self.result_bytes + self._file_bytes()
        for process in self.processes:
            bytes_now = self._measure_one(process)
            used += bytes_now
            own += max(bytes_now - process.inherited_bytes, 0)
        self.usage.memory_bytes = own
        self.usage.peak_bytes = max(self.usage.peak_bytes, own)
        # By then it cannot have got past the budget by much, were it to try from now on.
        soon = (self.budget_bytes - used - _LATE_BYTES) / _FASTEST_BYTES_PER_S
        self.look_at = began + min(max(soon, _LEAST_INTERVAL_S), INTERVAL_S)
        if used > self.budget_bytes and not self.exceeded_bytes and not self.exceeded:
            self.exceeded_bytes = used
            self._kill()

    def weigh_time(self) -> None:
        """Put all its workers last, for good, once one takes more processor time than the job allows."""
        for process in self.processes:
            meter = self._meters.setdefault(process.pid, Meter(self.threads))
            if not self.usage.demoted and meter.look(process.pid, process.calls) and not process.has_ended():
                self.usage.demoted = _explain(meter)
        if self.usage.demoted:
            self._put_last()

    def look_into_scratch(self) -> None:
        """Kill all its workers if one has more files than it may, or larger ones."""
        for process in self.processes:
            if process.scratch is None:
                continue
            most = MAX_IN_MEMORY_BYTES if self.files_are_memory else MAX_SCRATCH_BYTES
            files = self._files.setdefault(process.pid, _Files(most))
            if files.is_due(process, always=self.files_are_memory) and (excess := files.look(process)):
                self.end(excess)

    def look_at_mappings(self) -> None:
        """Find what its workers have mapped of nobody's: after a second, or sooner where much was mapped."""
        for process in self.processes:
            look = self._mappings.setdefault(process.pid, _Mappings())
            if look.is_due(process):
                process.foreign_bytes = foreign_bytes(process.pid)

    def count_locks(self, held: Mapping[int, int]) -> None:
        """Kill all its workers if one holds more locks on files than it may.

        Args:
            held: Process to number of locks.
        """
        for process in self.processes:
            count = held.get(process.pid, 0)
            if count > MAX_LOCKS and not process.has_ended():
                self.end(f"has {count:,} locks on files in one worker; at most {MAX_LOCKS:,}")

    def count_watches(self) -> None:
        """Kill all its workers if one has epoll watch more than it may."""
        for process in self.processes:
            # Asked after it was counted: until it has ended the number was its own.
            if watches(process.pid) > MAX_WATCHES and not process.has_ended():
                self.end(f"has epoll watch over {MAX_WATCHES:,} files in one worker")

    def look_into_queues(self) -> None:
        """Kill all its workers if one has sent descriptors that wait to be received; nobody will."""
        count = sum(queue.descriptors() for queue in self.queues)
        if count:
            self.end(f"sent {count:,} open files along with what it said, which nobody asked for")

    def end(self, why: str) -> None:
        """Kill all its workers.

        Args:
            why: Becomes ``exceeded`` unless there is a reason already.
        """
        if not self.exceeded_bytes and not self.exceeded:
            self.exceeded = why
        self._kill()

    def _measure_one(self, process: Process) -> int:
        now = usage(process.pid)
        # Asked after it was measured: until it has ended the number was its own.
        if now is None or process.has_ended():
            return 0
        if now.threads > MAX_THREADS:
            self.end(f"has {now.threads} threads in one worker; at most {MAX_THREADS}")
        headless = now.own_bytes is None and threads_go_on(process.pid)
        if headless and process.headless:
            # Whatever the others use is shown nowhere. One look may meet a process that is just ending.
            self.end("went on in other threads after its main thread had ended, where it cannot be measured")
        process.headless = headless
        process.file_bytes = now.file_bytes
        return (now.own_bytes or 0) + process.foreign_bytes

    def _file_bytes(self) -> int:
        return sum(files.used_bytes for files in self._files.values()) if self.files_are_memory else 0

    def _put_last(self) -> None:
        if self.cgroup is not None:
            self.cgroup.put_last()
        reached = [put_last(process.pid) for process in self.processes if not process.has_ended()]
        self._escapes = 0 if all(reached) else self._escapes + 1
        if self._escapes > _MAX_ESCAPES:
            self.end("took more processor time than its job allows, and starts threads to get away with it")

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()


@dataclass(slots=True)
class _Files:
    """The scratch folder of one worker, when it was last looked into and what it held."""

    most_bytes: int
    used_bytes: int = 0
    _looked_at: float = 0.0
    _took_s: float = 0.0
    _written: int = 0

    def is_due(self, process: Process, *, always: bool) -> bool:
        """Tell whether to look again: after a second, or as soon as much has been written."""
        passed = time.monotonic() - self._looked_at
        if passed >= SCRATCH_INTERVAL_S:
            return True
        if passed < self._took_s / _LOOKING:
            return False
        return always or written_bytes(process.pid) - self._written > _WRITTEN_BYTES

    def look(self, process: Process) -> str:
        """Look into it; returns what there is too much of, or ``""``."""
        began = time.monotonic()
        self._written = written_bytes(process.pid)
        # A process that has ended keeps no deleted files, and its number may be another's.
        pid = None if process.has_ended() else process.pid
        contents = look_into(str(process.scratch), pid=pid, max_bytes=self.most_bytes)
        self.used_bytes = contents.used_bytes
        self._looked_at = time.monotonic()
        self._took_s = self._looked_at - began
        return "" if process.has_ended() else contents.too_much


@dataclass(slots=True)
class _Mappings:
    """When it was last looked at what one worker has mapped, and how many pages of files that were then."""

    _looked_at: float = 0.0
    _file_bytes: int = 0

    def is_due(self, process: Process) -> bool:
        """Tell whether to look again, and take it that this is done."""
        now = time.monotonic()
        more = process.file_bytes - self._file_bytes > _MAPPED_BYTES
        if not more and now - self._looked_at < SCRATCH_INTERVAL_S:
            return False
        self._looked_at, self._file_bytes = now, process.file_bytes
        return not process.has_ended()


def written_bytes(pid: int) -> int:
    """Return what process ``pid`` has written to disks so far, through mappings too; 0 when it is gone.

    Raises:
        PermissionError: It is there, and does not let itself be looked at.
    """
    return while_there(pid, lambda: _written_bytes(pid))


def _written_bytes(pid: int) -> int:
    lines = Path("/proc", str(pid), "io").read_text().splitlines()
    return int(dict(line.split(": ", 1) for line in lines)["write_bytes"])


def _explain(meter: Meter) -> str:
    return (
        f"used {meter.used_s:.1f} s of processor time, {SLACK_S:g} s more than {meter.threads} "
        f"{'core' if meter.threads == 1 else 'cores'} for the {meter.in_hand_s:.1f} s in which it had work; "
        "it now gets only what nobody else wants. If it may use more, raise its 'threads'"
    )
