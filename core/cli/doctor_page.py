"""``ringfence doctor``: the layers, what is missing, what holds memory, what nothing covers."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..hooks.errors import JobError, visible
from ..hooks.permissions import MAX_MEMORY_FRACTION
from ..isolation.coverage import NOT_COVERED
from ..isolation.doctor import Diagnosis, diagnose
from ..isolation.host.processes.layer_report import is_held, way_out
from ..isolation.policy.layer_status import CONSEQUENCES, REQUIRED, LayerStatus
from ..plugins.machine_memory import GIB

#: Probes of a layer that are named; more are counted, and named with --json.
_NAMED = 3
_STYLES = {"active": "green", "degraded": "yellow", "failed": "bold red"}
_INDENT = (0, 0, 0, 2)


def examine_machine(*, as_json: bool) -> int:
    """Print what the sandbox holds on this machine and return the exit status."""
    diagnosis = diagnose()
    if as_json:
        sys.stdout.write(f"{json.dumps(diagnosis.to_dict(), indent=2)}\n")
    else:
        print_diagnosis(diagnosis, Console())
    return 0 if diagnosis.usable else JobError.exit_status


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print ``diagnosis`` for people, as wide as the console is."""
    console.print(Group(*_sections(diagnosis)), highlight=False)


def _sections(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    if diagnosis.layers:
        yield from _section("Layers, each with what was tried against it", _layer_table(diagnosis.layers))
        yield Padding(Text(f"Required: {', '.join(REQUIRED)}."), _INDENT, expand=False)
    else:
        yield from _section("Layers", Text("None is known to hold: no process could be locked up."))
    if diagnosis.missing:
        yield from _section("What is missing, and what that means", _missing_table(diagnosis.missing))
    if diagnosis.fault:
        yield from _section("What went wrong", Text(visible(diagnosis.fault)))
    yield from _section("Memory and processors", _memory(diagnosis))
    yield from _section("Not covered, on any machine", _rows(NOT_COVERED.items()))
    yield from _section("Verdict", _verdict(diagnosis))


def _section(title: str, body: RenderableType) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", "bold")
    yield Padding(body, _INDENT, expand=False)


def _layer_table(layers: tuple[LayerStatus, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for status in layers:
        table.add_row(
            status.name,
            Text(status.status, _STYLES.get(status.status, "")),
            Text(visible(status.detail) + _proof(status)),
        )
    return table


def _proof(status: LayerStatus) -> str:
    if not status.verified_by:
        return ""
    named = ", ".join(status.verified_by)
    number = len(status.verified_by)
    return f" (verified: {named if number <= _NAMED else f'{number} attempts refused'})"


def _missing_table(missing: tuple[LayerStatus, ...]) -> Table:
    return _rows((status.name, f"{_need(status)}: {_meaning(status)}{_advice(status)}") for status in missing)


def _advice(status: LayerStatus) -> str:
    advice = "" if is_held(status) else way_out(status)
    return f". To have it: {advice}" if advice else ""


def _need(status: LayerStatus) -> str:
    return "REQUIRED" if status.name in REQUIRED else "not required"


def _meaning(status: LayerStatus) -> str:
    return status.consequence or CONSEQUENCES[status.name]


def _memory(diagnosis: Diagnosis) -> Table:
    budget, total = diagnosis.budget_bytes / GIB, diagnosis.total_bytes / GIB
    told = f"{budget:.2f} GiB for each plugin at most: {MAX_MEMORY_FRACTION:.0%} of {total:.2f} GiB"
    held = ", ".join(diagnosis.memory_is_held_by) or "nothing"
    return _rows(
        [
            ("budget", told if diagnosis.total_bytes else "none: this machine does not tell its memory"),
            ("held by", held),
            ("processors", "a plugin that takes more than its job allows goes last from then on"),
        ]
    )


def _rows(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, Text(text))
    return table


def _verdict(diagnosis: Diagnosis) -> Text:
    verdict = Text(f"kernel {platform.release()}\ngrade {diagnosis.grade}")
    if not diagnosis.usable:
        verdict.append("\nringfence refuses to run untrusted plugins here", "bold red")
    return verdict
