"""The stand-in for an isolated plugin: the engine cannot tell it from a local one."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import site
import socket
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ..hooks import plain
from ..hooks.check import ResultError, check_result, check_scalars
from ..hooks.errors import PluginError, PluginLoadError, SandboxUnavailableError
from ..hooks.plugin import PluginSpec, PluginUsage
from ..hooks.types import Batch, StepInfo, derive_seed
from .budget import budget_bytes, used_bytes
from .cgroup import Cgroup, CgroupUnavailableError
from .channel import MIB, Channel, Pending
from .exchange import OUTBOX_BYTES, SMALL_OUTBOX_BYTES, Exchange, Slot
from .layers import Confinement, LayerStatus
from .memory import Arena, Region
from .probes import ProbeContext
from .protocol import (
    Call,
    Done,
    Fetch,
    Large,
    Load,
    Locked,
    MessageError,
    Open,
    Ready,
    Save,
    Size,
    Start,
    Step,
    decode,
    from_worker,
)
from .report import combine, refuse_if_missing
from .status import lacking
from .watchdog import INTERVAL_S, Account, Process, Watchdog

#: Calls that a worker may have in hand: one that it computes, one that waits, so that it never idles.
SLOTS_PER_WORKER = 2

#: A value in the zygote's environment that no worker may see; the self-probe looks for it.
ENV_CANARY = "RINGFENCE_ENV_CANARY"

#: The least that a plugin needs beyond what it is forked with; below it the message says so.
MIN_BUDGET_BYTES = 64 * MIB

#: Pages of the zygote that a worker writes to count in its cgroup, though they are not its own.
_INHERITED_BYTES = 256 * MIB
_LOCK_DEADLINE_S = 30.0

#: Argument whose shape a result must have, where it is not the one that it replaces.
_MEASURED_BY = {"loss": "outputs"}

_SCRATCH_FILE_BYTES = 64 * MIB
_MAX_FDS = 256
_SYSTEM_FILES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime")


class Services(Protocol):
    """What a stand-in needs of the sandbox that started it."""

    arena: Arena
    watchdog: Watchdog
    folder: Path
    canary: Path
    skip_layers: tuple[str, ...]

    def fork(self) -> tuple[Process, socket.socket]:
        """Fork a worker."""

    def reap(self, process: Process) -> int | None:
        """Collect a worker that was killed."""

    def remove_scratch(self, folder: str) -> None:
        """Remove a worker's scratch folder, whatever it made of it."""


class _Worker:
    """One process of a plugin, with the memory that it shares with the host."""

    def __init__(self, channel: Channel, exchange: Exchange) -> None:
        self.channel = channel
        self.exchange = exchange
        self.slots: list[Slot] = []
        self.state_region: Region | None = None


@dataclass(slots=True, eq=False)
class _Flight:
    """A batch on its way through a worker; ``step`` is the job's, ``own`` the plugin's."""

    worker: _Worker
    slot: Slot
    pending: Pending | None
    batch: Batch
    step: StepInfo
    own: StepInfo


@dataclass(frozen=True, slots=True)
class _Posted:
    """A call of a monitor that nobody waits for."""

    pending: Pending
    slot: Slot
    method: str
    step: StepInfo


