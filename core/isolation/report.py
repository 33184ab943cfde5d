"""Say honestly what the sandbox holds on this machine: layer by layer, verified by trying."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..hooks.errors import SandboxUnavailableError
from .probes import LAYER_PROBES
from .status import CONSEQUENCES, LAYERS, REQUIRED, LayerStatus, lacking

__all__ = ["CONSEQUENCES", "combine", "grade", "is_held", "refuse_if_missing", "table"]

_HOLDS = ("active", "degraded")

_WAY_OUT: dict[str, str] = {
    "landlock": "enable Landlock (Linux 5.13 or newer, with 'landlock' in the boot option lsm=)",
    "seccomp": "allow seccomp filters (in a container: a profile that admits the seccomp system call)",
    "rlimits": "raise memory_fraction or the machine's memory if the budget is too small for torch",
    "fds": "mount /proc",
}


def combine(
    statuses: Iterable[LayerStatus],
    probes: Mapping[str, bool],
    *host_layers: LayerStatus,
) -> tuple[LayerStatus, ...]:
    """Judge the layers by their probes and put them in the order of application.

    Args:
        statuses: What ``confine`` returned.
        probes: What ``run_probes`` returned: name to blocked. A missing probe is a failed one.
        host_layers: The host's own: cgroup, watchdog, messages.

    Returns:
        A layer that says that it is on, and has a probe that was not blocked, is ``failed``.
    """
    judged = [_judge(status, probes) for status in statuses]
    return tuple(sorted((*judged, *host_layers), key=lambda status: LAYERS.index(status.name)))


def _judge(status: LayerStatus, probes: Mapping[str, bool]) -> LayerStatus:
    if not is_held(status):
        return status
    names = LAYER_PROBES[status.name]
    passed = [name for name in names if not probes.get(name, False)]
    if passed:
        return lacking(
            status.name, "failed", f"{status.detail}; but this was not refused: {', '.join(passed)}"
        )
    return msgspec.structs.replace(status, verified_by=names)


def is_held(status: LayerStatus) -> bool:
    """Return whether the layer is on, if perhaps with less than asked for."""
    return status.status in _HOLDS


def refuse_if_missing(statuses: Sequence[LayerStatus], plugin: str) -> None:
    """Refuse to run ``plugin`` if a required layer does not hold.

    Raises:
        SandboxUnavailableError: With each such layer, why, what that means, and the ways out.
    """
    known = {status.name: status for status in statuses}
    absent = [known.get(name, lacking(name, "unavailable", "it was not applied")) for name in REQUIRED]
    missing = [status for status in absent if not is_held(status)]
    if missing:
        raise SandboxUnavailableError(explain_missing(missing, plugin))


def explain_missing(missing: Sequence[LayerStatus], plugin: str) -> str:
    """Return the message for a plugin whose required layers do not hold."""
    faults = "\n".join(
        f"  {status.name}: {status.status}: {status.detail}. Without it {CONSEQUENCES[status.name]}."
        for status in missing
    )
    advice = [_WAY_OUT[status.name] for status in missing if status.name in _WAY_OUT]
    ways = "; ".join([*advice, f"or write 'isolation: trusted' beside '{plugin}' to run it unprotected"])
    return f"plugin '{plugin}' cannot be sandboxed on this machine:\n{faults}\nTo go on: {ways}."


def grade(statuses: Sequence[LayerStatus]) -> str:
    """Say in a sentence what the layers together are good for."""
    held = {status.name for status in statuses if is_held(status)}
    if held.issuperset(REQUIRED):
        return "A: holds plugins that nobody has to trust."
    if held.issuperset(("fds", "environment", "rlimits")) and held.intersection(("landlock", "seccomp")):
        return "B: holds accidents and curious plugins, not malicious ones."
    return "C: holds crashes, hangs and leaks only; files and network are open to plugins."


def table(statuses: Iterable[LayerStatus]) -> list[tuple[str, str, str, str]]:
    """Return rows of (layer, status, detail with the number of probes passed, consequence)."""
    return [(status.name, status.status, _detail(status), status.consequence) for status in statuses]


def _detail(status: LayerStatus) -> str:
    if not status.verified_by:
        return status.detail
    return f"{status.detail} (verified by {len(status.verified_by)} probes)"
