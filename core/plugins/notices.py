"""Notices to the user of what plugins did beside their work: refused attempts, output, files left."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..hooks.permissions import grant_line
from .interface import Plugin


def describe_denials(attempts: Mapping[str, int]) -> list[str]:
    """Return each kind of attempt with how often it was made, as the end of "tried to ..."."""
    return [kind if count == 1 else f"{kind}, {count} times" for kind, count in attempts.items()]


class PluginNews:
    """Tells each thing once: kinds of attempts, the first lines printed, files left, too much time taken.

    Args:
        event: Takes a sentence.
    """

    def __init__(self, event: Callable[[str], None]) -> None:
        self._event = event
        self._seen: dict[str, tuple[Mapping[str, int] | None, int]] = {}
        self._told: set[tuple[str, str]] = set()
        self._shown: dict[str, int] = {}

    def tell(self, plugin: Plugin) -> None:
        """Tell what is new of ``plugin``; costs a few comparisons when nothing is."""
        name, usage = plugin.spec.name, plugin.usage
        if usage.demoted:
            self._once(name, "demoted", usage.demoted)
        if usage.left_files:
            line = grant_line("write", ["/A/FOLDER"])
            self._once(
                name,
                "left files",
                f"left files in its working folder ({usage.left_files}): they are gone with its sandbox. "
                f"Files that are to stay go to a folder that the job grants it: {line}",
            )
        attempts, printed = self._seen.get(name, (None, 0))
        if usage.attempts is attempts and usage.output.count == printed:
            return
        self._seen[name] = (usage.attempts, usage.output.count)
        for kind in usage.attempts or ():
            # Several calls may serve one end: the C library forks by another one when the first fails.
            self._once(name, kind.partition(" (")[0], f"tried to {kind}; refused")
        self._show(name, plugin)

    def tell_last(self, plugin: Plugin) -> None:
        """Tell what is new of ``plugin``, and what it printed last: it has failed."""
        self.tell(plugin)
        output = plugin.usage.output
        lines, output.last = output.last, []
        for line in lines:
            self._event(f"plugin '{plugin.spec.name}' printed last: {line}")

    def _show(self, name: str, plugin: Plugin) -> None:
        output = plugin.usage.output
        # The end is told after the lines before it, however many come meanwhile.
        is_cut, lines = output.is_cut, output.shown[self._shown.get(name, 0) :]
        self._shown[name] = self._shown.get(name, 0) + len(lines)
        for line in lines:
            self._event(f"plugin '{name}' printed: {line}")
        if is_cut:
            self._once(name, "printed", "printed more, which is only counted")

    def _once(self, name: str, what: str, told: str) -> None:
        if (name, what) not in self._told:
            self._told.add((name, what))
            self._event(f"plugin '{name}' {told}")
