"""What is done to a run, and seen of it, from another process: signals, and memory every millisecond.

Run as a program it reads commands from standard input and answers each with one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_EVERY_S = 0.001
_CHILDREN_EVERY_S = 0.02
_KIB = 1024


class Outside:
    """The other process, as the benchmark talks to it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._signals = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def signal(self, pid: int, number: int, after_s: float) -> None:
        """Have a process signalled after a while; does not wait."""
        self._signals += 1
        self._tell("signal", pid, number, after_s)

    def ended_at(self) -> list[float]:
        """Return when each process that was signalled ended, on ``time.monotonic()``; 0 if it went on."""
        found = [float(self._answer()) for _ in range(self._signals)]
        self._signals = 0
        return found

    def start_sampling(self) -> None:
        """Look at this process and those below it every millisecond."""
        self._tell("sample", os.getpid())
        self._answer()

    def samples(self) -> list[dict[str, float]]:
        """Return what was seen: ``at`` (s), and bytes of ``trainer``, ``shared`` and ``workers``."""
        self._tell("stop")
        return list(self._answer())

    def _tell(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


class _Sampler(threading.Thread):
    """Reads what the kernel tells of a trainer and its workers."""

    def __init__(self, trainer: int) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self._ending = threading.Event()
        self.found: list[dict[str, float]] = []

    def run(self) -> None:
        workers: dict[int, int] = {}
        look_at = 0.0
        while not self._ending.wait(_EVERY_S):
            now = time.monotonic()
            if now >= look_at:
                look_at = now + _CHILDREN_EVERY_S
                there = _workers(self._trainer)
                # What a worker was forked with is the zygote's until it writes there.
                workers = {pid: workers.get(pid, _memory(pid)[0]) for pid in there}
            own, shared = _memory(self._trainer)
            used = sum(max(_memory(pid)[0] - began, 0) for pid, began in workers.items())
            self.found.append({"at": now, "trainer": own, "shared": shared, "workers": used})

    def end(self) -> list[dict[str, float]]:
        self._ending.set()
        self.join()
        return self.found


def _memory(pid: int) -> tuple[int, int]:
    """Return anonymous and shared memory in bytes; nothing of a process that is gone."""
    try:
        lines = Path("/proc", str(pid), "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    anonymous, shared = (int(fields.get(name, "0").split()[0]) * _KIB for name in ("RssAnon", "RssShmem"))
    return anonymous, shared


def _workers(trainer: int) -> list[int]:
    """Return the children of the trainer's children."""
    return [worker for child in children(trainer) for worker in children(child)]


def children(pid: int) -> list[int]:
    """Return the children of a process; none if it is gone."""
    found = []
    for path in Path("/proc", str(pid), "task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(word) for word in path.read_text().split()]
    return found


def _signal(pid: int, number: int, after_s: float) -> float:
    """Signal a process; return when it ended, or 0 if it goes on."""
    time.sleep(after_s)
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0.0
    try:
        signal.pidfd_send_signal(process, number)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if number == signal.SIGUSR1 or not poll.poll(20_000):
            return 0.0
        return time.monotonic()
    except ProcessLookupError:
        return 0.0
    finally:
        os.close(process)


def main() -> None:
    """Serve until standard input ends."""
    sampler: _Sampler | None = None
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        answer: Any = None
        if what == "signal":
            answer = _signal(*arguments)
        elif what == "sample":
            sampler = _Sampler(*arguments)
            sampler.start()
        elif sampler is not None:
            answer, sampler = sampler.end(), None
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
