"""What monitors report beside numbers, kept within bounds on disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..hooks.types import Histogram
from .journal import Journal, read_journal_places
from .pictures import to_png

#: Reports with histograms or images that are kept for each plugin; beyond, every other one is dropped.
MAX_REPORTS = 256
#: Pictures that are kept for each plugin; beyond, the oldest goes.
MAX_PICTURES = 64
_EXACT = 2**53

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def file_name(name: str) -> str:
    """Return a file name for ``name``, which a plugin may have chosen: it stays inside its folder."""
    safe = _UNSAFE.sub("_", name)[:80]
    if name and safe == name:
        return safe
    return f"{safe}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


class PluginStore:
    """The histograms and pictures of one plugin.

    They lie in ``<folder>/<plugin>.jsonl`` and ``<folder>/<plugin>/<step>-<name>.png``.

    Args:
        folder: Shared by all plugins.
        plugin: Name of the plugin.
    """

    def __init__(self, folder: Path, plugin: str) -> None:
        name = file_name(plugin)
        self._plugin = plugin
        self._pictures = folder / name
        self._journal = Journal(folder / f"{name}.jsonl")
        self._steps: list[int] = []
        #: Where the line of each step begins, in bytes: what comes last is dropped without reading the rest.
        self._begins: list[int] = []
        self._look()

    def add(self, step: int, histograms: Mapping[str, Histogram], images: Mapping[str, Tensor]) -> bool:
        """Keep what was reported at ``step``, if it is due; tell whether it was."""
        if step < self._due():
            return False
        files = {name: self._save(step, name, image) for name, image in images.items()}
        begin = self._journal.size()
        self._journal.append(
            {
                "step": step,
                "plugin": self._plugin,
                "histograms": {name: _plain(histogram) for name, histogram in histograms.items()},
                "images": files,
            }
        )
        self._steps.append(step)
        self._begins.append(begin)
        if len(self._steps) > MAX_REPORTS:
            self._retain(set(self._steps[::2]))
        self._drop_old_pictures()
        return True

    def roll_back(self, step: int) -> None:
        """Drop what was reported at ``step`` and later."""
        kept = [number for number in self._steps if number < step]
        if kept != self._steps[: len(kept)] or not self._cut_back(len(kept)):
            self._retain(set(kept))
        for file in self._files():
            if _step_of(file) >= step:
                file.unlink()

    def close(self) -> None:
        """Close the file."""
        self._journal.close()

    def _due(self) -> float:
        """Return the next step to keep: once reports were thinned, the later ones come as far apart."""
        steps = self._steps
        if len(steps) < MAX_REPORTS // 2:
            return 0
        return steps[-1] + (steps[-1] - steps[0]) / (len(steps) - 1)

    def _retain(self, steps: set[int]) -> None:
        if len(steps) < len(self._steps):
            self._journal.keep(lambda record: record["step"] in steps)
            self._look()

    def _look(self) -> None:
        """Note which steps the file holds, and where."""
        self._steps, self._begins = [], []
        for begin, record in read_journal_places(self._journal.path):
            self._steps.append(record["step"])
            self._begins.append(begin)

    def _cut_back(self, count: int) -> bool:
        """Keep the first ``count`` records; tell whether the file is one that this can be done with."""
        if count < len(self._steps):
            if not self._journal.truncate(self._begins[count]):
                return False
            del self._steps[count:], self._begins[count:]
        return True

    def _save(self, step: int, name: str, image: Tensor) -> str:
        self._pictures.mkdir(exist_ok=True)
        path = self._pictures / f"{step:010}-{file_name(name)}.png"
        path.write_bytes(to_png(image))
        return f"{self._pictures.name}/{path.name}"

    def _files(self) -> list[Path]:
        return sorted(self._pictures.glob("*.png"))

    def _drop_old_pictures(self) -> None:
        files = self._files()
        for file in files[: max(0, len(files) - MAX_PICTURES)]:
            file.unlink()


def _step_of(file: Path) -> int:
    return int(file.name.partition("-")[0])


def _plain(histogram: Histogram) -> dict[str, Any]:
    # Beyond 2**53 a float is no exact count, and readers of JSON differ about integers.
    counts = [int(n) if n < _EXACT and float(n).is_integer() else float(n) for n in histogram.counts]
    return {"counts": counts, "edges": [float(x) for x in histogram.edges]}
