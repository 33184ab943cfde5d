"""The sandbox of a run: one zygote, one watchdog, the memory that plugins share with the host."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from ..hooks.errors import SandboxUnavailableError
from ..hooks.plugin import PluginSpec
from .cgroup import sweep_stale
from .forking import ForkRefusedError, Zygote, ZygoteLostError
from .host import IsolatedPlugin
from .memory import Arena
from .scratch import RunFolder, remove_tree, sweep_stale_folders
from .watchdog import Process, Watchdog


class Sandbox:
    """Starts plugins, each in processes of its own; a context manager.

    The zygote starts at once and imports torch while the host goes on.

    Args:
        skip_layers: Layers to leave out, for showing what each of them stops; a
            plugin is refused all the same where a required one is left out.

    Raises:
        SandboxUnavailableError: This is not Linux.
        OSError: The process that plugins are forked from, or a folder for them, could not be made.

    Attributes:
        arena: Memory that the host writes and plugins read.
        watchdog: Holds every plugin to its budget.
        folder: Where plugins' scratch folders lie; removed with the sandbox.
        canary: A file that no plugin may read.
    """

    def __init__(self, *, skip_layers: tuple[str, ...] = ()) -> None:
        if sys.platform != "linux":
            raise SandboxUnavailableError(
                f"plugins can be isolated on Linux only, not on {sys.platform}; "
                "run those that you trust with 'isolation: trusted'"
            )
        # What a trainer that was killed could not take along.
        sweep_stale()
        sweep_stale_folders()
        self.skip_layers = skip_layers
        self._plugins: list[IsolatedPlugin] = []
        #: What to do at the end, last first.
        self._at_end: list[Callable[[], None]] = []
        try:
            self.arena = Arena()
            self._at_end.append(self.arena.close)
            run_folder = RunFolder()
            self._at_end.append(run_folder.close)
            self.folder = run_folder.path
            self.canary = self.folder / "canary"
            self.canary.write_text("a file that no plugin may read")
            self._zygote = Zygote(0)
            self._at_end.append(self._close_zygote)
            self.watchdog = Watchdog()
            self._at_end.append(self.watchdog.close)
        except BaseException:
            self.close()
            raise
        self._is_open = True

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
            PluginError: It could not be imported or constructed within its limits.
        """
        plugin = IsolatedPlugin(spec, self)
        self._plugins.append(plugin)
        return plugin

    def close(self) -> None:
        """End all plugins and the zygote, and remove every file; safe to call twice.

        Raises:
            Exception: The first that something raised as it was ended; the rest was ended all the same.
        """
        self._is_open = False
        steps = [*self._at_end, *(plugin.close for plugin in reversed(self._plugins))]
        self._plugins.clear()
        self._at_end.clear()
        errors: list[BaseException] = []
        while steps:
            try:
                steps.pop()()
            except BaseException as error:  # noqa: BLE001 - no process may stay behind; raised below
                errors.append(error)
        if errors:
            raise errors[0]

    # for the plugins' stand-ins

    def fork(self) -> tuple[Process, socket.socket]:
        """Fork a worker that waits for ``Open``; returns it and the host's end of its socket.

        A zygote that is gone is replaced; its workers have gone with it.

        Raises:
            SandboxUnavailableError: There can be no other process, or no zygote.
        """
        try:
            try:
                return self._fork_once()
            except ZygoteLostError as error:
                if not error.may_retry:
                    raise
                return self._fork_once()
        except ZygoteLostError as error:
            raise SandboxUnavailableError(
                f"the process that plugins are forked from is gone: {error}"
            ) from error
        except ForkRefusedError as error:
            raise SandboxUnavailableError(
                f"{error}; end other processes, or raise the limit on them (ulimit -u, pids.max)"
            ) from error

    def reap(self, process: Process) -> int | None:
        """Collect a worker that was killed or has ended; None if its zygote is gone as well.

        Returns:
            Its exit code, or minus the number of the signal that ended it.
        """
        if process.reaped:
            return process.status
        process.reaped = True
        if process.generation == self._zygote.generation and not self._zygote.has_ended():
            process.status = self._zygote.reap(process.pid)
        return process.status

    def remove_scratch(self, folder: str) -> None:
        """Remove a worker's scratch folder, whatever it made of it; the worker has ended."""
        remove_tree(Path(folder))

    # inside

    def _close_zygote(self) -> None:
        # The one that there is now, which need not be the first.
        self._zygote.close()

    def _fork_once(self) -> tuple[Process, socket.socket]:
        if not self._is_open:
            raise SandboxUnavailableError("this sandbox has been closed; make another one")
        if self._zygote.has_ended():
            self._zygote.close()
            self._zygote = Zygote(self._zygote.generation + 1)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                log_read, log_write = os.pipe2(os.O_CLOEXEC)
                try:
                    os.set_blocking(log_read, False)
                    pid, pidfd = self._zygote.fork(theirs.fileno(), log_write)
                except BaseException:
                    os.close(log_read)
                    raise
                finally:
                    os.close(log_write)
        except BaseException:
            ours.close()
            raise
        return Process(pid, pidfd, log_read, self._zygote.generation), ours
