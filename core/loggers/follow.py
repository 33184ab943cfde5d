"""Read the numbers of a run as they are written, while it goes on and back."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tracking.folder_lock import FolderTakenError, check_free
from ..tracking.json_lines import MAX_METRICS_BYTES, Line, bounds_of, read_lines
from ..tracking.run_folder import METRICS, read_record
from ..tracking.untrusted_folder import Tree

#: Between two looks at a run that goes on.
WAIT_S = 1.0
AT_ONCE = 500
#: Names of numbers that are handed on: as many as a run keeps, of all its plugins together.
MAX_NAMES = 16_384
_MAX_NAME = 400
#: Loggers count in 64 bits.
_LAST_STEP = 2**53
#: In Unix seconds: the year 5138.
_LAST_S = 1e11
#: What the names of the run's own numbers begin with: a plugin that is called like one gets another name.
_OWN = re.compile(r"(?:train|(?:validation|test)(?:_ema|_swa)?)/")
_NOT_NUMBERS = frozenset(("kind", "step", "epoch", "plugin", "time", "samples"))


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers of one step.

    Attributes:
        step: Steps that were finished before.
        values: Name to number, as ``train/loss``, ``validation/accuracy`` or ``monitor/grad_norm``.
        time: When it was, in Unix seconds, where that was told.
    """

    step: int
    values: Mapping[str, float]
    time: float | None = None


class Follower:
    """The numbers of one run, each handed on once.

    A run that goes back to a snapshot cuts its journal and takes those steps again, to the same numbers: what
    was handed on is not handed on again.

    Args:
        folder: The run's, which may come from anybody.
    """

    def __init__(self, folder: Path) -> None:
        self._tree = Tree(folder)
        #: The line that was read last.
        self._begin = 0
        self._record: Mapping[str, Any] | None = None
        self._handed: dict[str, int] = {}

    def new(self) -> Iterator[Numbers]:
        """Yield what was written since.

        Raises:
            LongJournalError: There is more than a journal may hold, after what lies within.
            OSError: It cannot be read.
        """
        lines = self._lines(self._begin)
        first = next(lines, None)
        if self._record is not None and (first is None or first.record != self._record):
            # The file was cut back: it may be as long again, with other lines.
            lines, first = self._lines(0), None
        for line in itertools.chain([first] if first else [], lines):
            # A damaged line is passed over; the last one may be half written, and is looked at again.
            if line.record is not None:
                self._begin, self._record = line.begin, line.record
                yield from self._numbers(line.record)

    def _lines(self, begin: int) -> Iterator[Line]:
        return read_lines(self._tree, METRICS, bounds_of(MAX_METRICS_BYTES), begin=begin)

    def _numbers(self, record: Mapping[str, Any]) -> Iterator[Numbers]:
        """Yield the numbers of a line that were not handed on before."""
        kind, step = record.get("kind"), record.get("step")
        if not isinstance(kind, str) or type(step) is not int or step > _LAST_STEP or kind == "run":
            return
        values = {}
        for key, value in record.items():
            number = None if key in _NOT_NUMBERS else _number(value)
            name = _name(kind, key)
            if number is not None and self._is_new(name, step):
                values[name] = number
        if values:
            yield Numbers(step, values, _time(record.get("time")))

    def _is_new(self, name: str, step: int) -> bool:
        if self._handed.get(name, -1) >= step or (
            name not in self._handed and len(self._handed) >= MAX_NAMES
        ):
            return False
        self._handed[name] = step
        return True


def follow(
    folder: Path, *, until_end: bool, sleep: Callable[[float], None] = time.sleep
) -> Iterator[list[Numbers]]:
    """Yield the numbers of a run, at most ``AT_ONCE`` steps at a time.

    Args:
        folder: The run's.
        until_end: Wait for more for as long as a process runs in the folder. Where the file system knows no
            locks that cannot be told, and what is there is all.
        sleep: Waits so many seconds.

    Raises:
        LongJournalError: As ``Follower.new``.
        OSError: Likewise.
    """
    follower = Follower(folder)
    while True:
        # Asked before it is read: what is written until the end is then read as well.
        goes_on = until_end and is_running(folder)
        numbers = follower.new()
        while some := list(itertools.islice(numbers, AT_ONCE)):
            yield some
        if not goes_on:
            return
        sleep(WAIT_S)


def is_running(folder: Path) -> bool:
    """Tell whether a process runs in a run's folder."""
    try:
        check_free(folder, "log")
    except FolderTakenError:
        return True
    return False


def status_of(folder: Path) -> str:
    """Return how a run ended: ``running`` of one that was killed, too."""
    return str(read_record(folder).get("status"))


def _name(kind: str, key: str) -> str:
    """Return the name of a number: kind and key of the run's own; of a plugin what it is written under."""
    name = f"{kind}/{key}" if kind != "plugin" else f"plugin:{key}" if _OWN.match(key) else key
    # JSON may hold halves of characters, which no logger can write.
    return name[:_MAX_NAME].encode(errors="replace").decode()


def _time(value: object) -> float | None:
    """Return a time, if loggers can take it: they count milliseconds in 64 bits."""
    number = _number(value)
    return number if number is not None and 0 <= number <= _LAST_S else None


def _number(value: object) -> float | None:
    """Return a number as it was written; what is not finite was spelled out."""
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(str(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
