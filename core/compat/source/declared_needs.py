"""Read the ``needs`` of a plugin's class from its source text.

    needs = {
        "read": {"{teacher}": "the weights it learns from"},
        "connect": {"scores.example.com:443": "posts the scores"},
    }

Kind to what to reason. ``{teacher}`` stands for the value of the option ``teacher``.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...hooks.permissions import KINDS, Need

MAX_NEEDS = 32
MAX_TEXT = 300
_OPTION = re.compile(r"\{(\w+)\}")
_EXAMPLE = 'needs = {"read": {"/path": "why"}}'


class _HasDefault(Protocol):
    """A constructor's parameter, as ``source.Parameter`` describes it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def default_text(self) -> str | None:
        """Its default as written."""


class NotLiteralError(ValueError):
    """``needs`` is no literal, so its text does not settle what it is."""


@dataclass(frozen=True, slots=True)
class NeedFault:
    """Something in ``needs`` that cannot stand.

    Attributes:
        text: What is wrong.
        advice: What would be right.
        line: Where.
    """

    text: str
    advice: str
    line: int


def read_needs(value: ast.expr, options: Collection[str] | None) -> tuple[list[Need], list[NeedFault]]:
    """Return the needs that ``value`` states, and what is wrong with the rest.

    Args:
        value: What is assigned to ``needs``.
        options: Names of the constructor's options; None if it takes any.

    Raises:
        NotLiteralError: It is no literal.
    """
    try:
        stated = ast.literal_eval(value)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise NotLiteralError("needs is no literal: write it out as a dict of dicts of strings") from error
    if not isinstance(value, ast.Dict) or not isinstance(stated, dict):
        return [], [NeedFault("needs is no mapping of kind to what to reason", _EXAMPLE, value.lineno)]
    faults: list[NeedFault] = []
    needs = list(_parse_needs(value, options, faults))
    if len(needs) > MAX_NEEDS:
        text = f"needs has {len(needs)} entries; at most {MAX_NEEDS}"
        faults.append(NeedFault(text, "ask for the folder that holds them", value.lineno))
    return needs, faults


def options_in(what: str) -> list[str]:
    """Return the options that ``what`` names in braces."""
    return _OPTION.findall(what)


def fill(what: str, values: Mapping[str, Any]) -> str | None:
    """Put the values of options into ``what``.

    Args:
        what: As the plugin wrote it.
        values: Option to its value in the job, or to its default.

    Returns:
        None if an option in it is not set, or set to null or to empty text: then nothing is needed.

    Raises:
        ValueError: An option is no text and no number.
    """
    for option in options_in(what):
        value = values.get(option)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(f"option '{option}' is neither text nor a whole number")  # noqa: TRY004 - one kind
    return _OPTION.sub(lambda found: str(values[found[1]]), what)


def literal_defaults(parameters: Iterable[_HasDefault]) -> dict[str, Any]:
    """Return option to default, for those whose default is a literal; what is computed only loading tells."""
    found: dict[str, Any] = {}
    for parameter in parameters:
        with contextlib.suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            found[parameter.name] = ast.literal_eval(parameter.default_text or "None")
    return found


def _parse_needs(value: ast.Dict, options: Collection[str] | None, faults: list[NeedFault]) -> Iterator[Need]:
    for kind_node, inner in zip(value.keys, value.values, strict=True):
        kind = next((known for known in KINDS if _text(kind_node) == known), None)
        if kind is None:
            shown = "**" if kind_node is None else ast.unparse(kind_node)[:MAX_TEXT]
            text = f"needs has the kind {shown}, which there is not"
            faults.append(NeedFault(text, f"use {', '.join(KINDS)}", inner.lineno))
        elif not isinstance(inner, ast.Dict):
            text = f"needs[{kind!r}] is no mapping of what to reason"
            faults.append(NeedFault(text, _EXAMPLE, inner.lineno))
        else:
            for what_node, reason_node in zip(inner.keys, inner.values, strict=True):
                what, reason = _text(what_node), _text(reason_node)
                line = reason_node.lineno
                fault = _fault(what, reason, options)
                if fault is None:
                    yield Need(kind, what, " ".join(reason.split()), line)
                else:
                    faults.append(NeedFault(f"needs[{kind!r}]: {fault[0]}", fault[1], line))


def _fault(what: str, reason: str, options: Collection[str] | None) -> tuple[str, str] | None:
    """Return what is wrong with one need, and what would be right."""
    if not what or not _is_shown(what):
        return "an entry is no text of one line", "name a path, or HOST:PORT"
    if not reason.strip() or not _is_shown(" ".join(reason.split())):
        return f"{what!r} has no reason", "say in a few words what it is for"
    unknown = [name for name in options_in(what) if options is not None and name not in options]
    if unknown:
        return f"{what!r} names '{unknown[0]}', which is no option of the constructor", "name an option"
    return None


def _is_shown(text: str) -> bool:
    return len(text) <= MAX_TEXT and text.isprintable()


def _text(node: ast.expr | None) -> str:
    """Return the text of a string that is written out; ``""`` for anything else."""
    if node is None:
        return ""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return ""
    return value if isinstance(value, str) else ""
