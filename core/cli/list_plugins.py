"""``ringfence plugins list`` and ``show``; plugins are read as text, and none is imported."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..compat.findings import Verdict
from ..compat.source.plugin_source import Parameter, PluginSource
from ..discovery.catalog import Catalog, catalog, check_found, source_of
from ..hooks.errors import shorten
from ..hooks.series import Index
from .columns import Column, fit_columns, table
from .type_words import default_words, type_words

#: Characters of a line that the options of a plugin may take, where no terminal says how many there are.
_OPTIONS_WIDTH = 40
_DECISION_WORDS = {"accepted": "ok", "refused": "REFUSED", "could not tell": "decided when loaded"}
#: What a plugin is called, and whether it can be used, outlast the rest on a narrow terminal.
_COLUMNS = (
    Column("NAME", floor=16),
    Column("ROLE", rank=2),
    Column("FROM", floor=15, rank=3),
    Column("FITS", rank=1),
    Column("OPTIONS", floor=16, rank=5),
    Column("NEEDS", floor=8, rank=4),
)
_UNREAD = "?"
_MORE = re.compile(r"\+\d+$")


def list_records(installed: Catalog | None = None) -> list[dict[str, Any]]:
    """Return every installed plugin as plain data."""
    installed = installed or catalog()
    index = Index.read()
    records = []
    for found in installed.plugins.values():
        source = source_of(found)
        verdict = check_found(found, source, index)
        records.append(
            {
                "name": found.name,
                "role": source.role,
                "distribution": found.distribution,
                "version": found.version,
                "summary": found.summary,
                "decision": verdict.decision,
                "rules": _rules(verdict),
                "options": [_option_record(parameter) for parameter in source.parameters],
                "takes_any_option": source.takes_any_option,
                "is_read": _is_read(source),
                "needs": _need_records(source),
            }
        )
    return records


def list_lines(width: int | None = None) -> list[str]:
    """Return every installed plugin as a table, what its signs mean, and what is wrong with the rest.

    Args:
        width: Characters of a line of the terminal; without it nothing is cut or left out.
    """
    installed = catalog()
    records = list_records(installed)
    lines, notes = _table_and_notes(records, width)
    refused = sum(record["decision"] == "refused" for record in records)
    if refused:
        notes.append(f"{refused} refused: see ringfence plugins check NAME, or ringfence plugins show NAME")
    notes += [
        f"'{name}' is declared by {' and '.join(owners)}; uninstall all but one"
        for name, owners in installed.conflicts.items()
    ]
    notes += installed.damaged
    return [*lines, "", *_wrap(notes, width)] if notes else lines


def _table_and_notes(records: Sequence[Mapping[str, Any]], width: int | None) -> tuple[list[str], list[str]]:
    """Return the table, and notes on what is in it and what is not."""
    titles = [column.title for column in _COLUMNS]
    whole = [_cells(record, _OPTIONS_WIDTH if width is None else width) for record in records]
    rows = [list(cells.values()) for cells in whole]
    if width is None:
        return table([titles, *rows]), _legend(whole, titles)
    widths = fit_columns(_COLUMNS, rows, width)
    shown = [_cells(record, widths.get("OPTIONS", 0)) for record in records]
    lines = table(
        [list(widths), *([shorten(cells[title], widths[title]) for title in widths] for cells in shown)]
    )
    missing = [title for title in titles if title not in widths]
    notes = [f"left out: {', '.join(missing)}; see ringfence plugins show NAME"] if missing else []
    return [shorten(line, width) for line in lines], [*_legend(shown, list(widths)), *notes]


def _wrap(notes: Sequence[str], width: int | None) -> list[str]:
    return list(notes) if width is None else [line for note in notes for line in textwrap.wrap(note, width)]


def _cells(record: Mapping[str, Any], options_width: int) -> dict[str, str]:
    fits = _DECISION_WORDS[record["decision"]]
    return {
        "NAME": record["name"],
        "ROLE": record["role"] or _UNREAD,
        "FROM": f"{record['distribution']} {record['version']}",
        "FITS": f"{fits} {record['rules'][0]}" if record["decision"] == "refused" else fits,
        "OPTIONS": _at_a_glance(record, options_width),
        "NEEDS": ", ".join(record["needs"]),
    }


def _legend(rows: Sequence[Mapping[str, str]], titles: Sequence[str]) -> list[str]:
    """Return what the signs mean that occur in the columns that are shown."""
    options = [cells["OPTIONS"] for cells in rows] if "OPTIONS" in titles else []
    signs = {
        "option!: it cannot do without": any("!" in cell for cell in options),
        "+N: N more options": any(_MORE.search(cell) for cell in options),
        "?: its text does not tell": _UNREAD in options or any(cells["ROLE"] == _UNREAD for cells in rows),
    }
    meant = [meaning for meaning, occurs in signs.items() if occurs]
    return ["; ".join(meant)] if meant else []


def _rules(verdict: Verdict) -> list[str]:
    """Return the rules of what was found, those that refuse the plugin first."""
    ranked = sorted(verdict.findings, key=lambda finding: not finding.refuses)
    return list(dict.fromkeys(finding.rule for finding in ranked))


def show_record(name: str) -> dict[str, Any]:
    """Return all that is known of a plugin without running it, as plain data.

    Raises:
        JobError: It is not installed.
    """
    found = catalog().find(name)
    source = source_of(found)
    return {
        "name": found.name,
        "role": source.role,
        "distribution": found.distribution,
        "version": found.version,
        "summary": found.summary,
        "entry_point": f"{found.module}:{found.qualname}",
        "file": None if source.path is None else f"{source.path}:{source.line}",
        "docstring": source.docstring,
        "methods": {
            method.name: "passthrough" if method.passthrough else list(method.arguments)
            for method in source.methods.values()
        },
        "options": [_option_record(parameter) for parameter in source.parameters],
        "takes_any_option": source.takes_any_option,
        "needs": _need_records(source),
        "check": check_found(found, source).to_dict(),
    }


def show_lines(name: str) -> list[str]:
    """Return ``show_record`` for people.

    Raises:
        JobError: It is not installed.
    """
    found = catalog().find(name)
    source = source_of(found)
    lines = [
        f"{found.name}  ({source.role or 'role not known'}, {found.distribution} {found.version})",
        f"class {found.module}:{found.qualname}",
    ]
    lines += ["", *source.docstring.splitlines()] if source.docstring else []
    lines += ["", *_methods(source), "", *_options(source), ""] if _is_read(source) else [""]
    lines += [*_needs(source), ""] if source.needs else []
    return [*lines, check_found(found, source).message()]


def _need_records(source: PluginSource) -> dict[str, dict[str, str]]:
    records: dict[str, dict[str, str]] = {}
    for need in source.needs:
        records.setdefault(need.kind, {})[need.what] = need.reason
    return records


def _needs(source: PluginSource) -> Iterator[str]:
    yield "needs, each to be granted by the job, beside the plugin's name:"
    yield from table([("  GRANT", "WHAT", "WHY"), *((f"  {n.kind}", n.what, n.reason) for n in source.needs)])


def _is_read(source: PluginSource) -> bool:
    """Tell whether the class was found in a text that could be read."""
    return source.line > 0


def _at_a_glance(record: Mapping[str, Any], width: int) -> str:
    """Return the names of a plugin's options, those that it needs first, as many as fit into ``width``."""
    if not record["is_read"]:
        return _UNREAD
    options = sorted(record["options"], key=lambda option: not option["required"])
    names = [f"{option['name']}{'!' if option['required'] else ''}" for option in options]
    if record["takes_any_option"]:
        names.append("any")
    told = ", ".join(names)
    for kept in range(len(names) - 1, 0, -1):
        if len(told) <= width:
            break
        more = f" +{len(names) - kept}"
        told = shorten(", ".join(names[:kept]), width - len(more)) if kept == 1 else ", ".join(names[:kept])
        told += more
    return told


def _option_record(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "type": parameter.annotation_text or None,
        "default": parameter.default_text,
        "required": parameter.required,
    }


def _options(source: PluginSource) -> Iterator[str]:
    if not source.parameters:
        yield "takes any option" if source.takes_any_option else "takes no options"
        return
    rows = [("OPTION", "TYPE", "DEFAULT")]
    rows += [
        (parameter.name, type_words(parameter), default_words(parameter)) for parameter in source.parameters
    ]
    yield from table(rows)
    if source.takes_any_option:
        yield "and any other option"


def _methods(source: PluginSource) -> Iterator[str]:
    for method in source.methods.values():
        does = "passes" if method.passthrough else f"takes {', '.join(method.arguments) or 'nothing'}"
        yield f"{method.name}: {does}"
