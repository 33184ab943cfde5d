"""Attacks that kill, hang, leak or send nonsense, and trainers without a sandbox to try them on."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ringfence import PluginError

HERE = Path(__file__).parent
_ANSWER_S = 60.0
#: A trainer that is to hang is waited for no longer than this.
_HANGS_S = 0.6


@dataclass(frozen=True)
class Harm:
    """One way to do harm by what ``backward`` does or returns.

    Attributes:
        number: Its place in the list of attacks; several rows may share one.
        attack: ``"module:function"`` below ``attacks/``.
        errors: The fault that the user is told, one of these; empty if the run just goes on.
        says: What its message has to say, a pattern.
        naive: What becomes of a trainer without a sandbox: text is equal, numbers are reached.
        kind: How that trainer works; see ``naive.py``.
        no_control: Why there is no such trainer.
        plugin: Class that attacks.
        step: At which the fault is met.
        settings: Of the plugin.
        seconds: The longest that the failing call may take beyond the plugin's deadline.
        budget_mib: Memory that the plugin gets; the default is the machine's.
        limit_s: How long a naive trainer that is to end, or to tell of amounts, is waited for.
    """

    number: int
    attack: str
    errors: tuple[type[PluginError], ...]
    says: str = ""
    naive: Mapping[str, object] = field(default_factory=dict)
    kind: str = "trainer"
    no_control: str = ""
    plugin: str = "Saboteur"
    step: int = 1
    settings: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 3.0
    budget_mib: int = 0
    limit_s: float = 10.0

    def __str__(self):
        return f"{self.number:02d}-{self.attack.replace(':', '-')}"


class Naive:
    """Trainers without a sandbox, each forked from one process that has torch imported."""

    def __init__(self, aim):
        self._aim = asdict(aim)
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "naive.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def try_on(self, harm):
        """Return what became of a trainer, as ``naive.py`` tells it."""
        limit_s = _HANGS_S if harm.naive.get("ended") == "hung" else harm.limit_s
        return self.ask(harm.kind, harm.attack, plugin=harm.plugin, limit_s=limit_s)

    def ask(self, kind, attack, *, plugin="Saboteur", limit_s=10.0):
        """Return what became of a trainer that works in this way."""
        task = {"kind": kind, "attack": attack, "plugin": plugin, "aim": self._aim, "limit_s": limit_s}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], _ANSWER_S)
        assert ready, f"no answer for {attack}"
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)
