"""Report the layers of the sandbox on this machine, each verified by trying."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ....hooks.errors import SandboxUnavailableError
from ...policy.layer_status import CONSEQUENCES, LAYER_PROBES, LAYERS, REQUIRED, LayerStatus, lacking

_HOLDS = ("active", "degraded")
_FROM_BEST = ("active", "degraded", "disabled", "unavailable", "failed")

_WAY_OUT: dict[str, str] = {
    "landlock": "enable Landlock (Linux 5.13 or newer, with 'landlock' in the boot option lsm=)",
    "seccomp": "allow seccomp filters (in a container: a profile that admits the seccomp system call)",
    "rlimits": "raise memory_fraction or the machine's memory if the budget is too small for torch",
    "fds": "mount /proc",
    "environment": "make room in the folder for temporary files, or name another one in TMPDIR",
    "privileges": "let processes give up rights (in a container: a profile that admits capset and prctl)",
    "watchdog": "raise the limit on threads (ulimit -u, pids.max), and start anew",
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
            status.name, "failed", f"{status.detail}; but not refused, or not even tried: {', '.join(passed)}"
        )
    return msgspec.structs.replace(status, verified_by=names)


def merge_worst(each: Sequence[tuple[LayerStatus, ...]]) -> tuple[LayerStatus, ...]:
    """Return how the layers stand of several processes together: as of the one where each stands worst.

    Args:
        each: What ``combine`` returned for every process; at least one.
    """
    by_name: dict[str, list[LayerStatus]] = {}
    for statuses in each:
        for status in statuses:
            by_name.setdefault(status.name, []).append(status)
    # A layer that one process says nothing of is not known to hold there.
    return tuple(
        max(found, key=lambda status: _FROM_BEST.index(status.status))
        if len(found) == len(each)
        else lacking(name, "unavailable", "it was not applied in every process")
        for name, found in by_name.items()
    )


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


def explain_missing(missing: Sequence[LayerStatus], plugin: str = "") -> str:
    """Return the message for a plugin, or for all, whose required layers do not hold."""
    faults = "\n".join(
        f"  {status.name}: {status.status}: {status.detail}. Without it {CONSEQUENCES[status.name]}."
        for status in missing
    )
    advice = list(dict.fromkeys(way for status in missing if (way := way_out(status))))
    who, beside = (f"plugin '{plugin}'", f"'{plugin}'") if plugin else ("plugins", "a plugin")
    ways = "; ".join([*advice, f"or write 'isolation: trusted' beside {beside} to run it unprotected"])
    return f"{who} cannot be sandboxed on this machine:\n{faults}\nTo go on: {ways}."


def way_out(status: LayerStatus) -> str:
    """Return what to do to have a layer that does not hold, or ``""`` where nothing general can be said."""
    if "/proc" in status.detail and not is_held(status):
        return "mount /proc"
    return _WAY_OUT.get(status.name, "")


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
