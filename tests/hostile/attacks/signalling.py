"""Signal others, in every way that there is to send one.

Where a mild signal proves as much as a deadly one, it is mild: no filter of ours looks at the
number, and the trainer of the tests notes every signal that it gets.
"""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import stat
import struct

from lowlevel import opens, past

from ringfence.isolation.policy import kernel

_MILD = signal.SIGURG
_SI_QUEUE, _SI_BYTES = -1, 128
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_NOTIFY = 8, 10, 15, 1026
_F_OWNER_TID, _F_OWNER_PID = 0, 1
_DN_CREATE = 4
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902
_SIGEV_THREAD_ID = 4

_NUMBERS = (0, signal.SIGURG, signal.SIGCONT, signal.SIGCHLD, signal.SIGWINCH)


def _whom(aim):
    return {"host": aim.host_pid, "zygote": aim.zygote_pid, "sibling": aim.sibling_pid, "first": 1}


def kill(aim):
    """Call kill(), towards one, a group, and everybody."""
    attempts = {
        f"{who}_{number}": lambda pid=pid, number=number: os.kill(pid, number)
        for who, pid in _whom(aim).items()
        for number in _NUMBERS
    }
    return attempts | {
        "everybody_0": lambda: os.kill(-1, 0),
        "everybody": lambda: os.kill(-1, _MILD),
        "own_group_0": lambda: os.kill(0, 0),
        "own_group": lambda: os.kill(0, _MILD),
        "own_group_by_number": lambda: os.killpg(os.getpgrp(), _MILD),
        "group_of_host": lambda: os.killpg(os.getpgid(aim.host_pid), _MILD),
        "high_bits": lambda: kernel.syscall("kill", aim.host_pid | 1 << 32, _MILD) == 0,
    }


def _queued(name, *whom):
    info = ctypes.create_string_buffer(struct.pack("iii", _MILD, 0, _SI_QUEUE), _SI_BYTES)
    return kernel.syscall(name, *whom, _MILD, info) == 0


def other_calls(aim):
    """Send a signal by every other call that does."""

    def by_pidfd(pid):
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, _MILD)
        finally:
            os.close(handle)

    def by_folder(pid):
        handle = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            signal.pidfd_send_signal(handle, _MILD)
        finally:
            os.close(handle)

    attempts = {}
    for who, pid in _whom(aim).items():
        attempts |= {
            f"tkill_{who}": lambda pid=pid: kernel.syscall("tkill", pid, _MILD) == 0,
            f"tgkill_{who}": lambda pid=pid: kernel.syscall("tgkill", pid, pid, _MILD) == 0,
            f"sigqueue_{who}": lambda pid=pid: _queued("rt_sigqueueinfo", pid),
            f"tgsigqueue_{who}": lambda pid=pid: _queued("rt_tgsigqueueinfo", pid, pid),
            f"pidfd_{who}": lambda pid=pid: by_pidfd(pid),
            f"folder_{who}": lambda pid=pid: by_folder(pid),
            f"timer_{who}": lambda pid=pid: _timer(pid),
        }
    return attempts | {
        "tgkill_any_group": lambda: kernel.syscall("tgkill", os.getpid(), aim.host_pid, 0) == 0,
        "pidfd_of_nothing": lambda: past(
            lambda: kernel.syscall("pidfd_send_signal", -1, _MILD, None, 0), errno.EBADF
        ),
    }


def _timer(thread):
    """Have a timer signal a thread."""
    event = ctypes.create_string_buffer(struct.pack("Qiii", 0, _MILD, _SIGEV_THREAD_ID, thread), 64)
    timer = ctypes.c_int()
    kernel.syscall("timer_create", 1, event, ctypes.addressof(timer))
    kernel.syscall("timer_delete", timer.value)
    return True


def by_files(aim):
    """Have a file signal another when there is something to read."""
    owner_of_thread = struct.pack("ii", _F_OWNER_TID, aim.host_pid)
    owner = struct.pack("ii", _F_OWNER_PID, aim.host_pid)
    attempts = {
        "set_owner": lambda: _notifies(lambda fd: fcntl.fcntl(fd, _F_SETOWN, aim.host_pid)),
        "set_owner_sibling": lambda: _notifies(lambda fd: fcntl.fcntl(fd, _F_SETOWN, aim.sibling_pid)),
        "set_owner_group": lambda: _notifies(
            lambda fd: fcntl.fcntl(fd, _F_SETOWN, -os.getpgid(aim.host_pid))
        ),
        "set_owner_ex": lambda: _notifies(lambda fd: fcntl.fcntl(fd, _F_SETOWN_EX, owner)),
        "set_owner_thread": lambda: _notifies(lambda fd: fcntl.fcntl(fd, _F_SETOWN_EX, owner_of_thread)),
        "set_owner_high_bits": lambda: _notifies(
            lambda fd: kernel.syscall("fcntl", fd, _F_SETOWN | 1 << 32, aim.host_pid)
        ),
        "set_signal": lambda: _notifies(lambda fd: None),
        "watch_folder": _watches_folder,
    }
    number = struct.pack("i", aim.host_pid)
    return attempts | {
        f"socket_{name}": lambda request=request: _on_socket(
            lambda fd, request=request: fcntl.ioctl(fd, request, number)
        )
        for name, request in (("owner", _FIOSETOWN), ("group", _SIOCSPGRP))
    }


def _notifies(set_owner):
    reader, writer = os.pipe()
    try:
        set_owner(reader)
        fcntl.fcntl(reader, _F_SETSIG, _MILD)
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.write(writer, b"x")
    finally:
        os.close(reader)
        os.close(writer)


def _watches_folder():
    folder = os.open(".", os.O_RDONLY)
    try:
        fcntl.fcntl(folder, _F_NOTIFY, _DN_CREATE)
        fcntl.fcntl(folder, _F_NOTIFY, 0)
    finally:
        os.close(folder)


def _on_socket(ask):
    """Ask something of a socket: one that is open already, or a new one."""
    for fd in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                ask(fd)
                return True
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ask(ours.fileno())
    return True


def by_the_kernel(aim):
    """Have files of the kernel's end or stop others."""
    group = "/sys/fs/cgroup"
    paths = {
        "sysrq": "/proc/sysrq-trigger",
        "cgroup_members": f"{group}/cgroup.procs",
        "cgroup_members_v1": f"{group}/memory/cgroup.procs",
        "cgroup_members_unified": f"{group}/unified/cgroup.procs",
        "own_score": "/proc/self/oom_score_adj",
        "host_score": f"/proc/{aim.host_pid}/oom_score_adj",
        "core_pattern": "/proc/sys/kernel/core_pattern",
    }
    return {
        name: lambda path=path: opens(path, os.O_WRONLY)
        for name, path in paths.items()
        if os.path.exists(path)
    }


def stop(aim):
    """Stop the trainer."""
    return {"SIGSTOP": lambda: os.kill(aim.host_pid, signal.SIGSTOP)}


def end(aim):
    """End the trainer; the first that gets through does."""
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL)
    deadly = {number.name: lambda number=number: os.kill(aim.host_pid, number) for number in numbers}
    return {"0": lambda: os.kill(aim.host_pid, 0)} | deadly
