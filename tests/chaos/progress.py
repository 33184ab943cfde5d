"""How far a run has come, told by its files."""

import itertools
import json


class Progress:
    """The steps that a trainer has finished since it was started.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder):
        self._path = folder / "metrics.jsonl"
        self._before = self._stamp()
        self._last = None
        self.step = -1

    def look(self):
        """Return the number of steps finished, -1 before training begins."""
        stamp = self._stamp()
        if stamp not in (None, self._before, self._last):
            self._last = stamp
            self.step = self._read()
        return self.step

    def _stamp(self):
        try:
            info = self._path.stat()
        except FileNotFoundError:
            return None
        return info.st_mtime_ns, info.st_size

    def _read(self):
        with self._path.open("rb") as file:
            file.seek(max(self._path.stat().st_size - 4096, 0))
            lines = file.read().split(b"\n")
        for line in reversed(lines[:-1]):
            if line.startswith(b'{"kind":"train"'):
                return json.loads(line)["step"] + 1
        return 0


def lines_of(path):
    """Return the whole lines of a file of JSON lines."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in data.split(b"\n")[:-1] if line]


def steps_lost(data):
    """Return how many steps were begun in vain, for each time that the run went back.

    Args:
        data: The number of each step as it was begun, four bytes each.
    """
    begun = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data) - 3, 4)]
    return [before - after + 1 for before, after in itertools.pairwise(begun) if after <= before]
