"""The processes of one plugin, from fork to end."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from ....hooks.errors import PluginError, PluginLoadError, PluginTimeoutError, SandboxUnavailableError
from ....hooks.roles.optimizer import OPTIMIZER
from ....hooks.types import derive_seed
from ....plugins.interface import PluginSpec, PluginUsage
from ....plugins.machine_memory import MIB
from ....plugins.notices import describe_denials
from ....plugins.stop_request import StopRequest
from ....tensors.buffer_pool import BufferPool
from ...policy.confinement import ENV_CANARY, Confinement, Network, ProbeContext
from ...policy.layer_status import LayerStatus, lacking
from ...policy.procfs import network_inode, used_bytes
from ...policy.system_paths import SYSTEM
from ...transport.messages import Locked, MessageError, Open, Ready, Start
from ...transport.shared_memory import Arena, Region
from ..calls.call_memory import OUTBOX_BYTES, SMALL_OUTBOX_BYTES, CallMemory
from ..calls.channel import Channel, Pending
from ..calls.worker_memory import WorkerMemory
from ..grants.connection_broker import ConnectionBroker
from ..grants.denials import Answerer, Denials
from ..grants.grant import is_unchanged
from ..grants.grant_advice import how_to_allow, what_instead
from ..limits.account import INTERVAL_S, Account
from ..limits.cgroup import Cgroup, CgroupUnavailableError
from ..limits.memory_budget import BudgetTooSmallError
from ..limits.rlimit_ceiling import Ceiling
from ..limits.scratch_folder import MAX_FILE_BYTES, MAX_IN_MEMORY_BYTES, names_in
from ..limits.scratch_place import is_in_memory
from ..limits.watchdog import Watchdog
from ..limits.worker_process import Process
from .handshake_checks import check_locked, check_ready
from .layer_report import combine, explain_missing, merge_worst, refuse_if_missing
from .worker_environment import readable_paths, worker_environment

#: Calls that a worker may have in hand: one that it computes, one that waits, so that it never idles.
SLOTS_PER_WORKER = 2


#: The least that a plugin needs beyond what it is forked with; below it the message says so.
MIN_BUDGET_BYTES = 64 * MIB

_LOCK_DEADLINE_S = 30.0
_MAX_FDS = 256

_Claim = TypeVar("_Claim")


class Services(Protocol):
    """The services of a sandbox that a stand-in needs."""

    arena: Arena
    watchdog: Watchdog
    answerer: Answerer
    folder: Path
    canary: Path
    skip_layers: tuple[str, ...]
    plugins: int
    stop: StopRequest

    def fork(self, *, for_optimizer: bool = False) -> tuple[Process, socket.socket]:
        """Fork a worker."""

    def reap(self, process: Process) -> int | None:
        """Collect a worker that was killed."""

    def remove_scratch(self, folder: str) -> None:
        """Remove a worker's scratch folder, whatever it made of it."""


class WorkerHandle:
    """One process of a plugin, with the memory that it shares with the host."""

    def __init__(self, channel: Channel, exchange: WorkerMemory) -> None:
        self.channel = channel
        self.exchange = exchange
        self.slots: list[CallMemory] = []
        self.state_region: Region | None = None
        self.attempts: Denials | None = None


