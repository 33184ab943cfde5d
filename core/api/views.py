"""Choose what a run is shown by: bars where a cursor is obeyed, plain lines anywhere else."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

from rich.console import Console

from .run_display import PlainView, QuietView, View
from .terminal_display import TerminalView


def choose_view(*, quiet: bool) -> View:
    """Return what shows a run on this process's output.

    Args:
        quiet: It shows nothing.
    """
    if quiet:
        return QuietView()
    console = Console()
    return TerminalView(console) if _can_draw(console) else PlainView(say)


def beside(view: View, otherwise: Callable[[str], None]) -> Callable[[str], None]:
    """Return what takes messages beside ``view``: itself where it draws, as they must not cut its picture."""
    return view.line if isinstance(view, TerminalView) else otherwise


def terminal_width() -> int | None:
    """Return the characters of a line of the terminal, or None if the output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say(text: str) -> None:
    """Write one line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _can_draw(console: Console) -> bool:
    """Tell whether the output is a terminal that obeys a cursor.

    A notebook gives its commands one that only looks so, or has rich take any output for one.
    """
    is_notebook = console.is_jupyter or "JPY_PARENT_PID" in os.environ
    return sys.stdout.isatty() and console.is_terminal and not (is_notebook or console.is_dumb_terminal)
