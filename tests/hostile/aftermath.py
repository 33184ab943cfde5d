"""What has to hold after every attack, looked at from outside."""

import contextlib
import re
from pathlib import Path

import torch

from ringfence import StepInfo, TensorMap

from ..watching import Watching, open_files, settled_descriptors

_MAX_MESSAGE = 32_000
#: What a process has to itself, by its status file; what it shares with the host is the host's.
_OWN = ("RssAnon", "VmSwap", "VmPTE")


def assert_unharmed(stage, before):
    """Look at every victim: as it was, and still at work."""
    after = vars(stage.victims.look())
    # What an earlier test had held may be gone by now.
    after["fds"] = max(settled_descriptors(before.fds), before.fds)
    changed = {name: (was, after[name]) for name, was in vars(before).items() if was != after[name]}
    assert changed == {}, f"{changed}; open are {open_files()}"
    gradients = TensorMap.like({"weight": torch.ones(4)})
    assert stage.sibling.call("backward", {"gradients": gradients}, StepInfo(0)) is not None


def assert_told(outcome, errors, says, step=1):
    """Look at what the user is told: which fault, of which plugin, where and when."""
    error = outcome.error
    assert isinstance(error, errors), repr(error)
    assert (error.plugin, error.hook, error.step) == ("hostile", "gradient.backward", step)
    assert re.search(says, str(error)), str(error)
    # Nothing in it moves a cursor, writes a second line in another's name, or fills the screen.
    assert all(c.isprintable() or c == "\n" for c in str(error)), repr(str(error))
    assert len(str(error)) < _MAX_MESSAGE
    assert [event for event in outcome.events if "disabled, the run goes on without it" in event]


def start_peak():
    """Have the kernel forget the most memory that this process had; returns what it has."""
    Path("/proc/self/clear_refs").write_text("5")
    return _own_status("VmRSS")


def peak_bytes():
    """Return the most memory that this process had since."""
    return _own_status("VmHWM")


def _own_status(name):
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) * 1024


class Meter(Watching):
    """Looks at a process's memory and threads every millisecond, from outside; keeps the most."""

    def __init__(self, pid):
        super().__init__()
        self.bytes = self.threads = 0
        self._path = Path(f"/proc/{pid}/status")

    def look(self):
        with contextlib.suppress(OSError):
            self._keep(self._path.read_text())

    def _keep(self, text):
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        used = sum(int(fields[name].split()[0]) for name in _OWN if name in fields) * 1024
        self.bytes = max(self.bytes, used)
        self.threads = max(self.threads, int(fields.get("Threads", 0)))
