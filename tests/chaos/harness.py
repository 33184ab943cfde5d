"""The tests' end of the launcher: hands it runs, and waits for what became of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from . import job, schedule

_TESTS = Path(__file__).parents[1]
#: Runs at a time, one more than there are processors: those that hang leave theirs to the others.
_MOST_AT_A_TIME = 8


class Harness:
    """Runs schedules in the background, as many at a time as there are processors.

    Args:
        folder: An empty folder, for all of them.
    """

    def __init__(self, folder):
        self._folder = folder
        site = folder / "site"
        job.install(site)
        at_a_time = min(len(os.sched_getaffinity(0)) + 1, _MOST_AT_A_TIME)
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.launcher", str(site), str(at_a_time)],
            cwd=_TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one_thread, "NO_COLOR": "1"},
        )
        self._ended = set()
        self._asked = set()

    def close(self):
        """End what still runs."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)

    def ask(self, name, planned, sabotage=""):
        """Have a schedule run."""
        if name in self._asked:
            return
        self._asked.add(name)
        folder = self._folder / name
        folder.mkdir()
        task = {"folder": str(folder), "schedule": planned.to_dict(), "sabotage": sabotage}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()

    def ask_reference(self, mix):
        """Have a mix run without faults."""
        self.ask(f"reference-{mix}", schedule.quiet(mix))

    def reference(self, mix):
        """Wait for what became of a mix without faults."""
        self.ask_reference(mix)
        return self.outcome(f"reference-{mix}")

    def outcome(self, name):
        """Wait for what became of a run that was asked for."""
        folder = self._folder / name
        while str(folder) not in self._ended:
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"the launcher ended with status {self._process.wait(30)}")
            self._ended.add(line.rstrip("\n"))
        return json.loads((folder / "outcome.json").read_text())
