"""Settings of a process that must stand before torch is imported."""

from __future__ import annotations

import os


def share_processors() -> None:
    """Let torch's threads sleep while they wait; to be called before torch is imported.

    A trainer shares its processors with its plugins and with whatever else runs
    there. Spinning gains up to a fifth where nothing else runs, and costs a
    factor of eight where something does.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
