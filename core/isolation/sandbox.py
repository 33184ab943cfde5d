"""The sandbox of a run: one zygote, one watchdog, the memory that plugins share with the host."""

from __future__ import annotations

import atexit
import math
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from ..hooks.errors import PluginLoadError, SandboxUnavailableError
from ..plugins.interface import MAX_FRACTION_TOGETHER, PluginSpec
from ..plugins.stop_request import StopRequest
from .host.grants.denials import Answerer
from .host.isolated_plugin import IsolatedPlugin
from .host.limits.cgroup import sweep_stale
from .host.limits.memory_budget import budget_bytes, total_bytes
from .host.limits.scratch_folder import ScratchRoot, remove_tree, sweep_stale_folders
from .host.limits.watchdog import Watchdog
from .host.limits.worker_process import DEATH_S, Process, ends_within
from .host.processes.layer_report import explain_missing
from .host.processes.zombies import Zombies
from .host.processes.zygote_client import ForkRefusedError, NotEndedError, Zygote, ZygoteLostError
from .host.processes.zygote_process import EarlyZygote
from .policy.layer_status import lacking, require_known
from .transport.shared_memory import Arena

#: How long a sweep of what others left may take before the sandbox is made without waiting for it.
_SWEEP_S = 2.0
#: Instead of ``DEATH_S``, once the user wants the run to end and the time for that is over.
_LAST_DEATH_S = 0.5
_NO_PROCESS = (
    "no process for plugins could be started: {}; end other processes or raise the limit on them "
    "(ulimit -u, ulimit -n, pids.max), or write 'isolation: trusted' beside a plugin to run it unprotected"
)


def _unavailable(layer: str, why: str) -> SandboxUnavailableError:
    status = lacking(layer, "failed", why)
    return SandboxUnavailableError(explain_missing([status]), layers=(status,))