class IsolatedPlugin:
    """A plugin in processes of its own; see ``hooks.plugin.Plugin`` for the methods.

    Args:
        spec: What to start.
        services: Zygote, watchdog and memory of the run.

    Attributes:
        layers: How each layer of its sandbox stands, as verified before its code was loaded.
    """

    def __init__(self, spec: PluginSpec, services: Services) -> None:
        self.spec = spec
        self.usage = PluginUsage(budget_bytes=budget_bytes(spec.memory_fraction))
        self.layers: tuple[LayerStatus, ...] = ()
        self._services = services
        self._workers: list[_Worker] = []
        self._cgroup: Cgroup | None = None
        self._account = Account(self.usage.budget_bytes, self.usage)
        self._posted: deque[_Posted] = deque()
        self._refused_step = -1
        self._ready: Ready | None = None
        self.accepts: Mapping[str, tuple[str, ...]] = {}
        self._start()

    # calls

    def call(self, method: str, arguments: Mapping[str, Any], step: StepInfo) -> Any:
        """Run one method in the first worker and return its checked result."""
        worker = self._workers[0]
        slot = worker.slots[0]
        pending = self._submit(worker, slot, method, arguments, step, snapshot=False)
        return self._finish(worker, pending, slot, method, arguments, step)

    def stream(
        self,
        batches: Iterable[tuple[Batch, StepInfo]],
        *,
        done: Callable[[StepInfo], None],
        failed: Callable[[PluginError], None],
    ) -> Iterator[tuple[Batch, StepInfo]]:
        """Run ``forward`` ahead of the caller, each worker on its own batches."""
        if "forward" not in self.accepts:
            yield from batches
            return
        source = iter(batches)
        flying: deque[_Flight] = deque()
        turns = itertools.cycle(
            [(worker, worker.slots[n]) for n in range(SLOTS_PER_WORKER) for worker in self._workers]
        )
        try:
            while self.usage.state == "running":
                try:
                    self._fill(flying, source, turns)
                    if not flying:
                        return
                    changed = self._land(flying[0])
                except PluginError as error:
                    failed(error)
                    break
                flight = flying.popleft()
                done(flight.own)
                yield (flight.batch if changed is None else changed), flight.step
            # Disabled: what was under way passes unchanged, and so does all that follows. It is let go
            # of first, since its workers are gone and nothing can be waited for.
            unchanged = [(flight.batch, flight.step) for flight in flying]
            flying.clear()
            yield from unchanged
            yield from source
        finally:
            self._forget(flying)

    def _fill(
        self,
        flying: deque[_Flight],
        source: Iterator[tuple[Batch, StepInfo]],
        turns: Iterator[tuple[_Worker, Slot]],
    ) -> None:
        """Send batches until every slot of every worker is taken."""
        while len(flying) < len(self._workers) * SLOTS_PER_WORKER:
            item = next(source, None)
            if item is None:
                return
            worker, slot = next(turns)
            own = item[1].for_plugin(self.spec.job_seed, self.spec.name)
            flight = _Flight(worker, slot, None, *item, own)
            # Listed before it is sent: a batch must not be lost with a worker that refuses it.
            flying.append(flight)
            arguments = {"batch": flight.batch}
            flight.pending = self._submit(worker, slot, "forward", arguments, own, snapshot=False)

    def _land(self, flight: _Flight) -> Any:
        if flight.pending is None:
            raise ValueError("a batch that was never sent has no reply")
        arguments = {"batch": flight.batch}
        return self._finish(flight.worker, flight.pending, flight.slot, "forward", arguments, flight.own)

    def post(self, method: str, arguments: Mapping[str, Any], step: StepInfo) -> bool:
        """Start a call on a copy; refused while a call of an earlier step is unanswered."""
        if step.global_step == self._refused_step:
            return True
        if self._posted and self._posted[0].step.global_step != step.global_step:
            self._refused_step = step.global_step
            return False
        worker = self._workers[0]
        slot = worker.slots[len(self._posted) % SLOTS_PER_WORKER]
        pending = self._submit(worker, slot, method, arguments, step, snapshot=True)
        self._posted.append(_Posted(pending, slot, method, step))
        return True

    def poll(self) -> list[tuple[StepInfo, Any]]:
        """Return posted calls that have been answered, without waiting."""
        finished = []
        channel, deadline_s = self._workers[0].channel, self.spec.deadline_s
        while self._posted and channel.answered(self._posted[0].pending, deadline_s):
            finished.append(self._finish_posted())
        return finished

    def drain(self) -> list[tuple[StepInfo, Any]]:
        """Wait for posted calls."""
        self._refused_step = -1
        finished = []
        while self._posted:
            finished.append(self._finish_posted())
        return finished

    # state

    def state_dict(self) -> Any:
        """Return the first worker's state as plain data, in tensors of the host's own."""
        if self._ready is None or not self._ready.keeps_state:
            return None
        worker, hook = self._workers[0], f"{self.spec.role}.state_dict"
        channel = worker.channel
        channel.begin(self.spec.deadline_s)
        pending = channel.ask(Save(seq := channel.next_seq()), seq, hook=hook)
        size = channel.wait(pending, self.spec.deadline_s)
        if not isinstance(size, Size):
            raise channel.reject(f"answered 'save' with {type(size).__name__}", pending)
        if size.nbytes == 0:
            return None
        if not 0 < size.nbytes <= self.usage.budget_bytes:
            raise channel.reject(f"asked to save {size.nbytes} bytes, more than its budget", pending)
        if worker.state_region is None or worker.state_region.nbytes < size.nbytes:
            if worker.state_region is not None:
                worker.exchange.drop_region(worker.state_region)
            worker.state_region = worker.exchange.new_region(size.nbytes, writable=True)
            self._count_results()
        pending = channel.ask(Fetch(seq := channel.next_seq(), worker.state_region.id), seq, hook=hook)
        channel.wait(pending, self.spec.deadline_s)
        data = worker.state_region.buffer[: size.nbytes].numpy().tobytes()
        try:
            return plain.loads(data)
        except plain.PlainDataError as error:
            raise channel.reject(f"saved {error}", pending) from error

    def load_state_dict(self, state: Any) -> None:
        """Give every worker the state."""
        data = torch.frombuffer(bytearray(plain.dumps(state)), dtype=torch.uint8)
        for worker in self._workers:
            worker.channel.begin(self.spec.deadline_s)
            region = worker.exchange.new_region(data.numel(), writable=False)
            region.buffer[: data.numel()].copy_(data)
            channel = worker.channel
            pending = channel.ask(
                Load(seq := channel.next_seq(), region.id, data.numel()),
                seq,
                hook=f"{self.spec.role}.load_state_dict",
            )
            channel.wait(pending, self.spec.deadline_s)
            worker.exchange.drop_region(region)

    # life

    def restart(self) -> None:
        """Replace all processes by fresh ones."""
        self._end()
        self._start()

    def close(self) -> None:
        """End all processes."""
        self._end()

    # inside, calls

    def _submit(
        self,
        worker: _Worker,
        slot: Slot,
        method: str,
        arguments: Mapping[str, Any],
        step: StepInfo,
        *,
        snapshot: bool,
    ) -> Pending:
        worker.channel.begin(self.spec.deadline_s)
        changes = self.spec.role_info.changes.get(method)
        names = dict.fromkeys(name for name in self.accepts[method] if name != "step")
        if changes is not None:
            # The inside needs it to tell the plugin what is wrong with a result.
            names[_MEASURED_BY.get(changes, changes)] = None
        packed = slot.pack(tuple(names), arguments, snapshot=snapshot)
        place = slot.place_result(changes, arguments)
        self._count_results()
        seq = worker.channel.next_seq()
        call = Call(
            seq,
            "forward" if method == "forward" else "backward",
            Step(
                step.global_step,
                step.epoch,
                step.micro_batch,
                step.steps_total,
                step.lr_factor,
                step.pass_index,
                step.seed,
            ),
            packed,
            place,
            slot.outbox.id,
        )
        return worker.channel.ask(call, seq, hook=f"{self.spec.role}.{method}", step=step.global_step)

    def _finish(
        self,
        worker: _Worker,
        pending: Pending,
        slot: Slot,
        method: str,
        arguments: Mapping[str, Any],
        step: StepInfo,
    ) -> Any:
        channel = worker.channel
        reply = channel.wait(pending, self.spec.deadline_s)
        self.usage.calls += 1
        changes = self.spec.role_info.changes.get(method)
        try:
            if isinstance(reply, Large):
                reply = _from_outbox(slot.outbox, reply.nbytes)
            if not isinstance(reply, Done):
                raise MessageError(f"a {type(reply).__name__} in answer to a call")
            check_scalars(reply.scalars)
            result = check_result(changes, slot.unpack(reply, changes, arguments), arguments)
        except MessageError as error:
            raise channel.reject(f"sent {error}", pending) from error
        except ResultError as error:
            raise channel.reject(str(error), pending) from error
        # What a worker says of its own time is believed up to what the host saw.
        believed = 0.0 <= reply.seconds <= pending.elapsed_s
        self.usage.seconds += reply.seconds if believed else pending.elapsed_s
        step.scalars.update(reply.scalars)
        return result

    def _finish_posted(self) -> tuple[StepInfo, Any]:
        posted = self._posted.popleft()
        # A report is measured by no argument, so none are kept for it.
        return posted.step, self._finish(
            self._workers[0], posted.pending, posted.slot, posted.method, {}, posted.step
        )

    def _forget(self, flying: Iterable[_Flight]) -> None:
        """Wait for calls whose results nobody wants any more."""
        for flight in flying:
            # A worker that is dead tells whoever calls it next why.
            with contextlib.suppress(PluginError):
                if flight.pending is not None:
                    flight.worker.channel.wait(flight.pending, self.spec.deadline_s)

    def _count_results(self) -> None:
        self._account.result_bytes = sum(worker.exchange.result_bytes for worker in self._workers)

    # inside, life

    def _start(self) -> None:
        spec = self.spec
        limit = self.usage.budget_bytes // spec.workers
        self._account = Account(self.usage.budget_bytes, self.usage)
        try:
            cgroup_status = self._make_cgroup()
            for _ in range(spec.workers):
                cgroup_status = self._fork(limit, cgroup_status)
            self._services.watchdog.add(self._account)
            self._lock(limit, cgroup_status)
            self._load()
        except BaseException:
            self._end()
            raise

    def _own_layers(self) -> tuple[LayerStatus, LayerStatus]:
        """Say how the layers stand that work on this side of the boundary."""
        watchdog = (
            LayerStatus("watchdog", "active", f"looks every {INTERVAL_S * 1000:.0f} ms", ("thread_alive",))
            if self._services.watchdog.is_alive()
            else lacking("watchdog", "failed", "its thread has ended")
        )
        messages = LayerStatus(
            "messages", "active", "fixed schema, no pickle, copied before checked", ("schema",)
        )
        return watchdog, messages

    def _make_cgroup(self) -> LayerStatus:
        allowance = _INHERITED_BYTES * self.spec.workers
        try:
            self._cgroup = Cgroup.create(self.spec.name, self.usage.budget_bytes + allowance)
        except CgroupUnavailableError as error:
            return lacking("cgroup", "unavailable", str(error))
        limit = self.usage.budget_bytes // MIB
        return LayerStatus("cgroup", "active", f"{limit} MiB and what it inherits", ("created",))

    def _fork(self, limit: int, cgroup_status: LayerStatus) -> LayerStatus:
        """Add a worker; returns how the cgroup stands with it."""
        process, sock = self._services.fork()
        process.inherited_bytes = used_bytes(process.pid) or 0
        channel = Channel(
            self.spec.name, sock, process, self._account, limit, self._services.reap, self._oom_kills
        )
        # Listed at once, so that it is ended whatever happens next.
        self._workers.append(_Worker(channel, Exchange(channel, self._services.arena)))
        self._account.processes.append(process)
        least = process.inherited_bytes + MIN_BUDGET_BYTES
        if limit < least:
            raise PluginLoadError(
                f"each of its {self.spec.workers} workers may use {limit // MIB} MiB, and torch needs "
                f"{least // MIB} to start; use fewer workers or a larger memory_fraction",
                plugin=self.spec.name,
            )
        if self._cgroup is None:
            return cgroup_status
        try:
            self._cgroup.add(process.pid)
        except OSError as error:
            return lacking("cgroup", "failed", f"a worker could not be put into it: {error}")
        return cgroup_status

    def _lock(self, limit: int, cgroup_status: LayerStatus) -> None:
        """Have every worker lock itself up, and refuse to go on where a required layer does not hold."""
        asked = []
        for worker in self._workers:
            scratch = self._services.folder / f"scratch-{worker.channel.process.pid}"
            scratch.mkdir(mode=0o700)
            worker.channel.process.scratch = str(scratch)
            message = Open(self._confinement(str(scratch), limit), self._probe_context(str(scratch)))
            worker.channel.begin(_LOCK_DEADLINE_S)
            asked.append((worker, worker.channel.ask(message)))
        for worker, pending in asked:
            locked = worker.channel.wait(pending, _LOCK_DEADLINE_S)
            if not isinstance(locked, Locked):
                raise worker.channel.reject(f"answered 'open' with {type(locked).__name__}", pending)
            self.layers = combine(locked.layers, locked.probes, cgroup_status, *self._own_layers())
            try:
                refuse_if_missing(self.layers, self.spec.name)
            except SandboxUnavailableError as error:
                error.layers = self.layers
                raise
        self.usage.layers = tuple(layer.name for layer in self.layers if layer.status == "active")

    def _load(self) -> None:
        spec = self.spec
        start = Start(
            spec.module,
            spec.qualname,
            spec.role,
            dict(spec.options),
            spec.search_path,
            spec.threads,
            derive_seed(spec.job_seed, spec.name, "start"),
        )
        asked = []
        try:
            for worker in self._workers:
                worker.channel.begin(spec.start_deadline_s)
                asked.append((worker, worker.channel.ask(start)))
        except (MessageError, OverflowError) as error:
            raise PluginLoadError(f"its options cannot be sent: {error}", plugin=spec.name) from error
        outbox = OUTBOX_BYTES if spec.role_info.observes else SMALL_OUTBOX_BYTES
        for worker, pending in asked:
            ready = worker.channel.wait(pending, spec.start_deadline_s)
            if not isinstance(ready, Ready):
                raise worker.channel.reject(f"answered 'start' with {type(ready).__name__}", pending)
            # What was checked when it first started must be what runs now, in every worker.
            if self._ready not in (None, ready):
                raise worker.channel.reject("is not the plugin that was started before", pending)
            self._ready, self.accepts = ready, ready.accepts
            worker.slots = [Slot(worker.exchange, outbox) for _ in range(SLOTS_PER_WORKER)]
        self._count_results()

    def _confinement(self, scratch: str, limit: int) -> Confinement:
        return Confinement(
            readable=readable_paths(self.spec),
            scratch=scratch,
            data_limit_bytes=limit,
            scratch_file_bytes=_SCRATCH_FILE_BYTES,
            max_fds=_MAX_FDS,
            keep_fds=(),
            environment=_environment(scratch, self.spec.threads),
            parent_pid=0,
            skip=self._services.skip_layers,
        )

    def _probe_context(self, scratch: str) -> ProbeContext:
        return ProbeContext(
            host_pid=os.getpid(),
            canary_path=str(self._services.canary),
            scratch=scratch,
            env_canary=ENV_CANARY,
        )

    def _oom_kills(self) -> int:
        return 0 if self._cgroup is None else self._cgroup.oom_kills()

    def _end(self) -> None:
        self._posted.clear()
        self._refused_step = -1
        self._services.watchdog.remove(self._account)
        while self._workers:
            worker = self._workers.pop()
            worker.channel.close()
            worker.exchange.close()
            if worker.channel.process.scratch is not None:
                self._services.remove_scratch(worker.channel.process.scratch)
        self._account.processes.clear()
        self.usage.memory_bytes = 0
        if self._cgroup is not None:
            self._cgroup.close()
            self._cgroup = None


