"""The page with what Python programs call."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import docstrings

import ringfence

_HEAD = """\
# Python

<!-- Made by `python tools/reference` from the docstrings in `core/`. Change it there. -->

What programs call, with all that they pass and get. [Train from Python](../python.md) shows how it is
used; what hooks of plugins receive is in [hooks](hooks.md), and the keys of a job in [jobs](job.md)."""
#: In the order of the page; what is not there yet in a clone is left out.
_FUNCTIONS = ("train", "open_run", "load", "evaluate", "predict", "plugin_host")
_CLASSES = ("Run", "Series", "Observer", "RunInfo")
#: Longest signature that is written in one line.
_WIDTH = 88


def text() -> str:
    """Return the page."""
    parts = [_HEAD, "## Functions"]
    for name in _FUNCTIONS:
        if name in ringfence.__all__:
            parts += _function(name, getattr(ringfence, name))
    parts.append("## Classes")
    for name in _CLASSES:
        parts += _class(name, getattr(ringfence, name))
    return "\n\n".join(part for part in parts if part) + "\n"


def _function(name: str, function: Callable[..., Any]) -> Iterator[str]:
    doc = docstrings.read(function)
    yield f"### {name}"
    yield f"```python\n{_written(f'ringfence.{name}', function)}\n```"
    yield doc.summary
    yield from doc.paragraphs
    yield _table(("argument", "what it is"), doc.entries("Args"))
    returns = doc.sections.get("Returns", "")
    yield f"**Returns:** {returns}" if returns else ""
    yield _table(("raises", "when"), doc.entries("Raises"))


def _class(name: str, cls: type) -> Iterator[str]:
    doc = docstrings.read(cls)
    yield f"### {name}"
    yield doc.summary
    yield from doc.paragraphs
    attributes = doc.entries("Attributes")
    methods = {}
    for key, member in vars(cls).items():
        told = docstrings.read(member)
        if key.startswith("_") or not told.summary:
            continue
        what = " ".join([told.summary, *told.paragraphs]).replace("\n", " ")
        if inspect.isfunction(member):
            methods[_called(key, member)] = what
        elif isinstance(member, property) or hasattr(member, "attrname"):
            attributes[key] = what
    yield _table(("attribute", "what it is"), attributes)
    yield _table(("method", "what it does"), methods)


def _table(heads: tuple[str, str], entries: dict[str, str]) -> str:
    rows = [f"| {heads[0]} | {heads[1]} |", "| --- | --- |"]
    rows += [f"| `{name}` | {what.replace('|', chr(92) + '|')} |" for name, what in entries.items()]
    return "\n".join(rows) if entries else ""


def _parameters(function: Callable[..., Any]) -> tuple[list[str], str]:
    """Return each parameter as it is written, and what is returned."""
    signature = inspect.signature(function)
    written, is_open = [], True
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and is_open:
            written.append("*")
            is_open = False
        text = re.sub(r"'([^']*)'$", r"\1", str(parameter.replace(default=parameter.empty)))
        text = re.sub(r": '([^']*)'", r": \1", text)
        if parameter.default is not parameter.empty:
            text += f" = {parameter.default!r}"
        written.append(text)
    returns = signature.return_annotation
    return written, "" if returns is signature.empty else f" -> {str(returns).strip(chr(39))}"


def _written(name: str, function: Callable[..., Any]) -> str:
    """Return a signature as its author writes it, a parameter a line where it is long."""
    parameters, returns = _parameters(function)
    line = f"{name}({', '.join(parameters)}){returns}"
    if len(line) <= _WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f"){returns}"


def _called(name: str, method: Callable[..., Any]) -> str:
    """Return a method as it is called, with the names of its parameters."""
    names = [parameter.split(":")[0] for parameter in _parameters(method)[0]]
    return f"{name}({', '.join(names)})"
