"""Try what must not work, from inside the sandbox, before any of the plugin's code is loaded.

A layer counts as active only when its probes were refused: what a kernel, a
container or a library claims is no proof.
"""

from __future__ import annotations

from . import file_probes, syscall_probes
from .probe import Probe, ProbeContext

__all__ = ["LAYER_PROBES", "PROBES", "ProbeContext", "run_probes"]

#: Name to probe, in the order in which they run.
PROBES: dict[str, Probe] = {**file_probes.PROBES, **syscall_probes.PROBES}

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
