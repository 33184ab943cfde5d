"""Probes of system calls: other processes, sockets, uncounted memory, limits and privileges."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import struct
import time

from ...policy import kernel
from ...policy.confinement import ProbeContext
from ..layers import capabilities
from .probe import REFUSED, Probe, call_refused, opens, refused

_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})
_TEBIBYTE = 1 << 40
_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_DETACH = 0x4206, 0x4207, 17
_WALL = 0x40000000
_F_SETOWN = 8
_TIOCSTI_WITH_HIGH_BITS = 0x1_0000_5412
_NOWHERE = ("127.0.0.1", 9)
_AF_ALG, _AF_VSOCK = 38, 40


def _exec(_: ProbeContext) -> bool:
    # The arguments are at a bad address: past every check this gives EFAULT instead of a new program.
    path = ctypes.create_string_buffer(b"/bin/sh")
    return refused(lambda: kernel.syscall("execve", path, 1, 0))


def _spawn(_: ProbeContext) -> bool:
    return refused(lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0))


def _fork(_: ProbeContext) -> bool:
    def attempt() -> None:
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    return refused(attempt)


def _ptrace(context: ProbeContext) -> bool:
    try:
        kernel.syscall("ptrace", _PTRACE_SEIZE, context.host_pid, 0, 0)
    except OSError as error:
        return error.errno in REFUSED
    _detach(context.host_pid)
    return False


def _detach(pid: int) -> None:
    """Detach from a process that we should not have been able to trace, in at most 50 ms."""
    kernel.syscall("ptrace", _PTRACE_INTERRUPT, pid, 0, 0)
    for _ in range(50):
        stopped, _ = os.waitpid(pid, os.WNOHANG | _WALL)
        if stopped == pid:
            kernel.syscall("ptrace", _PTRACE_DETACH, pid, 0, 0)
            return
        time.sleep(0.001)


def _read_memory(context: ProbeContext) -> bool:
    # Address 4096 is never mapped: a permitted read gives EFAULT.
    target = ctypes.create_string_buffer(8)
    local = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(target), 8), 16)
    remote = ctypes.create_string_buffer(struct.pack("QQ", 4096, 8), 16)
    return refused(lambda: kernel.syscall("process_vm_readv", context.host_pid, local, 1, remote, 1, 0))


def _signal_owner(context: ProbeContext) -> bool:
    reader, writer = os.pipe()
    try:
        return refused(lambda: fcntl.fcntl(reader, _F_SETOWN, context.host_pid))
    finally:
        os.close(reader)
        os.close(writer)


def _push_input(_: ProbeContext) -> bool:
    reader, writer = os.pipe()  # no terminal: past the filter it gives ENOTTY
    try:
        return refused(
            lambda: kernel.syscall(
                "ioctl", reader, _TIOCSTI_WITH_HIGH_BITS, ctypes.create_string_buffer(b"x")
            )
        )
    finally:
        os.close(reader)
        os.close(writer)


def _renice_host(context: ProbeContext) -> bool:
    def attempt() -> None:
        os.setpriority(os.PRIO_PROCESS, context.host_pid, os.getpriority(os.PRIO_PROCESS, context.host_pid))

    return refused(attempt)


def _move_host(context: ProbeContext) -> bool:
    def attempt() -> None:
        os.sched_setaffinity(context.host_pid, os.sched_getaffinity(context.host_pid))

    return refused(attempt)


def _limit_host(context: ProbeContext) -> bool:
    def attempt() -> None:
        limits = resource.prlimit(context.host_pid, resource.RLIMIT_NOFILE)
        resource.prlimit(context.host_pid, resource.RLIMIT_NOFILE, limits)

    return refused(attempt)


def _connects(family: int, kind: int, address: tuple[str, int] | str) -> bool:
    def attempt() -> None:
        with socket.socket(family, kind) as made:
            made.setblocking(False)
            made.connect(address)

    return refused(attempt, _NO_NETWORK)


def _binds(_: ProbeContext) -> bool:
    def attempt() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
            made.bind(("127.0.0.1", 0))

    return refused(attempt, _NO_NETWORK)


def _makes_socket(family: int, kind: int, protocol: int = 0) -> Probe:
    return lambda _: refused(lambda: socket.socket(family, kind, protocol).close(), _NO_NETWORK)


def _socketpair(_: ProbeContext) -> bool:
    def attempt() -> None:
        for end in socket.socketpair():
            end.close()

    return refused(attempt)


def _maps(flags: int, length: int = mmap.PAGESIZE, also: frozenset[int] = frozenset()) -> bool:
    def attempt() -> None:
        address = kernel.syscall("mmap", 0, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        kernel.syscall("munmap", address, length)

    return refused(attempt, also)


def _data_limit(_: ProbeContext) -> bool:
    flags = kernel.MAP_PRIVATE | kernel.MAP_ANONYMOUS | kernel.MAP_NORESERVE
    return _maps(flags, _TEBIBYTE, frozenset({errno.ENOMEM}))


def _system_v(get: str, control: str, *size: int) -> bool:
    def attempt() -> None:
        made = kernel.syscall(get, 0, *size, 0o600 | 0o1000)
        remove = (made, 0, 0) if control == "semctl" else (made, 0)
        kernel.syscall(control, *remove)

    return refused(attempt)


def _raise_limit(_: ProbeContext) -> bool:
    unlimited = ctypes.create_string_buffer(b"\xff" * 16, 16)  # twice RLIM_INFINITY
    return refused(lambda: kernel.syscall("prlimit64", 0, resource.RLIMIT_DATA, unlimited, 0))


def _outlive_parent(_: ProbeContext) -> bool:
    found = ctypes.c_int()
    kernel.syscall("prctl", kernel.PR_GET_PDEATHSIG, ctypes.addressof(found), 0, 0, 0)
    return refused(lambda: kernel.prctl(kernel.PR_SET_PDEATHSIG, found.value))


def _parent_death(_: ProbeContext) -> bool:
    found = ctypes.c_int()
    kernel.syscall("prctl", kernel.PR_GET_PDEATHSIG, ctypes.addressof(found), 0, 0, 0)
    return found.value == signal.SIGKILL


def _clone_process(_: ProbeContext) -> bool:
    # Without CLONE_VM the kernel refuses CLONE_SIGHAND as invalid: past the filter, no process is made.
    return call_refused("clone", kernel.CLONE_SIGHAND | signal.SIGCHLD, 0, 0, 0, 0)


def _message_queue(_: ProbeContext) -> bool:
    name = ctypes.create_string_buffer(b"ringfence-probe-absent")
    return refused(lambda: kernel.syscall("mq_open", name, os.O_RDONLY, 0, 0))


def _mount(context: ProbeContext) -> bool:
    # A file system that does not exist: past the check this gives ENODEV.
    kind, where = (
        ctypes.create_string_buffer(b"ringfence"),
        ctypes.create_string_buffer(context.scratch.encode()),
    )
    return refused(lambda: kernel.syscall("mount", kind, where, kind, 0, 0))


def _anonymous_file(_: ProbeContext) -> bool:
    name = ctypes.create_string_buffer(b"probe")
    return opens(lambda: kernel.syscall("memfd_create", name, 0))


def _core_dump(_: ProbeContext) -> bool:
    # 1 forbids dumps to programs too; where the limit was 0 already it takes rights to raise it to that.
    return resource.getrlimit(resource.RLIMIT_CORE) in ((1, 1), (0, 0))


#: Name to probe; each returns True when the attempt was refused.
PROBES: dict[str, Probe] = {
    "exec": _exec,
    "spawn": _spawn,
    "fork": _fork,
    "clone_process": _clone_process,
    "clone3": lambda _: call_refused("clone3", 0, 0),
    "ptrace_host": _ptrace,
    "read_host_memory": _read_memory,
    "signal_host": lambda context: refused(lambda: os.kill(context.host_pid, 0)),
    "signal_host_thread": lambda context: call_refused("tgkill", context.host_pid, context.host_pid, 0),
    "signal_host_by_pidfd": lambda context: opens(lambda: os.pidfd_open(context.host_pid)),
    "signal_host_by_file": _signal_owner,
    "renice_host": _renice_host,
    "move_host": _move_host,
    "limit_host": _limit_host,
    "push_terminal_input": _push_input,
    "tcp_connect": lambda _: _connects(socket.AF_INET, socket.SOCK_STREAM, _NOWHERE),
    "tcp_bind": _binds,
    "udp_connect": lambda _: _connects(socket.AF_INET, socket.SOCK_DGRAM, _NOWHERE),
    "unix_path": lambda context: _connects(
        socket.AF_UNIX, socket.SOCK_STREAM, str(context.in_scratch("probe-absent"))
    ),
    "unix_abstract": lambda _: _connects(socket.AF_UNIX, socket.SOCK_STREAM, "\0ringfence-probe-absent"),
    "socketpair": _socketpair,
    "netlink": _makes_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "raw_socket": _makes_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "packet_socket": _makes_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "crypto_socket": _makes_socket(_AF_ALG, socket.SOCK_SEQPACKET),
    "vm_socket": _makes_socket(_AF_VSOCK, socket.SOCK_STREAM),
    "anonymous_file": _anonymous_file,
    "secret_memory": lambda _: opens(lambda: kernel.syscall("memfd_secret", 0)),
    "shared_memory": lambda _: _system_v("shmget", "shmctl", 4096),
    "semaphores": lambda _: _system_v("semget", "semctl", 1),
    "messages": lambda _: _system_v("msgget", "msgctl"),
    "message_queue": _message_queue,
    "shared_mapping": lambda _: _maps(kernel.MAP_SHARED | kernel.MAP_ANONYMOUS),
    "growing_mapping": lambda _: _maps(kernel.MAP_PRIVATE | kernel.MAP_ANONYMOUS | kernel.MAP_GROWSDOWN),
    "data_limit": _data_limit,
    "raise_limit": _raise_limit,
    "core_dump": _core_dump,
    "unshare": lambda _: call_refused("unshare", 0),
    "setns": lambda _: call_refused("setns", -1, 0),
    "mount": _mount,
    "chroot": lambda _: refused(lambda: os.chroot("/")),
    "file_by_handle": lambda _: call_refused("open_by_handle_at", -1, 1, 0),
    "change_user": lambda _: call_refused("setresuid", -1, -1, -1),
    "capabilities": lambda _: not any(capabilities.held()),
    "no_new_privs": lambda _: kernel.prctl(kernel.PR_GET_NO_NEW_PRIVS) == 1,
    "outlive_parent": _outlive_parent,
    "parent_death": _parent_death,
    "session": lambda _: os.getsid(0) == os.getpid(),
    "real_time": lambda _: refused(lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))),
    "io_uring": lambda _: call_refused("io_uring_setup", 1, 0),
    "userfaultfd": lambda _: opens(lambda: kernel.syscall("userfaultfd", 0)),
    "bpf": lambda _: call_refused("bpf", 0, 0, 0),
    "perf_events": lambda _: call_refused("perf_event_open", 0, 0, -1, -1, 0),
    "kernel_keys": lambda _: call_refused("keyctl", 0, -3, 0, 0, 0),
    "watch_files": lambda _: opens(lambda: kernel.syscall("inotify_init1", 0)),
    "kernel_log": lambda _: call_refused("syslog", 10, 0, 0),
    "more_filters": lambda _: call_refused("seccomp", 99, 0, 0),
}