def _from_outbox(outbox: Region, nbytes: int) -> Done:
    if not 0 < nbytes <= outbox.nbytes:
        raise MessageError(f"a reply of {nbytes} bytes in an outbox of {outbox.nbytes}")
    # Copied before it is decoded: the worker can still write there.
    reply = decode(from_worker, outbox.buffer[:nbytes].numpy().tobytes())
    if not isinstance(reply, Done):
        raise MessageError(f"a {type(reply).__name__} in its outbox")
    return reply


def readable_paths(spec: PluginSpec) -> tuple[str, ...]:
    """Return what a plugin must read to run at all: Python's library, installed packages, its own code.

    Not the environment as a whole: a ``pip.conf`` with a token may lie at its top.
    """
    paths = [*_SYSTEM_FILES, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    paths += [*site.getsitepackages(), str(Path(sys.base_prefix, "lib"))]
    # An editable install keeps ringfence and its builtin plugins outside the environment.
    for package in ("ringfence", "ringfence.builtin"):
        found = importlib.util.find_spec(package)
        if found is not None:
            paths += found.submodule_search_locations or ()
    paths += spec.readable or spec.search_path
    return tuple(dict.fromkeys(path for path in paths if Path(path).is_absolute()))


def _environment(scratch: str, threads: int) -> dict[str, str]:
    """Return all that a plugin sees of an environment; every cache goes where it may write."""
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": scratch,
        "TMPDIR": scratch,
        "XDG_CACHE_HOME": scratch,
        "MPLCONFIGDIR": scratch,
        "TORCHINDUCTOR_CACHE_DIR": scratch,
        "USER": "plugin",
        "LOGNAME": "plugin",
        "OMP_NUM_THREADS": str(threads),
        # albumentations looks for a newer version of itself at import unless told not to.
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
