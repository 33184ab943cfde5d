"""Reports of monitors beside numbers, kept within bounds on disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ..hooks.types import Histogram
from .json_lines import MAX_LINE_BYTES, Bounds, Journal, LongJournalError
from .untrusted_folder import Tree

#: Reports with histograms or images that are kept for each plugin; beyond, every other one is dropped.
MAX_REPORTS = 256
#: Of those reports, their pictures included; beyond, every other one is dropped as well.
MAX_KEPT_BYTES = 32 << 20
#: Pictures that are kept for each plugin; beyond, the oldest goes.
MAX_PICTURES = 64
#: How far the file of one plugin is read: damaged lines may be among those that are kept.
MAX_READ = Bounds(2 * MAX_KEPT_BYTES + MAX_LINE_BYTES, 4 * MAX_REPORTS)
_EXACT = 2**53

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_PICTURE = re.compile(r"([0-9]{10,16})-[A-Za-z0-9_-]{1,120}\.png")
_encode = msgspec.json.Encoder().encode


def file_name(name: str) -> str:
    """Return a file name for ``name``, which a plugin may have chosen: it stays inside its folder."""
    safe = _UNSAFE.sub("_", name)[:80]
    if name and safe == name:
        return safe
    return f"{safe}-{hashlib.blake2b(name.encode(errors='replace'), digest_size=4).hexdigest()}"


def picture_name(plugin: str, step: int, name: str) -> str:
    """Return what the file of a plugin's picture is called, among the reports."""
    return f"{file_name(plugin)}/{step:010}-{file_name(name)}.png"


@dataclass(frozen=True, slots=True)
class _Kept:
    """One report: its step, where its line begins and ends in bytes, and the bytes of its pictures."""

    step: int
    begin: int
    end: int
    picture_bytes: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin + self.picture_bytes


class PluginStore:
    """The histograms and pictures of one plugin.

    They lie in ``<folder>/<plugin>.jsonl`` and ``<folder>/<plugin>/<step>-<name>.png``.

    Args:
        tree: The run's folder.
        folder: Name of the one in it that all plugins share; made if it is not there.
        plugin: Name of the plugin.
        note: Told of a file that is too long to be gone on with.
    """

    def __init__(
        self, tree: Tree, folder: str, plugin: str, note: Callable[[str], None] = lambda _: None
    ) -> None:
        tree.make(folder)
        self._tree = tree
        self._folder = folder
        self._plugin = plugin
        self._pictures = f"{folder}/{file_name(plugin)}"
        self._journal = Journal(tree, f"{self._pictures}.jsonl")
        self._kept: list[_Kept] = []
        #: Steps between two reports that are kept; it grows whenever reports are dropped.
        self._spacing = 0.0
        self._look(note)

    def is_due(self, step: int) -> bool:
        """Tell whether what is reported at ``step`` is kept."""
        return not self._kept or step >= self._kept[-1].step + self._spacing

    def add(self, step: int, histograms: Mapping[str, Histogram], pictures: Mapping[str, bytes]) -> bool:
        """Keep what was reported at ``step``, if it is due; tell whether it was.

        Args:
            step: The step.
            histograms: By name.
            pictures: By name, each as a PNG.
        """
        if not self.is_due(step):
            return False
        if pictures:
            self._tree.make(self._pictures)
        for name, png in pictures.items():
            self._tree.write(f"{self._folder}/{picture_name(self._plugin, step, name)}", [png])
        picture_bytes = sum(map(len, pictures.values()))
        line = _encode(
            {
                "step": step,
                "plugin": self._plugin,
                "histograms": {name: _histogram_json(histogram) for name, histogram in histograms.items()},
                "images": {name: picture_name(self._plugin, step, name) for name in pictures},
                "picture_bytes": picture_bytes,
            }
        )
        begin = self._journal.size()
        self._journal.write(line + b"\n")
        self._kept.append(_Kept(step, begin, begin + len(line) + 1, picture_bytes))
        if len(self._kept) > MAX_REPORTS or sum(kept.nbytes for kept in self._kept) > MAX_KEPT_BYTES:
            self._retain(self._kept[::2])
            self._spacing = max(self._spacing, self._mean_spacing())
        if pictures:
            self._drop_old_pictures()
        return True

    def roll_back(self, step: int) -> None:
        """Drop what was reported at ``step`` and later."""
        kept = [one for one in self._kept if one.step < step]
        if kept != self._kept[: len(kept)] or not self._cut_back(len(kept)):
            self._retain(kept)
        for name, reported in self._files():
            if reported >= step:
                self._tree.remove(name)

    def close(self) -> None:
        """Close the file."""
        self._journal.close()

    def _mean_spacing(self) -> float:
        """Return how far apart the reports are that are kept."""
        steps = [kept.step for kept in self._kept]
        return (steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else 0.0

    def _retain(self, kept: Sequence[_Kept]) -> None:
        if len(kept) < len(self._kept):
            self._rewrite(kept)

    def _rewrite(self, kept: Sequence[_Kept]) -> None:
        self._journal.keep((one.begin, one.end) for one in kept)
        self._kept, end = [], 0
        for one in kept:
            begin, end = end, end + one.end - one.begin
            self._kept.append(_Kept(one.step, begin, end, one.picture_bytes))

    def _look(self, note: Callable[[str], None]) -> None:
        """Note which steps the file holds, and where; what is not as it is written here is left alone."""
        try:
            for line in self._journal.lines(MAX_READ):
                step, nbytes = (_count((line.record or {}).get(key)) for key in ("step", "picture_bytes"))
                if step is not None:
                    self._kept.append(_Kept(step, line.begin, line.end, nbytes or 0))
        except LongJournalError as error:
            note(f"{error}; all of it is kept as {self._journal.set_aside()}")
            self._rewrite(self._kept)
        if len(self._kept) > MAX_REPORTS // 2 or sum(one.nbytes for one in self._kept) > MAX_KEPT_BYTES // 2:
            self._spacing = self._mean_spacing()

    def _cut_back(self, count: int) -> bool:
        """Keep the first ``count`` records; tell whether the file is one that this can be done with."""
        if count < len(self._kept):
            if not self._journal.truncate(self._kept[count].begin):
                return False
            del self._kept[count:]
        return True

    def _files(self) -> list[tuple[str, int]]:
        """Return each picture's file, and the step that it is of, the oldest first."""
        found = ((name, _PICTURE.fullmatch(name)) for name in self._tree.names(self._pictures))
        return [(f"{self._pictures}/{name}", int(match[1])) for name, match in found if match]

    def _drop_old_pictures(self) -> None:
        for name, _ in self._files()[:-MAX_PICTURES]:
            self._tree.remove(name)


def _count(value: object) -> int | None:
    """Return a number of steps or bytes of a file; None for what is none."""
    return value if type(value) is int and 0 <= value <= _EXACT else None


def _histogram_json(histogram: Histogram) -> dict[str, Any]:
    # Beyond 2**53 a float is no exact count, and readers of JSON differ about integers.
    counts = [int(n) if n < _EXACT and float(n).is_integer() else float(n) for n in histogram.counts]
    return {"counts": counts, "edges": [float(x) for x in histogram.edges]}
