"""Try what must not work, from inside the sandbox, before any of the plugin's code is loaded.

A layer counts as active only when its probes were refused: what a kernel, a
container or a library claims is no proof.
"""

from __future__ import annotations

from ...policy.confinement import ProbeContext
from . import file_probes, syscall_probes
from .probe import Probe

#: Name to probe, in the order in which they run.
PROBES: dict[str, Probe] = {**file_probes.PROBES, **syscall_probes.PROBES}


def run_probes(context: ProbeContext) -> dict[str, bool]:
    """Run every probe; to be called after ``confine``.

    Safe outside a sandbox as well: what succeeds is undone or without effect.

    Returns:
        Name to whether it was blocked. A probe that could not even be tried counts as not blocked.
    """
    return {name: _run(probe, context) for name, probe in PROBES.items()}


def _run(probe: Probe, context: ProbeContext) -> bool:
    try:
        return probe(context)
    except OSError:
        return False