def _sweep() -> None:
    """Remove what trainers that were killed could not take along.

    In a thread, since nobody can tell how long a disk takes: one that hangs must not hold up a run that
    does not need it. The thread ends with the process.
    """
    thread = threading.Thread(target=_sweep_all, name="ringfence-sweep", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return  # the threads that a sandbox needs are refused as well, and that is told
    thread.join(_SWEEP_S)


def _sweep_all() -> None:
    sweep_stale()
    sweep_stale_folders()


def _require_proc() -> None:
    """Make sure that ``/proc`` tells of us: the watchdog would measure nothing, or another process.

    Raises:
        SandboxUnavailableError: It is not mounted, or it is another container's.
    """
    try:
        number = os.readlink("/proc/self")  # noqa: PTH115 - a Path adds nothing here
    except OSError as error:
        raise _unavailable(
            "watchdog", f"/proc is not mounted ({error.strerror}), so nothing can be measured"
        ) from error
    try:
        total_bytes()
    except (OSError, ValueError) as error:
        raise _unavailable(
            "rlimits", f"a budget needs the machine's memory, and /proc does not tell it: {error}"
        ) from error
    if number != str(os.getpid()):
        raise _unavailable(
            "watchdog", "/proc was mounted by another container, so others would be measured than plugins"
        )


class Sandbox:
    """Starts plugins, each in processes of its own; a context manager.

    The zygote starts at once and imports torch while the host goes on.

    Args:
        skip_layers: Layers to leave out, for showing what each of them stops; a
            plugin is refused all the same where a required one is left out.
        plugins: How many are to be started, for messages about memory that they share.
        optimizer: One of them is an optimizer: all start with what those import, so that one that is started
            anew has as much of its budget left as before.
        stop: Cuts off what is waited for, once the user wants the run to end.
        zygote: Taken if it is there still.

    Raises:
        SandboxUnavailableError: This is not Linux, or it has not what every sandbox needs: ``/proc``, a
            process, a thread, a folder.
        ValueError: There is no such layer to leave out.

    Attributes:
        arena: Memory that the host writes and plugins read.
        watchdog: Holds every plugin to its budget.
        answerer: Hears what plugins try and are refused.
        folder: Where plugins' scratch folders lie; removed with the sandbox.
        canary: A file that no plugin may read.
    """

    def __init__(
        self,
        *,
        skip_layers: tuple[str, ...] = (),
        plugins: int = 1,
        optimizer: bool = False,
        stop: StopRequest | None = None,
        zygote: EarlyZygote | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise SandboxUnavailableError(
                f"plugins can be isolated on Linux only, not on {sys.platform}; "
                "run those that you trust with 'isolation: trusted'"
            )
        require_known(skip_layers)
        _require_proc()
        _sweep()
        self.skip_layers = skip_layers
        self.plugins = plugins
        self.stop = stop or StopRequest()
        self._optimizer = optimizer
        self._owner = os.getpid()
        self._plugins: list[IsolatedPlugin] = []
        self._dying = Zombies()
        #: What to do at the end, last first.
        self._at_end: list[Callable[[], None]] = []
        # Ctrl-C may come at any line, even where a context ends, before it has begun to end.
        atexit.register(self._close_at_exit)
        try:
            self.arena = Arena()
            self._at_end.append(self.arena.close)
            self._make_folder()
            self._start_zygote(zygote)
            self._start_threads()
        except BaseException:
            self.close()
            raise
        self._is_open = True

    def _make_folder(self) -> None:
        try:
            run_folder = ScratchRoot()
            self._at_end.append(lambda: run_folder.close(remove=self._dying.close()))
            self.folder = run_folder.path
            self.canary = self.folder / "canary"
            self.canary.write_text("a file that no plugin may read")
        except OSError as error:
            raise _unavailable("environment", f"no folder for plugins could be made: {error}") from error

    def _start_zygote(self, early: EarlyZygote | None) -> None:
        try:
            self._zygote = Zygote(0, self.stop, None if early is None else early.take())
        except OSError as error:
            raise SandboxUnavailableError(_NO_PROCESS.format(error)) from error
        self._at_end.append(self._close_zygote)

    def _start_threads(self) -> None:
        try:
            self.watchdog = Watchdog()
            self._at_end.append(self.watchdog.close)
            self.answerer = Answerer()
            self._at_end.append(self.answerer.close)
        except RuntimeError as error:  # what Python makes of a thread that the kernel refuses
            raise _unavailable("watchdog", str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor that plugins can read without a copy; an ``Allocate``."""
        return self.arena.allocate(shape, dtype)

    def start(self, spec: PluginSpec) -> IsolatedPlugin:
        """Start one plugin, locked up and loaded.

        Raises:
            SandboxUnavailableError: A required layer is missing on this machine.
            PluginError: It could not be imported or constructed within its limits, or its budget and
                those of the plugins that run already are more than plugins may have together.
        """
        self._admit(spec)
        plugin = IsolatedPlugin(spec, self)
        self._plugins.append(plugin)
        return plugin

    def close(self) -> None:
        """End all plugins and the zygote, and remove every file; safe to call twice.

        Raises:
            Exception: The first that something raised as it was ended; the rest was ended all the same.
        """
        self._is_open = False
        self._at_end += [plugin.close for plugin in reversed(self._plugins)]
        self._plugins.clear()
        errors: list[BaseException] = []
        while self._at_end:
            try:
                self._at_end[-1]()
            except KeyboardInterrupt as error:
                # It may have come before the first line of that, so that is done again.
                errors.append(error)
                continue
            except BaseException as error:  # noqa: BLE001 - no process may stay behind; raised below
                errors.append(error)
            self._at_end.pop()
        atexit.unregister(self._close_at_exit)
        if errors:
            raise errors[0]

    def _close_at_exit(self) -> None:
        # A process that was forked from this one has no sandbox of its own.
        if os.getpid() == self._owner:
            self.close()

    def _admit(self, spec: PluginSpec) -> None:
        running = sum(plugin.usage.budget_bytes for plugin in self._plugins if plugin.is_running)
        wanted, most = budget_bytes(spec.memory_fraction), math.ceil(MAX_FRACTION_TOGETHER * total_bytes())
        if running + wanted > most:
            raise PluginLoadError(
                f"its budget of {wanted >> 20} MiB and the {running >> 20} MiB of plugins that run already "
                f"are more than the {most >> 20} MiB that plugins may have together, "
                f"{MAX_FRACTION_TOGETHER:.0%} of this machine's memory; lower memory_fraction",
                plugin=spec.name,
            )

    # for the plugins' stand-ins

    def fork(self, *, for_optimizer: bool = False) -> tuple[Process, socket.socket]:
        """Fork a worker that waits for ``Open``; returns it and the host's end of its socket.

        A zygote that is gone is replaced; its workers have gone with it.

        Args:
            for_optimizer: It shares what optimizers of torch import.

        Raises:
            SandboxUnavailableError: There can be no other process, or no zygote.
        """
        for_optimizer = for_optimizer or self._optimizer
        try:
            try:
                return self._fork_once(for_optimizer=for_optimizer)
            except ZygoteLostError as error:
                if not error.may_retry:
                    raise
                return self._fork_once(for_optimizer=for_optimizer)
        except ZygoteLostError as error:
            raise SandboxUnavailableError(
                f"the process that plugins are forked from is gone: {error}"
            ) from error
        except ForkRefusedError as error:
            raise SandboxUnavailableError(
                f"{error}; end other processes, or raise the limit on them (ulimit -u, pids.max)"
            ) from error
        except OSError as error:
            raise SandboxUnavailableError(_NO_PROCESS.format(error)) from error

    def reap(self, process: Process) -> int | None:
        """Collect a worker that was killed or has ended; None if its zygote is gone as well, or if it hangs.

        One that does not end in the time that is waited for it is collected when it has.

        Returns:
            Its exit code, or minus the number of the signal that ended it.
        """
        if process.reaped:
            return process.status
        process.reaped = True
        if process.generation == self._zygote.generation and not self._zygote.has_ended():
            try:
                patience_s = _LAST_DEATH_S if self.stop.is_over else DEATH_S
                if not ends_within(process.pidfd, patience_s):
                    raise NotEndedError
                process.status = self._zygote.reap(process.pid)
            except NotEndedError:
                self._dying.add(process)
        return process.status

    def remove_scratch(self, folder: str) -> None:
        """Remove a worker's scratch folder, whatever it made of it, once the worker has ended."""
        if not self._dying.holds(folder):
            remove_tree(Path(folder))

    # inside

    def _close_zygote(self) -> None:
        # The one that there is now, which need not be the first.
        self._dying.collect(self._zygote)
        self._zygote.close()

    def _fork_once(self, *, for_optimizer: bool) -> tuple[Process, socket.socket]:
        if not self._is_open:
            raise SandboxUnavailableError("this sandbox has been closed; make another one")
        if self._zygote.has_ended():
            self._zygote.close()
            self._zygote = Zygote(self._zygote.generation + 1, self.stop)
        self._dying.collect(self._zygote)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                log_read, log_write = os.pipe2(os.O_CLOEXEC)
                try:
                    os.set_blocking(log_read, False)
                    pid, pidfd = self._zygote.fork(theirs.fileno(), log_write, for_optimizer=for_optimizer)
                except BaseException:
                    os.close(log_read)
                    raise
                finally:
                    os.close(log_write)
        except BaseException:
            ours.close()
            raise
        return Process(pid, pidfd, log_read, self._zygote.generation), ours
