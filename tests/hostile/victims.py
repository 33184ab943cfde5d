"""What an attack aims at, and what is looked at afterwards: from outside, never by what the attacker says."""

import contextlib
import hashlib
import os
import signal
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

from .. import watching
from ..watching import descriptors, in_shared_memory
from .attacks.files import CREDENTIALS

SECRET = "a token that opens everything"
#: Never written as one string, so that only joining it at run time makes it.
CANARY = ("canary of the trai", "ner's own memory 7f3a")
#: Variables that a trainer's environment tends to hold.
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "HF_TOKEN": SECRET,
    "WANDB_API_KEY": SECRET,
    "SSH_AUTH_SOCK": "/nowhere/agent",
    # Of every program that this is handed on to: what it loads anyway.
    "LD_PRELOAD": "libc.so.6",
}
#: Signals that end, stop or wake a process, and that a test runner does not need itself.
WATCHED = (
    *(signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT),
    *(signal.SIGURG, signal.SIGIO, signal.SIGPIPE, signal.SIGTSTP, signal.SIGWINCH, signal.SIGRTMIN + 3),
)
_LONG_AGO = 1_000_000_000


class Listeners:
    """Servers that must hear nothing: TCP, UDP and Unix sockets, each counting what came."""

    def __init__(self, folder):
        self.heard = []
        self._stop = threading.Event()
        self.unix_path = str(folder / "agent.sock")
        self.abstract = f"\0ringfence-{os.getpid()}"
        self._sockets = {
            "tcp": self._listen(socket.AF_INET, ("127.0.0.1", 0)),
            "unix": self._listen(socket.AF_UNIX, self.unix_path),
            "abstract": self._listen(socket.AF_UNIX, self.abstract),
            "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        }
        self._sockets["udp"].bind(("127.0.0.1", 0))
        with contextlib.suppress(OSError):
            self._sockets["tcp6"] = self._listen(socket.AF_INET6, ("::1", 0))
        self._threads = [
            threading.Thread(target=self._serve, args=item, daemon=True) for item in self._sockets.items()
        ]
        for thread in self._threads:
            thread.start()

    def port(self, name):
        return self._sockets[name].getsockname()[1] if name in self._sockets else 0

    def close(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        for sock in self._sockets.values():
            sock.close()

    def _listen(self, family, address):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.bind(address)
        sock.listen(64)
        return sock

    def _serve(self, name, sock):
        sock.settimeout(0.1)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                if name == "udp":
                    self.heard.append((name, sock.recv(4096)))
                else:
                    connection, _ = sock.accept()
                    with connection:
                        connection.settimeout(0.5)
                        self.heard.append((name, self._read(connection)))

    def _read(self, connection):
        with contextlib.suppress(OSError):
            return connection.recv(4096)
        return b""


def furnish(folder):
    """Fill ``folder`` with a home and a project worth stealing; return both."""
    home, project = folder / "home", folder / "project"
    for name in CREDENTIALS:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(SECRET)
    project.mkdir()
    for name in ("job.yaml", "data.bin", "checkpoint.safetensors"):
        (project / name).write_text(SECRET)
    return home, project


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def facts(folder):
    """Return what is known of every file below ``folder`` without reading it through its own time."""
    return {
        str(path): (
            info.st_mode,
            info.st_size,
            info.st_mtime_ns,
            info.st_nlink,
            info.st_uid,
            info.st_atime_ns,
        )
        for path in files_below(folder)
        for info in [path.stat()]
    }


def children(pid):
    """Return all processes below ``pid``."""
    return set(watching.children(pid, recursive=True))


def system_v():
    """Return every System V object there is."""
    return tuple(Path(f"/proc/sysvipc/{kind}").read_text() for kind in ("shm", "sem", "msg"))


@dataclass
class Scene:
    """The state of the victims at one moment.

    Attributes:
        files: Every file of home and project, as ``facts`` tells it.
        processes: Below the trainer.
        fds: Of the trainer.
        shared: Entries of ``/dev/shm`` and System V objects.
        scratch: What lies in the sandbox's folder.
        groups: Control groups of this process's plugins.
        code: Digest of the attacker's code.
    """

    files: dict
    processes: set
    fds: int
    shared: tuple
    scratch: list
    groups: list
    code: str


@dataclass
class Victims:
    """Everything that an attack may aim at; ``look`` before and after, and compare."""

    folder: Path
    home: Path
    project: Path
    listeners: Listeners
    attacks: Path
    sandbox_folder: Path
    signals: list = field(default_factory=list)

    def rest(self):
        """Set the clocks of every file back: read once after a change, its time of access moves."""
        for path in (*files_below(self.home), *files_below(self.project)):
            os.utime(path, (_LONG_AGO - 1, _LONG_AGO))

    def look(self):
        return Scene(
            facts(self.home) | facts(self.project),
            children(os.getpid()),
            descriptors(),
            (in_shared_memory(), system_v()),
            sorted(path.name for path in self.sandbox_folder.iterdir()),
            self._groups(),
            self._digest(),
        )

    def _groups(self):
        from ringfence.isolation.host.limits.cgroup import own_groups
        from ringfence.isolation.host.limits.owner import owner_prefix

        return sorted(
            str(path) for group in own_groups().values() for path in group.glob(f"{owner_prefix()}*")
        )

    def _digest(self):
        digest = hashlib.sha256()
        for path in sorted(self.attacks.glob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()


@contextlib.contextmanager
def watching_signals(seen):
    """Note every watched signal that reaches this process."""
    before = {number: signal.signal(number, lambda n, _: seen.append(n)) for number in WATCHED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
