"""What ``ringfence plugins list`` and ``show`` tell; plugins are read as text, and none is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..catalog import Catalog, catalog, check_found, source_of
from ..hooks.snapshot import Index
from ..hooks.source import Parameter, PluginSource

#: Characters of a line that the options of a plugin may take.
_OPTIONS_WIDTH = 36
_DECISION_WORDS = {"accepted": "ok", "refused": "REFUSED", "could not tell": "decided when loaded"}


def list_records(installed: Catalog | None = None) -> list[dict[str, Any]]:
    """Return every installed plugin as plain data."""
    installed = installed or catalog()
    index = Index.read()
    records = []
    for found in installed.plugins.values():
        source = source_of(found)
        records.append(
            {
                "name": found.name,
                "role": source.role,
                "distribution": found.distribution,
                "version": found.version,
                "summary": found.summary,
                "decision": check_found(found, source, index).decision,
                "options": [_option_record(parameter) for parameter in source.parameters],
                "takes_any_option": source.takes_any_option,
                "is_read": _is_read(source),
                "needs": _need_records(source),
            }
        )
    return records


def list_lines() -> list[str]:
    """Return every installed plugin as a table, and what is wrong with the rest."""
    installed = catalog()
    rows = [("NAME", "ROLE", "FROM", "FITS", "OPTIONS", "NEEDS")]
    rows += [
        (
            record["name"],
            record["role"] or "?",
            f"{record['distribution']} {record['version']}",
            _DECISION_WORDS[record["decision"]],
            _at_a_glance(record),
            ", ".join(record["needs"]),
        )
        for record in list_records(installed)
    ]
    lines = _table(rows)
    lines += [
        f"'{name}' is declared by {' and '.join(owners)}; uninstall all but one"
        for name, owners in installed.conflicts.items()
    ]
    return lines + list(installed.damaged)


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
    yield from _table(
        [("  GRANT", "WHAT", "WHY"), *((f"  {n.kind}", n.what, n.reason) for n in source.needs)]
    )


def _is_read(source: PluginSource) -> bool:
    """Tell whether the class was found in a text that could be read."""
    return source.line > 0


def _at_a_glance(record: Mapping[str, Any]) -> str:
    """Return the names of a plugin's options, those that it needs first, as many as fit beside the rest."""
    if not record["is_read"]:
        return "?"
    options = sorted(record["options"], key=lambda option: not option["required"])
    names = [f"{option['name']}{'!' if option['required'] else ''}" for option in options]
    if record["takes_any_option"]:
        names.append("any")
    shown = list(names)
    while len(shown) > 1 and len(", ".join(shown)) > _OPTIONS_WIDTH:
        shown.pop()
    more = f" +{len(names) - len(shown)}" if len(shown) < len(names) else ""
    return ", ".join(shown) + more


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
        (parameter.name, parameter.annotation_text or "not said", parameter.default_text or "(needed)")
        for parameter in source.parameters
    ]
    yield from _table(rows)
    if source.takes_any_option:
        yield "and any other option"


def _methods(source: PluginSource) -> Iterator[str]:
    for method in source.methods.values():
        does = "passes" if method.passthrough else f"takes {', '.join(method.arguments) or 'nothing'}"
        yield f"{method.name}: {does}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
