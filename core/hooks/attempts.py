"""Tell the user what plugins did that they may not: each kind once, and attempts then by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .plugin import Plugin


def described(attempts: Mapping[str, int]) -> list[str]:
    """Return each kind of attempt with how often it was made, as the end of "tried to ..."."""
    return [kind if count == 1 else f"{kind}, {count} times" for kind, count in attempts.items()]


class AttemptNews:
    """Tells of the first attempt of each kind by each plugin, and of one that took too much time.

    Args:
        event: Takes a sentence.
    """

    def __init__(self, event: Callable[[str], None]) -> None:
        self._event = event
        self._seen: dict[str, Mapping[str, int] | None] = {}
        self._told: set[tuple[str, str]] = set()
        self._demoted: set[str] = set()

    def tell(self, plugin: Plugin) -> None:
        """Tell what is new of ``plugin``; costs two comparisons when nothing is."""
        name, attempts = plugin.spec.name, plugin.usage.attempts
        if plugin.usage.demoted and name not in self._demoted:
            self._demoted.add(name)
            self._event(f"plugin '{name}' {plugin.usage.demoted}")
        if attempts is self._seen.get(name):
            return
        self._seen[name] = attempts
        for kind in attempts or ():
            # Several calls may serve one end: the C library forks by another one when the first fails.
            what = kind.partition(" (")[0]
            if (name, what) not in self._told:
                self._told.add((name, what))
                self._event(f"plugin '{name}' tried to {kind}; refused")
