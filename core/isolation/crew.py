"""The processes of one plugin, from fork to end."""

from __future__ import annotations

import importlib.util
import os
import site
import socket
import sys
import sysconfig
from pathlib import Path
from typing import Protocol

from ..hooks.errors import PluginLoadError, SandboxUnavailableError
from ..hooks.plugin import PluginSpec, PluginUsage
from ..hooks.types import derive_seed
from .budget import used_bytes
from .cgroup import Cgroup, CgroupUnavailableError
from .channel import MIB, Channel
from .exchange import OUTBOX_BYTES, SMALL_OUTBOX_BYTES, Exchange, Slot
from .imports import user_site
from .layers import Confinement, LayerStatus
from .memory import Arena, Region
from .probes import ProbeContext
from .protocol import Locked, MessageError, Open, Ready, Start
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


class Worker:
    """One process of a plugin, with the memory that it shares with the host."""

    def __init__(self, channel: Channel, exchange: Exchange) -> None:
        self.channel = channel
        self.exchange = exchange
        self.slots: list[Slot] = []
        self.state_region: Region | None = None


class Crew:
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
        self.workers: list[Worker] = []
        self.layers: tuple[LayerStatus, ...] = ()
        self.ready: Ready | None = None
        self._services = services
        self._cgroup: Cgroup | None = None
        self._account = Account(usage.budget_bytes, usage)

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
        except BaseException:
            self.end()
            raise

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
        self._account = Account(self.usage.budget_bytes, self.usage)
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
        self.workers.append(Worker(channel, Exchange(channel, self._services.arena)))
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
        """Have every worker lock itself up and try to get out."""
        asked = []
        for worker in self.workers:
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
        )
        asked = []
        try:
            for worker in self.workers:
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
            if self.ready not in (None, ready):
                raise worker.channel.reject("is not the plugin that was started before", pending)
            self.ready = ready
            worker.slots = [Slot(worker.exchange, outbox) for _ in range(SLOTS_PER_WORKER)]
        self.count_results()

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

    def end(self) -> None:
        """End all processes and free what they held; safe to call twice."""
        self._services.watchdog.remove(self._account)
        while self.workers:
            worker = self.workers.pop()
            worker.channel.close()
            worker.exchange.close()
            if worker.channel.process.scratch is not None:
                self._services.remove_scratch(worker.channel.process.scratch)
        self._account.processes.clear()
        self.usage.memory_bytes = 0
        if self._cgroup is not None:
            self._cgroup.close()
            self._cgroup = None


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
    paths += [user_site()] if user_site() else []
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
