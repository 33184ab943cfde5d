"""Whether code of plugins runs in this process already, as it may where others have used it before.

The command begins with a guard, and nothing of a plugin is ever imported beside it. A process of the user's
own, such as a notebook, has run for long when it comes to train: whatever a plugin's module did as it was
imported, and what it left behind (threads, patches, handlers), cannot be undone there.
"""

from __future__ import annotations

from collections.abc import Iterable

from packaging.utils import canonicalize_name

from ..hooks.errors import RingfenceError
from ..imports.import_guard import guard
from .catalog import Catalog

_MODULES_TOLD = 3
_STARTUP = "E-STARTUP"


class UsedProcessError(RingfenceError):
    """Code of a distribution with plugins runs in this process, or whenever Python starts."""


def refuse_used_process(installed: Catalog, trusted: Iterable[str] = ()) -> None:
    """Check that no code of a distribution with plugins runs in this process that the user did not choose.

    Args:
        installed: The plugins that there are.
        trusted: Distributions whose plugins are to run in this process.

    Raises:
        UsedProcessError: It does, or Python or a library runs some of it without being asked.
        UnknownOwnerError: Which modules belong to whom cannot be told.
    """
    chosen = {canonicalize_name(name) for name in trusted}
    running = {owner: names for owner, names in guard().early_modules().items() if owner not in chosen}
    if running:
        told = "; ".join(
            f"'{owner}' ({', '.join(names[:_MODULES_TOLD])})" for owner, names in sorted(running.items())
        )
        raise UsedProcessError(
            "code of distributions that bring plugins was imported in this process before ringfence: "
            f"{told}. What it did then cannot be undone, and no sandbox would mean anything beside it. Start "
            "a new process and write `import ringfence` above all other imports; of a plugin that you trust, "
            "write so: 'isolation: trusted' beside its name"
        )
    for distribution, hazards in sorted(installed.hazards.items()):
        starting = next((hazard for hazard in hazards if hazard.rule == _STARTUP), None)
        if starting is not None and canonicalize_name(distribution) not in chosen:
            raise UsedProcessError(
                f"'{distribution}', which brings plugins for ringfence, {starting.text}. That holds "
                f"whether it is used here or not: pip uninstall {distribution}"
            )
