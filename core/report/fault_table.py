"""The table of plugins' faults on a run's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..plugins.failure_policy import truncate
from .run_data import RunData

#: Instead of the message that the top of the page has already.
_ENDED = "ended the run, as told above"
_MOODS = {"restarted": "good", "disabled": "warn", "aborted": "bad"}


def fault_rows(run: RunData) -> Iterator[dict[str, Any]]:
    """Yield each fault's entry with what the table shows beside it."""
    ended = str(run.record.get("error") or "")
    for fault in run.faults:
        message = str(fault.get("message") or "")
        decision, recovery_s = fault.get("decision"), fault.get("recovery_s")
        took = _span(recovery_s) if decision == "restarted" and isinstance(recovery_s, int | float) else ""
        yield {
            **{key: fault.get(key) or "" for key in ("plugin", "hook", "error", "decision")},
            "traceback": fault.get("traceback") or "",
            "message": _ENDED if message and ended.startswith(message.removesuffix("…")) else message,
            "step": count(fault.get("step")),
            "steps_lost": count(fault.get("steps_lost")),
            "recovery": took,
            "mood": _MOODS.get(str(decision), "warn"),
        }


def other_events(run: RunData) -> Iterator[Mapping[str, Any]]:
    """Yield what was told on the way, but for what the page has elsewhere: the faults, and the run's end."""
    shown = {str(fault.get("message")) for fault in run.faults} | {
        truncate(f"ended: {run.record.get('error')}")
    }
    for event in run.events:
        if truncate(str(event.get("message", ""))) not in shown:
            yield event


def restart_steps(run: RunData) -> set[int]:
    """Return the steps at which plugins were restarted; a killed run may have told more than it recorded."""
    told = {count(event.get("step")) for event in run.events if "; restarted (" in str(event.get("message"))}
    return told | {count(fault.get("step")) for fault in run.faults if fault.get("decision") == "restarted"}


def count(value: object) -> int:
    """Return a count of a record; 0 for what is none."""
    return value if isinstance(value, int) else 0


def _span(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
