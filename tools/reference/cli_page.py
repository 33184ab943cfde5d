"""The page with every command and option."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from ringfence.cli.app import app

_HEAD = """\
# Every command

<!-- Made by `python tools/reference` from the command line itself. Change it there. -->

`ringfence COMMAND --help` tells the same in a terminal. [The command line](../cli.md) tells what the commands
do, what Ctrl-C does, and what an exit status means."""
#: Parameter of the root that is worth a line; every command has --help.
_ROOT = "ringfence"


def text() -> str:
    """Return the page."""
    root = typer.main.get_command(app)
    lines = [_HEAD, *_table(root)]
    for name, command in _commands(root, _ROOT):
        lines += ["", f"## {name}", "", f"```\n{_usage(name, command)}\n```", "", _said(command.help or "")]
        lines += _table(command)
    return "\n".join(lines) + "\n"


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with the words that call it."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def _usage(name: str, command: Any) -> str:
    words = [name]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            value = _value(parameter)
            # Some say themselves that they may be left out.
            words.append(value if parameter.required or value.startswith("[") else f"[{value}]")
    if any(_is_told(parameter) for parameter in command.params):
        words.append("[OPTION]…")
    return " ".join(words)


def _table(command: Any) -> list[str]:
    rows = [_row(parameter) for parameter in command.params]
    rows = [row for row in rows if row]
    return ["", "| | |", "| --- | --- |", *rows] if rows else []


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        # A bar would end the cell.
        value = _value(parameter).replace("|", "` or `")
        return f"| `{value}` | {_said(parameter.help)} |"
    if not _is_told(parameter):
        return ""
    is_flag = getattr(parameter, "is_flag", False)
    name = " ".join([", ".join(parameter.opts), *([] if is_flag else [_value(parameter)])])
    repeated = " May be given several times." if parameter.multiple else ""
    return f"| `{name}` | {_said(parameter.help)}{repeated} |"


def _is_told(parameter: Any) -> bool:
    return parameter.param_type_name == "option" and "--help" not in parameter.opts


def _value(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _said(text: str) -> str:
    """Return help as a sentence in one line."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if line.endswith((".", "]")) else f"{line}."
