"""Memory that no process is charged with, as the whole machine sees it."""

import contextlib
import threading
import time
from pathlib import Path

import pytest

from .attacks.hidden_memory import SIZE

pytestmark = [pytest.mark.soak, pytest.mark.alone]

#: Others use this machine too.
_NOTICED = SIZE * 3 // 4


class SharedMemory:
    """Looks at the machine's shared memory every millisecond; ``grown`` is the most that it grew by."""

    def __init__(self):
        self.grown = 0

    @contextlib.contextmanager
    def watched(self):
        before, stop = self._bytes(), threading.Event()

        def watch():
            while not stop.is_set():
                self.grown = max(self.grown, self._bytes() - before)
                time.sleep(0.001)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(5)

    def _bytes(self):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Shmem:")).split()[1]) * 1024


@pytest.mark.attack(22)
def test_no_plugin_makes_the_machines_shared_memory_grow(stage):
    shared = SharedMemory()
    with shared.watched():
        outcome = stage.run(stage.attacker("hidden_memory:attempts"))
    assert outcome.codes
    assert shared.grown < _NOTICED


@pytest.mark.control(22)
def test_without_a_sandbox_it_grows(stage):
    shared = SharedMemory()
    with shared.watched():
        stage.control("hidden_memory:attempts")
    assert shared.grown > _NOTICED