class WorkerGroup:
    """The workers of one plugin and what holds them.

    Args:
        spec: What they run.
        usage: Where the watchdog writes what they use.
        services: Zygote, watchdog and memory of the run.

    Attributes:
        workers: Empty before ``start`` and after ``end``.
        layers: How each layer stands, as verified before the plugin's code was loaded.
        ready: What the plugin said of itself when it was loaded.
    """

    def __init__(self, spec: PluginSpec, usage: PluginUsage, services: Services) -> None:
        self.spec = spec
        self.usage = usage
        self.workers: list[WorkerHandle] = []
        self.layers: tuple[LayerStatus, ...] = ()
        self.ready: Ready | None = None
        self._services = services
        self._cgroup: Cgroup | None = None
        self._broker: ConnectionBroker | None = None
        self._digested: Path | None = None
        self._account = Account(usage.budget_bytes, usage)
        #: Memory of the workers before, for those that take their place.
        self._left: list[Region] = []

    def start(self) -> None:
        """Fork, lock up and load.

        Raises:
            SandboxUnavailableError: A required layer does not hold.
            PluginError: The plugin could not be loaded within its limits.
        """
        try:
            self._lock_up()
            self._refuse_if_missing()
            self._load()
        except PluginError as error:
            self.end()
            if self.usage.attempts:
                error.cause += f"; it tried to {'; to '.join(describe_denials(self.usage.attempts))}; refused"
            raise
        except BaseException:
            self.end()
            raise

    def restart(self) -> None:
        """Replace all processes by fresh ones; raises what ``start`` does."""
        regions = self._end()
        self._close_left()
        self._left += regions
        self.start()

    def examine(self) -> tuple[LayerStatus, ...]:
        """Fork and lock up, load nothing, and return how the layers stand, whatever that is."""
        try:
            self._lock_up()
        finally:
            self.end()
        return self.layers

    def count_results(self) -> None:
        """Add up the memory that workers write results to; it counts towards the budget."""
        self._account.result_bytes = sum(worker.exchange.result_bytes for worker in self.workers)

    def _lock_up(self) -> None:
        limit = self.usage.budget_bytes // self.spec.workers
        self._account = Account(
            self.usage.budget_bytes,
            self.usage,
            threads=self.spec.threads,
            files_are_memory=is_in_memory(self._services.folder),
        )
        self._write_digested()
        cgroup_status = self._make_cgroup()
        for _ in range(self.spec.workers):
            cgroup_status = self._fork(limit, cgroup_status)
        self._services.watchdog.add(self._account)
        self._lock(limit, cgroup_status)

    def _refuse_if_missing(self) -> None:
        try:
            refuse_if_missing(self.layers, self.spec.name)
        except SandboxUnavailableError as error:
            error.layers = self.layers
            raise

    def _own_layers(self) -> tuple[LayerStatus, LayerStatus]:
        """Say how the layers stand that work on this side of the boundary."""
        watchdog = (
            LayerStatus("watchdog", "active", self._cadence(), ("thread_alive",))
            if self._services.watchdog.is_alive()
            else lacking("watchdog", "failed", "its thread has ended")
        )
        messages = LayerStatus(
            "messages", "active", "fixed schema, no pickle, copied before checked", ("schema",)
        )
        return watchdog, messages

    def _cadence(self) -> str:
        looks = f"looks every {INTERVAL_S * 1000:.0f} ms, more often the less memory is left"
        if not self._account.files_are_memory:
            return looks
        return f"{looks}; scratch folders lie in memory, which it alone bounds (no disk to put them on)"

    def _scratch_bytes(self) -> int:
        """Return what a worker's files may take of its memory."""
        return MAX_IN_MEMORY_BYTES if self._account.files_are_memory else 0

    def _make_cgroup(self) -> LayerStatus:
        if "cgroup" in self._services.skip_layers:
            return lacking("cgroup", "disabled", "switched off")
        try:
            # What it inherits is charged to the zygote, as long as it does not write to it.
            self._cgroup = Cgroup.create(self.spec.name, self.usage.budget_bytes)
            self._account.cgroup = self._cgroup
        except CgroupUnavailableError as error:
            return lacking("cgroup", "unavailable", str(error))
        limit = self.usage.budget_bytes // MIB
        return LayerStatus("cgroup", "active", f"{limit} MiB", ("limit_set", "worker_inside"))

    def _fork(self, limit: int, cgroup_status: LayerStatus) -> LayerStatus:
        """Add a worker; returns how the cgroup stands with it."""
        process, sock = self._services.fork(for_optimizer=self.spec.role == OPTIMIZER.name)
        process.inherited_bytes = used_bytes(process.pid) or 0
        process.output = self.usage.output
        channel = Channel(
            self.spec.name,
            sock,
            process,
            self._account,
            limit,
            self._services.reap,
            self._oom_kills,
            self._advise,
            self._services.stop,
            self._services.watchdog.clock,
        )
        # Listed at once, so that it is ended whatever happens next.
        self.workers.append(WorkerHandle(channel, WorkerMemory(channel, self._services.arena, self._left)))
        self._account.processes.append(process)
        least = process.inherited_bytes + MIN_BUDGET_BYTES
        if limit < least:
            others = self._services.plugins
            among = (
                f" ({others} plugins share this machine's memory: use fewer, or let one that you trust run "
                "with 'isolation: trusted')"
                if others > 1
                else ""
            )
            raise BudgetTooSmallError(
                f"each of its {self.spec.workers} workers may use {limit // MIB} MiB, and torch needs "
                f"{least // MIB} to start{among}; use fewer workers or a larger memory_fraction",
                plugin=self.spec.name,
                limit_bytes=limit,
                least_bytes=least,
            )
        if self._cgroup is None:
            return cgroup_status
        try:
            self._cgroup.add(process.pid)
            held = self._cgroup.holds(process.pid)
        except OSError as error:
            return lacking("cgroup", "failed", f"a worker could not be put into it: {error}")
        return (
            cgroup_status
            if held
            else lacking("cgroup", "failed", "a worker that was put into it is not there")
        )

    def _lock(self, limit: int, cgroup_status: LayerStatus) -> None:
        """Have every worker lock itself up and try to get out."""
        self._check_grants()
        if self.spec.permissions.targets:
            self._broker = ConnectionBroker(self.spec.name, self.spec.permissions.targets, len(self.workers))
            self._account.queues += self._broker.queues
        asked = [(worker, self._open(worker, limit)) for worker in self.workers]
        found = []
        for worker, pending in asked:
            try:
                locked = worker.channel.wait(pending, _LOCK_DEADLINE_S)
            except PluginTimeoutError as error:
                raise SandboxUnavailableError(
                    f"a process was to be locked up for plugin '{self.spec.name}', and did not say within "
                    f"{_LOCK_DEADLINE_S:g} s how its layers stand, so none of them counts as active. "
                    "Something holds system calls up, or this machine is too busy: see to that, or write "
                    f"'isolation: trusted' beside '{self.spec.name}' to run it unprotected"
                ) from error
            if not isinstance(locked, Locked):
                raise worker.channel.reject(f"answered 'open' with {type(locked).__name__}", pending)
            _check_claim(check_locked, locked, worker, pending)
            if worker.attempts is not None:
                _check_claim(Denials.count_from_now, worker.attempts, worker, pending)
            # One that is gone by now is told of by the next request, with its cause.
            with contextlib.suppress(ProcessLookupError):
                worker.channel.process.ceiling = Ceiling(worker.channel.process.pid)
            worker.channel.refuse_descriptors()
            found.append(combine(locked.layers, locked.probes, cgroup_status, *self._own_layers()))
        self.layers = merge_worst(found)

    def _open(self, worker: WorkerHandle, limit: int) -> Pending:
        scratch = self._make_scratch(worker.channel.process)
        network = Network(self.spec.name, self.spec.permissions.targets)
        message = Open(self._confinement(scratch, limit), self._probe_context(scratch), network)
        take_listener = functools.partial(self._watch, worker)
        worker.channel.begin(_LOCK_DEADLINE_S)
        if self._broker is None:
            return worker.channel.ask(message, take_listener=take_listener)
        with self._broker.ends.pop() as line:
            return worker.channel.ask(message, fds=(line.fileno(),), take_listener=take_listener)

    def _watch(self, worker: WorkerHandle, listener: int) -> None:
        process = worker.channel.process
        worker.attempts = self._services.answerer.watch(listener, process.pid, self.usage, process.scratch)

    def _check_grants(self) -> None:
        for grant in self.spec.permissions.paths:
            if not is_unchanged(grant):
                raise PluginLoadError(
                    f"{grant.path}, which the job grants it, was replaced or removed since the run began; "
                    "put it back, or start the run again",
                    plugin=self.spec.name,
                )

    def _write_digested(self) -> None:
        """Write down what workers hold their imports to, once it is known that it is still so."""
        digested = self.spec.digested
        if digested is None:
            return
        if changed := next(digested.changed(), None):
            raise PluginLoadError(
                f"{changed} has changed since the run began; put it back, or start the run again",
                plugin=self.spec.name,
            )
        self._digested = self._services.folder / f"digested-{self.spec.name}"
        try:
            self._digested.write_bytes(msgspec.msgpack.encode(digested))
        except OSError as error:
            raise self._no_folder("file of digests", self._digested, error) from error

    def _no_folder(self, what: str, path: Path, error: OSError) -> SandboxUnavailableError:
        status = lacking("environment", "failed", f"no {what}: {error.strerror}: {path}")
        return SandboxUnavailableError(explain_missing([status], self.spec.name), layers=(status,))

    def _make_scratch(self, process: Process) -> str:
        scratch = self._services.folder / f"scratch-{process.pid}"
        try:
            scratch.mkdir(mode=0o700)
        except OSError as error:
            raise self._no_folder("scratch folder", scratch, error) from error
        process.scratch = str(scratch)
        return process.scratch

    def _load(self) -> None:
        spec = self.spec
        start = Start(
            spec.module,
            spec.qualname,
            spec.role,
            dict(spec.options),
            spec.search_path,
            dict(spec.roots),
            spec.threads,
            derive_seed(spec.job_seed, spec.name, "start"),
            spec.lack,
            "" if self._digested is None else str(self._digested),
        )
        asked = []
        try:
            for worker in self.workers:
                worker.channel.begin(spec.start_deadline_s)
                asked.append((worker, worker.channel.ask(start)))
        except (MessageError, OverflowError) as error:
            raise PluginLoadError(f"its options cannot be sent: {error}", plugin=spec.name) from error
        outbox, spares = OUTBOX_BYTES if spec.role_info.observes else SMALL_OUTBOX_BYTES, BufferPool()
        for worker, pending in asked:
            ready = worker.channel.wait(pending, spec.start_deadline_s)
            if not isinstance(ready, Ready):
                raise worker.channel.reject(f"answered 'start' with {type(ready).__name__}", pending)
            _check_claim(check_ready, ready, worker, pending)
            # What was checked when it first started must be what runs now, in every worker.
            if self.ready not in (None, ready):
                raise worker.channel.reject("is not the plugin that was started before", pending)
            self.ready = ready
            worker.slots = [CallMemory(worker.exchange, outbox, spares) for _ in range(SLOTS_PER_WORKER)]
        self.count_results()

    def _confinement(self, scratch: str, limit: int) -> Confinement:
        return Confinement(
            readable=(*readable_paths(self.spec), *([] if self._digested is None else [str(self._digested)])),
            scratch=scratch,
            data_limit_bytes=limit - self._scratch_bytes(),
            scratch_file_bytes=MAX_IN_MEMORY_BYTES if self._account.files_are_memory else MAX_FILE_BYTES,
            max_fds=_MAX_FDS,
            keep_fds=(),
            environment=worker_environment(scratch, self.spec.threads),
            parent_pid=0,
            skip=self._services.skip_layers,
            grants=self.spec.permissions.paths,
        )

    def _probe_context(self, scratch: str) -> ProbeContext:
        return ProbeContext(
            host_pid=os.getpid(),
            canary_path=str(self._services.canary),
            scratch=scratch,
            env_canary=ENV_CANARY,
            host_network=network_inode(),
        )

    def _advise(self, cause: str, traceback: str, refused: bytes) -> str:
        spec = self.spec
        return how_to_allow(
            refused, spec.name, spec.permissions, (*readable_paths(spec), *SYSTEM)
        ) or what_instead(cause, traceback, spec.permissions, self.usage.attempts or ())

    def _oom_kills(self) -> int:
        return 0 if self._cgroup is None else self._cgroup.oom_kills()

    def end(self) -> None:
        """End all processes and free what they held; safe to call twice."""
        self._left += self._end()
        self._close_left()

    def _close_left(self) -> None:
        while self._left:
            self._left.pop().close()

    def _end(self) -> list[Region]:
        """End all processes; return the memory that only they could write to, or read."""
        regions = []
        self._services.watchdog.remove(self._account)
        if self._broker is not None:
            self._broker.close()
            self._broker = None
        while self.workers:
            worker = self.workers.pop()
            if worker.attempts is not None:
                self._services.answerer.forget(worker.attempts)
            worker.channel.close()
            for slot in worker.slots:
                slot.close()
            regions += worker.exchange.close()
            if worker.channel.process.scratch is not None:
                self.usage.left_files = self.usage.left_files or names_in(worker.channel.process.scratch)
                self._services.remove_scratch(worker.channel.process.scratch)
        self._account.processes.clear()
        self.usage.memory_bytes = 0
        if self._cgroup is not None:
            self._cgroup.close()
            self._cgroup = None
        return regions


def _check_claim(
    check: Callable[[_Claim], None], claim: _Claim, worker: WorkerHandle, pending: Pending
) -> None:
    """Check what a worker says of itself; one that says what cannot be is ended.

    Raises:
        PluginProtocolError: It did.
    """
    try:
        check(claim)
    except MessageError as error:
        raise worker.channel.reject(f"named {error}", pending) from error
