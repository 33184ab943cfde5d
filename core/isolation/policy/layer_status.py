"""The status of one layer of the sandbox, and what it means when a layer is missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

Status = Literal["active", "degraded", "unavailable", "failed", "disabled"]
#: Order of application. ``cgroup``, ``watchdog`` and ``messages`` are the host's.
LAYERS = (
    "process",
    "fds",
    "environment",
    "rlimits",
    "cgroup",
    "namespaces",
    "privileges",
    "landlock",
    "seccomp",
    "watchdog",
    "messages",
)
#: Layers without which a plugin is not run untrusted.
REQUIRED = ("fds", "environment", "rlimits", "privileges", "landlock", "seccomp", "watchdog")
#: What a plugin could do if this layer alone were missing, in plain words.
CONSEQUENCES: dict[str, str] = {
    "process": "a plugin may outlive a trainer that was killed or is short of memory, and share its terminal",
    "fds": "a plugin may use files and connections that the trainer has open",
    "environment": "a plugin may read tokens and passwords from the environment, or has no folder of its own",
    "rlimits": "a plugin that leaks is stopped only after it has taken the memory, not before",
    "cgroup": "memory is held by RLIMIT_DATA and the watchdog alone; the kernel's own is not counted",
    "namespaces": "network and System V objects are guarded by seccomp and Landlock alone",
    "privileges": "a plugin keeps the rights of the user, root's included, and may gain more",
    "landlock": "a plugin may read and change every file of the user",
    "seccomp": "a plugin may start programs, open connections, signal processes and take memory uncounted",
    "watchdog": "a plugin that hangs or goes past its budget is not stopped from outside",
    "messages": "what a plugin sends is not checked before use",
}
#: Layers that can be left out, to show what each of them stops; the other two are the host itself.
SKIPPABLE = tuple(name for name in LAYERS if name not in ("watchdog", "messages"))


def require_known(names: Iterable[str]) -> None:
    """Check names of layers that are to be left out.

    Raises:
        ValueError: One is no layer, or one that cannot be left out; tells those that can.
    """
    for name in names:
        if name not in SKIPPABLE:
            what = "cannot be left out" if name in LAYERS else "is no layer of the sandbox"
            raise ValueError(f"'{name}' {what}; those that can be are: {', '.join(SKIPPABLE)}")


class LayerStatus(msgspec.Struct, frozen=True):
    """State of one layer.

    Attributes:
        name: One of ``LAYERS``.
        status: ``"active"``; ``"degraded"``: works, with less than this version asks
            for; ``"unavailable"``: this machine does not have it; ``"failed"``: it
            was tried or probed, and does not hold; ``"disabled"``: switched off.
        detail: What exactly is on, or why it is not.
        verified_by: Probes that tried to get past it and were refused.
        consequence: What its absence means; empty when active.
    """

    name: str
    status: Status
    detail: str = ""
    verified_by: tuple[str, ...] = ()
    consequence: str = ""


class LayerError(Exception):
    """A required layer could not be applied, or the process is in no state to be confined.

    Attributes:
        layer: Name of the layer.
        reason: Why, without the name.
        status: ``"unavailable"`` if this machine does not have it.
        layers: How every layer stands, if all were tried.
    """

    def __init__(
        self, layer: str, reason: str, status: Status = "failed", layers: tuple[LayerStatus, ...] = ()
    ) -> None:
        super().__init__(layer, reason)
        self.layer = layer
        self.reason = reason
        self.status = status
        self.layers = layers

    def __str__(self) -> str:
        return f"sandbox layer '{self.layer}' could not be applied: {self.reason}"


def active(name: str, detail: str) -> LayerStatus:
    """Return the status of a layer that was applied in full."""
    return LayerStatus(name, "active", detail)


def lacking(name: str, status: Status, detail: str) -> LayerStatus:
    """Return the status of a layer that was not, with what that means."""
    return LayerStatus(name, status, detail, consequence=CONSEQUENCES[name])


#: Layer to the probes that it blocks all by itself, on every kernel on which it is active.
LAYER_PROBES: dict[str, tuple[str, ...]] = {
    "process": ("session", "stdin", "parent_death"),
    "fds": ("inherited_fd",),
    "environment": ("env_canary", "scratch_is_own"),
    "rlimits": ("data_limit", "core_dump"),
    "namespaces": ("own_network", "tcp_connect", "udp_connect"),
    "privileges": ("capabilities", "no_new_privs", "chroot"),
    "landlock": (
        *("read_canary", "write_canary", "write_beside_canary", "list_canary_folder", "list_root"),
        *("list_processes", "read_accounts", "read_through_root_link", "symlink_escape", "hardlink_escape"),
        *("rename_out", "shared_memory_file", "shared_zero_device", "terminal", "own_network_table"),
        *("host_environment", "host_memory", "host_maps", "host_folder"),
    ),
    "seccomp": (
        *("truncate_canary", "chmod_canary", "touch_canary", "setuid_bit", "fallocate"),
        *("exec", "spawn", "fork", "clone_process", "clone3", "ptrace_host", "read_host_memory"),
        *("signal_host", "signal_host_thread", "signal_host_by_pidfd", "signal_host_by_file"),
        *("renice_host", "move_host", "limit_host", "push_terminal_input"),
        *("tcp_connect", "tcp_bind", "udp_connect", "unix_path", "unix_abstract", "socketpair"),
        *("netlink", "raw_socket", "packet_socket", "crypto_socket", "vm_socket"),
        *("anonymous_file", "secret_memory", "shared_memory", "semaphores", "messages", "message_queue"),
        *("shared_mapping", "growing_mapping", "raise_limit", "unshare", "setns", "mount", "chroot"),
        *("file_by_handle", "change_user", "outlive_parent", "real_time", "io_uring", "userfaultfd"),
        *("bpf", "perf_events", "kernel_keys", "watch_files", "kernel_log", "more_filters"),
    ),
}
