"""Check a loaded class against a series; pluggy decides, on a manager of that series.

The class is loaded in its sandbox; what comes out is the names of its arguments.
They are registered here on one manager for each series, whose specifications are
made from the snapshot, so that no old core is needed.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence

import pluggy

from ..compat.findings import Finding
from ..hooks.role import METHODS, PROJECT, hookimpl, hookspec
from ..hooks.series import SeriesSnapshot
from ..plugins.pluggy_adapter import declaration

MAX_ARGUMENTS = 50


def manager_of(snapshot: SeriesSnapshot) -> pluggy.PluginManager:
    """Return a manager with the specifications of one series, and no plugin."""
    specs = {hook: hookspec(declaration(hook, tuple(names))) for hook, names in snapshot.hooks.items()}
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(type(f"Series {snapshot.series}", (), specs))
    return manager


def fits_series(
    accepts: Mapping[str, Sequence[str]],
    role: str,
    snapshot: SeriesSnapshot,
    optional: Iterable[str] = (),
) -> list[Finding]:
    """Register a loaded class on one series and return what pluggy refuses.

    Args:
        accepts: Method to the arguments that the loaded class takes; a pass-through is absent.
        role: Its role.
        snapshot: The series.
        optional: Arguments with a default, which a series need not have.
    """
    series = (snapshot.series,)
    unusable = [method for method, names in accepts.items() if not _usable(method, names)]
    if unusable:
        text = f"reported arguments of {unusable[0]!r:.40} that are no names"
        return [Finding("E-ARG", text, series, advice="write plain methods")]
    registered = types.SimpleNamespace()
    for method, arguments in accepts.items():
        hook = f"{role}_{method}"
        known = snapshot.hooks.get(hook, {})
        given = tuple(name for name in arguments if name in known or name not in set(optional))
        setattr(registered, hook, hookimpl(declaration(hook, given)))
    manager = manager_of(snapshot)
    try:
        manager.register(registered, role)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        advice = "take only arguments that every series has, or give the others a default"
        return [Finding("E-LOADED", " ".join(str(error).split()), series, advice)]
    return []


def _usable(method: str, names: Sequence[str]) -> bool:
    """Tell whether what a sandbox reported can be a hook's arguments."""
    return (
        method in METHODS
        and len(names) <= MAX_ARGUMENTS
        and len(set(names)) == len(names)
        and all(name.isidentifier() for name in names)
    )
