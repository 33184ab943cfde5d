"""The sandbox of a run: one zygote, one watchdog, the memory that plugins share with the host."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from ..hooks.errors import SandboxUnavailableError
from ..hooks.plugin import PluginSpec
from .cgroup import sweep_stale
from .crew import ENV_CANARY
from .host import IsolatedPlugin
from .memory import Arena
from .protocol import Fork, Forked, MessageError, Reap, Reaped, from_zygote, receive_with_fds, send
from .watchdog import Process, Watchdog

#: Importing torch takes seconds on a loaded machine; the first fork waits for it.
ZYGOTE_START_S = 120.0
ZYGOTE_REPLY_S = 20.0


class Sandbox:
    """Starts plugins, each in processes of its own; a context manager.

    The zygote starts at once and imports torch while the host goes on.

    Args:
        skip_layers: Layers to leave out, for showing what each of them stops; a
            plugin is refused all the same where a required one is left out.

    Raises:
        SandboxUnavailableError: This is not Linux.

    Attributes:
        arena: Memory that the host writes and plugins read.
        watchdog: Holds every plugin to its budget.
    """

    def __init__(self, *, skip_layers: tuple[str, ...] = ()) -> None:
        if sys.platform != "linux":
            raise SandboxUnavailableError(
                f"plugins can be isolated on Linux only, not on {sys.platform}; "
                "run those that you trust with 'isolation: trusted'"
            )
        # What a trainer that was killed could not take along.
        sweep_stale()
        self.skip_layers = skip_layers
        self.arena = Arena()
        self.watchdog = Watchdog()
        self.folder = Path(tempfile.mkdtemp(prefix="ringfence-"))
        self.canary = self.folder / "canary"
        self.canary.write_text("a file that no plugin may read")
        self._plugins: list[IsolatedPlugin] = []
        self._start_zygote()

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
        """End all plugins and the zygote, and remove every file; safe to call twice."""
        for plugin in self._plugins:
            plugin.close()
        self._plugins.clear()
        self.watchdog.close()
        self._stop_zygote()
        self.arena.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # for the plugins' stand-ins

    def fork(self) -> tuple[Process, socket.socket]:
        """Fork a worker that waits for ``Open``; returns it and the host's end of its socket."""
        if self._zygote.poll() is not None:
            self._stop_zygote()
            self._start_zygote()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log_read, log_write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(log_read, False)
        try:
            pid, pidfd = self._request_fork(theirs.fileno(), log_write)
        except BaseException:
            ours.close()
            os.close(log_read)
            raise
        finally:
            theirs.close()
            os.close(log_write)
        return Process(pid, pidfd, log_read), ours

    def reap(self, process: Process) -> int | None:
        """Collect a worker that was killed or has ended; None if the zygote is gone as well.

        Returns:
            Its exit code, or minus the number of the signal that ended it.
        """
        if process.reaped:
            return process.status
        process.reaped = True
        try:
            send(self._control, Reap(process.pid))
            reply, _ = receive_with_fds(self._control, from_zygote, 1)
        except (OSError, EOFError, MessageError):
            return None
        if isinstance(reply, Reaped):
            process.status = reply.status
        return process.status

    def remove_scratch(self, folder: str) -> None:
        """Remove a worker's scratch folder, whatever it made of it."""
        shutil.rmtree(folder, ignore_errors=True)

    # inside

    def _start_zygote(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(ZYGOTE_START_S)
        with theirs:
            self._zygote = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-m",
                    "ringfence.isolation.zygote",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                env={
                    "PATH": "/usr/bin:/bin",
                    "LANG": "C.UTF-8",
                    # No thread pool of any library may exist before a fork.
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "MKL_NUM_THREADS": "1",
                    # Workers share the processors with the trainer: one that waits must not spin.
                    "OMP_WAIT_POLICY": "PASSIVE",
                    "NO_ALBUMENTATIONS_UPDATE": "1",
                    ENV_CANARY: "a value that no plugin may see",
                },
                stdin=subprocess.DEVNULL,
                cwd="/",
                pass_fds=(theirs.fileno(),),
            )

    def _stop_zygote(self) -> None:
        self._control.close()
        self._zygote.kill()
        self._zygote.wait()

    def _request_fork(self, worker_socket: int, log: int) -> tuple[int, int]:
        try:
            send(self._control, Fork(), (worker_socket, log))
            reply, fds = receive_with_fds(self._control, from_zygote, 1)
        except (OSError, EOFError, MessageError) as error:
            raise SandboxUnavailableError(
                "the process that plugins are forked from did not start "
                f"(exit status {self._zygote.poll()}): {error or type(error).__name__}"
            ) from error
        self._control.settimeout(ZYGOTE_REPLY_S)
        assert isinstance(reply, Forked)  # noqa: S101 - the zygote runs no plugin code
        return reply.pid, fds[0]
