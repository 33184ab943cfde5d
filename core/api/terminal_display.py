"""The live view of a run on a terminal: a bar, the numbers, and a row for each plugin."""

from __future__ import annotations

import math

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..plugins.interface import Plugin
from .run_display import Status, call_ms, duration, evaluation_words, memory_words, rate_words, step_ms

_STATE_STYLE = {"running": "green", "disabled": "yellow", "failed": "bold red", "closed": "dim"}
_WORD_STYLES = {"TRUSTED:": "bold red", "GRANTED:": "yellow"}
_BAR_WIDTH = 30
_WHOLE_TABLE_COLUMNS = 110
#: Title, and whether it is shown on a narrow terminal too; the first three are words.
_COLUMNS = (
    *(("plugin", True), ("role", False), ("state", True), ("memory / budget", True)),
    *(("ms a call", False), ("ms a step", True), ("calls", False), ("restarts", True)),
)
_LEFT = 3


class TerminalView:
    """Draws a run in place; messages scroll above it.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        # Redrawn by the training loop itself: no thread of ours runs beside it.
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._started = False
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})

    def line(self, text: str) -> None:
        """Print it above the live part."""
        style = next((style for word, style in _WORD_STYLES.items() if word in text), "")
        self._console.print(Text(text, style=style))

    def refresh(self, status: Status, *, evaluated: bool) -> None:
        """Draw; an evaluation leaves a line above for good."""
        if evaluated and self._evaluated != (status.step, status.metrics):
            self._evaluated = (status.step, dict(status.metrics))
            self.line("  ".join(evaluation_words(status)))
        if not self._started:
            self._live.start()
            self._started = True
        self._live.update(render(status, self._console.width), refresh=True)

    def close(self) -> None:
        """Leave the last picture standing."""
        if self._started:
            self._live.stop()
            self._started = False


def render(status: Status, width: int = 120) -> RenderableType:
    """Return the picture of one moment for a terminal of ``width`` characters."""
    head = _headline(status, is_wide=width >= _WHOLE_TABLE_COLUMNS)
    return (
        Group(head, _plugin_table(status, is_wide=width >= _WHOLE_TABLE_COLUMNS)) if status.plugins else head
    )


def _headline(status: Status, *, is_wide: bool) -> RenderableType:
    total = status.info.steps_total if status.info else 0
    numbers = [f"step {status.step}/{total}", f"epoch {status.epoch:.2f}"]
    numbers.append("loss —" if math.isnan(status.loss) else f"loss {status.loss:.4f}")
    if status.info is not None and status.info.metric in status.metrics:
        best = "" if status.best is None else f" (best {status.best:.4f})"
        name = status.info.metric
        # Beside that of training, which comes before.
        shown = f"{status.info.judged_by} {name}" if name == "loss" else name
        numbers.append(f"{shown} {status.metrics[name]:.4f}{best}")
    numbers.append(rate_words(status.steps_per_s))
    numbers.append("" if status.eta_s is None else f"{duration(status.eta_s)} left")
    bar = ProgressBar(total=max(total, 1), completed=status.step, width=_BAR_WIDTH)
    if not is_wide:
        # A terminal of 80 columns has no room for both in one line.
        above = Table.grid(padding=(0, 2))
        above.add_row(bar, *numbers[-2:])
        return Group(above, Text("  ".join(numbers[:-2]), no_wrap=True, overflow="ellipsis"))
    grid = Table.grid(padding=(0, 2))
    grid.add_row(bar, *(Text(number, no_wrap=True, overflow="ellipsis") for number in numbers))
    return grid


def _plugin_table(status: Status, *, is_wide: bool) -> Table:
    table = Table(box=None, padding=(0, 2) if is_wide else (0, 1), header_style="dim")
    shown = [number for number, (_, is_needed) in enumerate(_COLUMNS) if is_wide or is_needed]
    for number in shown:
        justify: JustifyMethod = "left" if number < _LEFT else "right"
        table.add_column(_COLUMNS[number][0], justify=justify, no_wrap=True, overflow="ellipsis")
    for plugin in status.plugins:
        cells = _cells(plugin, status)
        table.add_row(*(cells[number] for number in shown))
    return table


def _cells(plugin: Plugin, status: Status) -> list[RenderableType]:
    usage, spec = plugin.usage, plugin.spec
    name = Text(spec.name)
    if spec.isolation == "trusted":
        name.append(" TRUSTED", "bold red")
    granted = [kind for kind, each in spec.permissions.granted().items() if each]
    if granted:
        name.append(f" +{'+'.join(granted)}", "yellow")
    return [
        name,
        spec.role,
        Text(usage.state, _STATE_STYLE[usage.state]),
        memory_words(plugin),
        f"{call_ms(plugin):.1f}",
        f"{step_ms(plugin, status):.1f}",
        str(usage.calls) + (f" (+{usage.skipped} skipped)" if usage.skipped else ""),
        str(usage.restarts),
    ]
