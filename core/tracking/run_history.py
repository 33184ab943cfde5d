"""Totals of earlier processes of a run, read from ``run.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ..plugins.failure_policy import FAULTS_KEPT, FaultLog, FaultRecord
from ..plugins.interface import PluginUsage
from .run_folder import MAX_RECORD_BYTES, RECORD
from .untrusted_folder import Tree

#: More than that is no count, and readers of JSON differ about it.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class EarlierPlugin(msgspec.Struct, frozen=True):
    """The cost of a plugin when an earlier process last wrote of it."""

    name: str
    peak_bytes: _Count = 0
    calls: _Count = 0
    seconds: _Seconds = 0.0
    restarts: _Count = 0
    skipped: _Count = 0
    demoted: bool = False
    attempts: dict[str, _Count] | None = None
    attempts_at_least: bool = False
    printed: _Count = 0

    def counted_on(self, usage: PluginUsage) -> dict[str, Any]:
        """Return the counts of ``run.json``, with those of this process."""
        return {
            "peak_bytes": max(self.peak_bytes, usage.peak_bytes),
            "calls": self.calls + usage.calls,
            "seconds": round(self.seconds + usage.seconds, 6),
            "restarts": self.restarts + usage.restarts,
            "skipped": self.skipped + usage.skipped,
            "demoted": self.demoted or bool(usage.demoted),
            "attempts": _sum(self.attempts, usage.attempts),
            "attempts_at_least": self.attempts_at_least or usage.attempts_at_least,
            "printed": self.printed + usage.output.count,
        }


class RunHistory(msgspec.Struct, frozen=True):
    """Totals of all earlier processes of a run; the keys are those of ``run.json``.

    Attributes:
        schema: Of the table in ``docs/run-folder.md``.
        resumed: How often the run had been resumed.
        started: When the first began, ISO 8601; ``""`` if nobody knows.
        seconds: Time of training; None if the first was killed before its first checkpoint.
        faults: Those that were kept.
        faults_left_out: Those that were not.
        steps_lost: By all of them.
        plugins: What each had cost.
    """

    schema: Literal[1] = 1
    resumed: _Count = 0
    started: str = ""
    seconds: _Seconds | None = None
    faults: Annotated[list[FaultRecord], msgspec.Meta(max_length=2 * FAULTS_KEPT)] = []
    faults_left_out: _Count = 0
    steps_lost: _Count = 0
    plugins: list[EarlierPlugin] = []

    def plugin(self, name: str) -> EarlierPlugin:
        """Return what one plugin had cost; nothing if it was not there."""
        found = (plugin for plugin in self.plugins if plugin.name == name)
        return next(found, EarlierPlugin(name))

    def faults_with(self, log: FaultLog) -> dict[str, Any]:
        """Return what ``run.json`` says of faults, with those of this process."""
        kept = [*self.faults, *log.records]
        if len(kept) > 2 * FAULTS_KEPT:
            kept = [*kept[:FAULTS_KEPT], *kept[-FAULTS_KEPT:]]
        count = len(self.faults) + self.faults_left_out + log.count
        return {
            "faults": [_fault_json(fault) for fault in kept],
            "faults_left_out": count - len(kept),
            "steps_lost": self.steps_lost + log.steps_lost,
        }


def read_earlier(folder: Path) -> tuple[RunHistory, Sequence[str]]:
    """Return what ``run.json`` in ``folder`` says, and what the user should know of it, as sentences.

    A record that is missing or damaged counts as one of nothing: the checkpoints do not depend on it.
    """
    try:
        return msgspec.json.decode(Tree(folder).read(RECORD, MAX_RECORD_BYTES), type=RunHistory), ()
    except OSError as error:
        why = error.strerror or str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = str(error)
    told = (
        f"{RECORD} of this run's earlier processes cannot be used ({why}): time, calls, restarts and faults "
        "are counted anew from here on"
    )
    return RunHistory(), (told,)


def _fault_json(fault: FaultRecord) -> dict[str, Any]:
    return asdict(fault) | {"recovery_s": round(fault.recovery_s, 4)}


def _sum(a: Mapping[str, int] | None, b: Mapping[str, int] | None) -> dict[str, int] | None:
    """Add counts by name; None, which is not to know, only if both are."""
    if a is None or b is None:
        return None if a is b else dict(a or b or {})
    return {kind: a.get(kind, 0) + b.get(kind, 0) for kind in {**a, **b}}
