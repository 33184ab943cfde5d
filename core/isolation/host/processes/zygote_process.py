"""Start the process that workers are forked from. Nothing here imports torch, which takes as long as this."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

from ....imports.search_paths import import_paths, user_site
from ...policy.confinement import ENV_CANARY

# Isolated from environment and current folder, but not from where packages are. What takes time comes
# after the kernel was asked to end it with its parent: importing torch takes seconds.
_BOOT = """
import ctypes, gc, os, signal, sys
gc.disable()  # until all is imported: the zygote enables it
libc = ctypes.CDLL(None)
libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[2]):
    os._exit(1)
libc.prctl(15, b"rf:zygote", 0, 0, 0)  # PR_SET_NAME
import site
if sys.argv[4]:
    site.addsitedir(sys.argv[4])
sys.path[:] = sys.argv[5:]
from ringfence.imports.import_guard import GuardedModuleError, guard
guard()
try:
    from ringfence.isolation.worker.zygote import main
except GuardedModuleError:
    if sys.argv[3] == "eager":
        os._exit(1)  # the trainer imports the same beside this, and tells it in a line
    raise
main(eager=sys.argv[3] == "eager")
"""

#: Its process, and the host's end of its socket.
Started = tuple[subprocess.Popen[bytes], socket.socket]


class EarlyZygote(contextlib.AbstractContextManager["EarlyZygote"]):
    """One that is started before it is known what for, so that it and this process import torch side by side.

    It imports what optimizers need as well, since nearly every job has one. Where none can be started nothing
    is: the sandbox tries again, and tells why. One that nobody has taken ends with the context.

    Args:
        needed: Whether to start one.
    """

    def __init__(self, *, needed: bool = True) -> None:
        self._started: Started | None = None
        self._owner, self._paths = os.getpid(), import_paths()
        if needed:
            with contextlib.suppress(OSError):
                self._started = start_process(eager=True)

    def take(self) -> Started | None:
        """Return it, once, if it is this process's and one that is started now would be the same."""
        if (self._owner, self._paths) != (os.getpid(), import_paths()):
            self.close()
        started, self._started = self._started, None
        return started

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, if nobody has taken it and it is this process's."""
        started, self._started = self._started, None
        if started is None:
            return
        process, control = started
        control.close()
        if self._owner == os.getpid():
            process.kill()
            process.wait()


def start_process(*, eager: bool = False) -> Started:
    """Start one.

    Args:
        eager: It imports at once what it otherwise imports for the first optimizer.

    Raises:
        OSError: The kernel refuses it.
    """
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = [
        *(str(theirs.fileno()), str(os.getpid()), "eager" if eager else "", user_site()),
        *import_paths(),
    ]
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, *arguments],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                cwd="/",
                # Ctrl-C and Ctrl-Z in the trainer's terminal are for the trainer to act on.
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
    except BaseException:
        control.close()
        raise
    return process, control


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
