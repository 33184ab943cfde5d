"""Check a plugin's source text against the record of a series.

Names are compared, never types: hooks and their arguments, roles, what is
imported from ringfence, and attributes of what hooks receive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from packaging.version import Version

from ..hooks.errors import shorten
from ..hooks.series import SeriesSnapshot, lower_bound
from .findings import Finding, join_words
from .source.attribute_reads import Use
from .source.imported_names import ALL, PUBLIC, WHOLE, Import
from .source.plugin_source import METHODS, About, Method, PluginSource, Unresolved

#: Private modules to where they lie since the rooms were made: nobody may import them, and some do.
MOVED = Path(__file__).with_name("moved.json")
#: Characters of a method's signature that are quoted, which is done for each of its arguments.
_SIGNATURE_SHOWN = 300
#: What the text leaves open, and the rule that says so.
_OPEN: dict[About, str] = {
    "class": "U-DYNAMIC",
    "arguments": "U-DYNAMIC",
    "options": "U-DYNAMIC",
    "role": "U-ROLE",
    "names": "U-NAMES",
    "attributes": "U-ATTRIBUTES",
    "needs": "U-NEEDS",
}
#: Of these, the one that loading the class settles.
_SETTLED_BY_LOADING = "U-DYNAMIC"


def find_misfits(
    source: PluginSource, claimed: Sequence[SeriesSnapshot], needed: Sequence[str], running: Version
) -> list[Finding]:
    """Return what keeps a plugin from fitting the series that it claims.

    Args:
        source: The plugin.
        claimed: Snapshots of the series that its range admits, in order.
        needed: The series that it must span, in order.
        running: Version of the core.
    """
    if source.path is None:
        return [_unreadable(item) for item in source.unresolved]
    findings = [_open_question(item) for item in source.unresolved]
    findings += _complete(source)
    merged: dict[Finding, list[str]] = {}
    advice: dict[Finding, str] = {}
    for snapshot in claimed:
        for finding in _misfits(source, snapshot):
            what = replace(finding, advice="")
            merged.setdefault(what, []).append(snapshot.series)
            advice[what] = finding.advice  # that of the newest: each series may have other roles
    order = [snapshot.series for snapshot in claimed]
    return findings + [
        replace(
            what, series=tuple(series), advice=_advice(what, advice[what], series, order, needed, running)
        )
        for what, series in merged.items()
    ]


def _advice(
    finding: Finding,
    advice: str,
    failing: Sequence[str],
    claimed: Sequence[str],
    needed: Sequence[str],
    running: Version,
) -> str:
    """Say which bound would be true, if one is, and what to change where none would be accepted."""
    if not finding.rule.startswith("E-"):
        return ""
    after = claimed[claimed.index(failing[-1]) + 1 :]
    if after and not set(failing) & set(needed):
        return f"declare {PUBLIC}>={lower_bound(after[0], running)}"
    change = advice or "change it"
    return f"{change} and declare {PUBLIC}>={lower_bound(needed[0], running)}" if after else change


def _unreadable(item: Unresolved) -> Finding:
    text = f"cannot be read: {item.reason}"
    return Finding("U-SOURCE", text, advice=item.advice, path=item.path, line=item.line)


def _open_question(item: Unresolved) -> Finding:
    rule = _OPEN[item.about]
    settled = rule == _SETTLED_BY_LOADING
    advice = "" if settled else "write it out, so that it can be read"
    return Finding(rule, item.reason, (), advice, item.path, item.line, settled_by_loading=settled)


def _complete(source: PluginSource) -> Iterator[Finding]:
    """Tell of a missing role or method, and of needs that cannot stand."""
    open_questions = {item.about for item in source.unresolved}
    if source.role is None and "role" not in open_questions:
        text = "the class has no attribute role"
        advice = 'write role = "augment" (or another role) in the class'
        yield Finding("E-ROLE", text, (), advice, source.path, source.line)
    for name in METHODS:
        if name not in source.methods and "arguments" not in open_questions:
            text = f"the class has no {name}()"
            advice = f"write {name}(), or '{name} = passthrough'"
            yield Finding("E-METHOD", text, (), advice, source.path, source.line)
    if [method.passthrough for method in source.methods.values()] == [True, True]:
        text = "forward and backward are both pass-throughs, so that it does nothing"
        yield Finding("E-METHOD", text, (), "write one of them", source.path, source.line)
    if source.lost_state:
        text = f"the class keeps state and has no {source.lost_state}(): a resumed run would lose it"
        yield Finding("E-METHOD", text, (), f"write {source.lost_state}()", source.path, source.line)
    for fault in source.need_faults:
        yield Finding("E-NEEDS", fault.text, (), fault.advice, source.path, fault.line)
    for method in source.methods.values():
        if not method.plain:
            text = f"{method.name}() is a static, class or async method"
            advice = f"write def {method.name}(self, …)"
            yield Finding("E-METHOD", text, (), advice, method.path, method.line)
        elif method.unnamed:
            text = f"{method.name}() takes {join_words(method.unnamed)}: arguments are given by name"
            advice = f"write each argument that {method.name}() takes, without / and *"
            yield Finding("E-METHOD", text, (), advice, method.path, method.line)


def _misfits(source: PluginSource, snapshot: SeriesSnapshot) -> Iterator[Finding]:
    """Yield what does not fit one series; the series itself is left out of the text."""
    if source.role is not None:
        if source.role not in snapshot.roles:
            text = f"there is no role '{source.role}'"
            advice = f"use one of {', '.join(sorted(snapshot.roles))}"
            yield Finding("E-ROLE", text, (), advice, source.path, source.line)
        else:
            for method in source.methods.values():
                yield from _method(method, source.role, snapshot)
    yield from _names(source, snapshot)
    yield from _attributes(source, snapshot)


def _method(method: Method, role: str, snapshot: SeriesSnapshot) -> Iterator[Finding]:
    if method.passthrough:
        return
    hook = f"{role}_{method.name}"
    if hook not in snapshot.hooks:
        advice = f"write '{method.name} = passthrough'"
        yield Finding("E-HOOK", f"there is no {hook}", (), advice, method.path, method.line)
        return
    known = snapshot.hooks[hook]
    written = shorten(f"{method.name}({', '.join(method.arguments)})", _SIGNATURE_SHOWN)
    for argument in method.arguments:
        if argument in known:
            yield from _deprecation(f"{hook}.{argument}", snapshot, method)
        elif argument in method.defaults:
            text = f"{written}: '{argument}' is not an argument; its default is used"
            yield Finding("W-DEFAULT-ARG", text, (), "", method.path, method.line)
        else:
            text = f"{written}: '{argument}' is not an argument of {hook}"
            advice = f"drop '{argument}' or give it a default"
            yield Finding("E-ARG", text, (), advice, method.path, method.line)
    yield from _deprecation(hook, snapshot, method)


def _deprecation(item: str, snapshot: SeriesSnapshot, method: Method) -> Iterator[Finding]:
    if item in snapshot.deprecated:
        text = f"{item} will go in {snapshot.deprecated[item]}; deprecated"
        yield Finding("W-DEPRECATED", text, (), "", method.path, method.line)


def _names(source: PluginSource, snapshot: SeriesSnapshot) -> Iterator[Finding]:
    for found in source.imports:
        is_special = found.module == PUBLIC and found.name.startswith("__")
        if found.guarded or is_special or found.name in (ALL, WHOLE):
            continue
        if found.module != PUBLIC:
            text = f"{found.module}.{found.name} is not public"
            advice = f"import {found.name} from {PUBLIC} if it is public there{_new_place(found)}"
            yield Finding("E-NAME", text, (), advice, found.path, found.line)
        elif found.name not in snapshot.names:
            text = f"{PUBLIC} has no '{found.name}'"
            advice = _guard(found.name)
            yield Finding("E-NAME", text, (), advice, found.path, found.line)


def _guard(name: str) -> str:
    """Return how to get along with and without a name."""
    guard = f"try: from {PUBLIC} import {name} … except ImportError: {name} = None …"
    return f"do without '{name}', or write '{guard}'"


def _new_place(found: Import) -> str:
    """Return where what a plugin imports has gone, as a clause."""
    names = json.loads(MOVED.read_text(encoding="utf-8"))
    place = names.get(found.module) or names.get(f"{found.module}.{found.name}")
    return f"; it lies in {place} now" if place else ""


def _attributes(source: PluginSource, snapshot: SeriesSnapshot) -> Iterator[Finding]:
    type_of = _argument_types(source, snapshot)
    for use in source.uses:
        type_name = use.type_name or type_of(use)
        known = snapshot.types.get(type_name)
        if known is None or use.guarded or use.attribute is None:
            continue
        if use.attribute not in known and not use.attribute.startswith("__"):
            text = f"{type_name} has no '{use.attribute}'"
            subject = use.argument or "value"
            advice = f"read {use.attribute} with getattr({subject}, '{use.attribute}', default)"
            yield Finding("E-ATTR", text, (), advice, use.path, use.line)


def _argument_types(source: PluginSource, snapshot: SeriesSnapshot) -> Callable[[Use], str]:
    def type_of(use: Use) -> str:
        return snapshot.hooks.get(f"{source.role}_{use.method}", {}).get(use.argument, "")

    return type_of
