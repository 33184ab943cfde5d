"""The host's end of the zygote: start it, have it fork and collect workers, notice when it is lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from .crew import ENV_CANARY
from .imports import import_paths, user_site
from .protocol import (
    Fork,
    Forked,
    FromZygote,
    MessageError,
    Reap,
    Reaped,
    Refused,
    ToZygote,
    from_zygote,
    receive_with_fds,
    send,
)

#: Importing torch takes seconds on a loaded machine; the first reply waits for it.
START_S = 120.0
REPLY_S = 20.0
#: How long one that has closed its socket may take to end, before it is killed.
_END_S = 1.0

# Isolated from environment and current folder, but not from where packages are.
_BOOT = """
import site, sys
if sys.argv[3]:
    site.addsitedir(sys.argv[3])
sys.path[:] = sys.argv[4:]
from ringfence.isolation.zygote import main
main()
"""


class ZygoteLostError(Exception):
    """The zygote ended or did not do as asked; it has been killed, and its workers with it.

    Attributes:
        may_retry: Another one may do better: this one was ended, it neither failed to start nor hung.
    """

    def __init__(self, reason: str, *, may_retry: bool = False) -> None:
        super().__init__(reason)
        self.may_retry = may_retry


class ForkRefusedError(Exception):
    """The kernel has refused the zygote another process; what there is goes on."""


class Zygote:
    """One zygote, from start to end; imports torch while the host goes on.

    Args:
        generation: How many there were before it in this run.
    """

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._has_answered = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(START_S)
        arguments = [str(theirs.fileno()), str(os.getpid()), user_site(), *import_paths()]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _BOOT, *arguments],
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                )
        except BaseException:
            self._control.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Tell whether it is gone, by itself or by ``close``."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Send SIGKILL to it."""
        self._process.kill()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.wait()

    def close(self) -> None:
        """End it, and its workers with it; safe to call twice."""
        self._control.close()
        self._process.kill()
        self._process.wait()

    def fork(self, worker_socket: int, log: int) -> tuple[int, int]:
        """Fork a worker that is handed two descriptors; returns its process id and a pidfd.

        Raises:
            ForkRefusedError: There can be no other process now.
            ZygoteLostError: It is gone.
        """
        reply, fds = self._ask(Fork(), (worker_socket, log))
        match reply:
            case Forked(pid) if len(fds) == 1:
                return pid, fds[0]
            case Refused(reason):
                raise ForkRefusedError(reason)
        for fd in fds:
            os.close(fd)
        self.close()
        raise ZygoteLostError(f"it answered a fork with {type(reply).__name__}")

    def reap(self, pid: int) -> int | None:
        """Collect a worker of its own; None if that, or it, is gone."""
        try:
            reply, _ = self._ask(Reap(pid))
        except ZygoteLostError:
            return None
        match reply:
            case Reaped(collected, status) if collected == pid:
                return status
            case Refused():
                return None
        self.close()
        return None

    def _ask(self, message: ToZygote, fds: tuple[int, ...] = ()) -> tuple[FromZygote, list[int]]:
        try:
            send(self._control, message, fds)
            reply, received = receive_with_fds(self._control, from_zygote, 1)
        except (OSError, EOFError, MessageError) as error:
            raise self._lost(error) from error
        except BaseException:
            # A reply that comes later would be taken for one to another request.
            self.close()
            raise
        self._control.settimeout(REPLY_S)
        self._has_answered = True
        return reply, received

    def _lost(self, error: Exception) -> ZygoteLostError:
        if isinstance(error, TimeoutError):
            reason = f"it did not answer within {self._control.gettimeout():g} s"
            self.close()
            return ZygoteLostError(reason)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            reason = f"{type(error).__name__} {error}".strip()
        else:
            reason = f"it ended with status {self._process.returncode}"
        failed = not self._has_answered and (self._process.returncode or 0) > 0
        self.close()
        if failed:
            reason += (
                " as it started, after what it printed above. It imports ringfence and torch from where this "
                "process does, but not from the current folder or that of a script: install them there"
            )
        return ZygoteLostError(reason, may_retry=not failed)


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        # No thread pool of any library may exist before a fork.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # Workers share the processors with the trainer: one that waits must not spin.
        "OMP_WAIT_POLICY": "PASSIVE",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        # A plugin's distribution may declare what these libraries load as they are
        # imported; here that would run outside any sandbox.
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
        ENV_CANARY: "a value that no plugin may see",
    }
