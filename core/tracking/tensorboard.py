"""Write TensorBoard event files, without TensorFlow and without a thread."""

from __future__ import annotations

import importlib.util
import itertools
import os
import struct
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

from ..hooks.types import Histogram
from .crc32c import crc32c, masked
from .untrusted_folder import Tree

#: What is told where its package is missing, which a run does without.
LEFT_OUT = (
    "TensorBoard's event files are left out, since tensorboard is not installed; "
    "to have them: pip install 'ringfence[tensorboard]'"
)
#: Numbers of so many calls are written together.
_AT_ONCE = 64


def is_installed() -> bool:
    """Tell whether event files can be written."""
    return importlib.util.find_spec("tensorboard") is not None


class Board:
    """The event files of one run.

    ``torch.utils.tensorboard`` would do the same, but its import takes a second,
    and its writer a thread that hides a full disk until later.

    Args:
        tree: The run's folder.
        folder: Name of the one in it where TensorBoard will look; made with the first value.
    """

    def __init__(self, tree: Tree, folder: str) -> None:
        self._tree = tree
        self._folder = folder
        self._file: IO[bytes] | None = None
        #: When, at which step, which numbers: what is still to be written.
        self._waiting: list[tuple[float, int, Mapping[str, float]]] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add one number for each name.

        They are written with those of other steps: one by one they take more than twice the time, since
        a training step drives the code for it out of the caches.
        """
        self._waiting.append((time.time(), step, values))
        if len(self._waiting) >= _AT_ONCE:
            self._write_waiting()

    def histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        """Add one histogram for each name."""
        self._add(step, [{"tag": tag, "histo": _histogram(value)} for tag, value in histograms.items()])

    def image(self, tag: str, png: bytes, size: tuple[int, int, int], step: int) -> None:
        """Add a picture.

        Args:
            tag: Its name.
            png: The file's bytes.
            size: Height, width and channels.
            step: Steps finished.
        """
        height, width, channels = size
        image = {"height": height, "width": width, "colorspace": channels, "encoded_image_string": png}
        self._add(step, [{"tag": tag, "image": image}])

    def purge(self, step: int) -> None:
        """Have TensorBoard drop what was added for ``step`` and later."""
        from tensorboard.compat.proto.event_pb2 import SessionLog  # noqa: PLC0415 - see _append

        self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    def flush(self) -> None:
        """Hand everything to the kernel."""
        self._write_waiting()
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file; a later value opens another."""
        self._write_waiting()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for wall_time, step, values in waiting:
            scalars = [{"tag": tag, "simple_value": value} for tag, value in values.items()]
            self._append(wall_time, step=step, summary=_summary(scalars))

    def _add(self, step: int, values: Sequence[Mapping[str, Any]]) -> None:
        if values:
            self._write(step=step, summary=_summary(values))

    def _write(self, **fields: Any) -> None:
        """Write an event of now, after those that wait."""
        self._write_waiting()
        self._append(time.time(), **fields)

    def _append(self, wall_time: float, **fields: Any) -> None:
        # Imported late: a run's help, checks and messages do not need it.
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415

        if self._file is None:
            self._file = self._open()
            # From version 2 on TensorBoard honours the marks of a restart.
            first = Event(wall_time=time.time(), file_version="brain.Event:2")
            self._file.write(_record(first.SerializeToString()))
        self._file.write(_record(Event(wall_time=wall_time, **fields).SerializeToString()))

    def _open(self) -> IO[bytes]:
        self._tree.make(self._folder)
        # TensorBoard reads files by name: a later one must sort after the earlier.
        name = f"{self._folder}/events.out.tfevents.{time.time_ns():020}.ringfence"
        return os.fdopen(self._tree.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")


def _record(data: bytes) -> bytes:
    """Return an event as it lies in a file: its length, and a check of the length and of the event."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", masked(crc32c(length))), data, struct.pack("<I", masked(crc32c(data))))
    )


class NoBoard(Board):
    """Takes everything and writes nothing, where tensorboard is not installed."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Drop them."""

    def histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        """Drop them."""

    def image(self, tag: str, png: bytes, size: tuple[int, int, int], step: int) -> None:
        """Drop it."""

    def purge(self, step: int) -> None:
        """Nothing was written."""


def _summary(values: Sequence[Mapping[str, Any]]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415 - see Board._append

    return Summary(value=[Summary.Value(**value) for value in values])


def _histogram(histogram: Histogram) -> Any:
    from tensorboard.compat.proto.histogram_pb2 import HistogramProto  # noqa: PLC0415 - see Board._append

    counts, edges = list(histogram.counts), list(histogram.edges)
    middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    return HistogramProto(
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(n * x for n, x in zip(counts, middles, strict=True)),
        sum_squares=sum(n * x * x for n, x in zip(counts, middles, strict=True)),
        bucket_limit=edges[1:],
        bucket=counts,
    )
