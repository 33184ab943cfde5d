"""System calls by their arguments, each tried for real: imported by ``confined_child.py``.

Each returns None if the call succeeded, or the name of its error.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import socket
import sqlite3
import struct
import tempfile
import threading
import time
from pathlib import Path

from ringfence.isolation.policy import kernel

PAGE = mmap.PAGESIZE
FASTOPEN = 0x20000000
NOTIFICATION_PIPE = os.O_EXCL


def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno]
    return None


def try_all(context, control):
    """Return name to outcome of every attempt; ``control`` is a socket that the process was given."""
    readable = os.open(os.__file__, os.O_RDONLY)
    own = os.open(context.in_scratch("own"), os.O_RDWR | os.O_CREAT, 0o600)
    os.write(own, b"x" * 2 * PAGE)
    reader, writer = os.pipe()
    mapped = mmap.mmap(own, 2 * PAGE)
    private = mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    attempts = {
        **ioctls(control, reader),
        **descriptors(context, readable, own, writer),
        **made(context),
        **sockets(control),
        **memory(mapped, private),
        **itself(),
    }
    return {name: outcome(attempt) for name, attempt in attempts.items()}


def ioctls(control, reader):
    interfaces = struct.pack("iP", 0, 0)
    return {
        "ioctl SIOCGIFCONF": lambda: fcntl.ioctl(control, 0x8912, interfaces),
        "ioctl FIOASYNC": lambda: fcntl.ioctl(reader, 0x5452, struct.pack("i", 0)),
        "ioctl FIOASYNC with high bits": lambda: kernel.syscall(
            "ioctl", reader, 0x1_0000_5452, _buffer(struct.pack("i", 0))
        ),
        "ioctl FS_IOC_GETFLAGS": lambda: kernel.syscall("ioctl", reader, 0x80086601, 0),
    }


def descriptors(context, readable, own, writer):
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 1, 0)
    return {
        "flock of a file that it may only read": lambda: fcntl.flock(readable, fcntl.LOCK_EX),
        "fcntl F_OFD_SETLK": lambda: fcntl.fcntl(readable, 37, lock),
        "fcntl F_SETPIPE_SZ": lambda: fcntl.fcntl(writer, 1031, PAGE),
        "fcntl F_SETSIG": lambda: fcntl.fcntl(writer, 10, 0),
        "splice": lambda: kernel.syscall("splice", readable, 0, writer, 0, 1, 0),
        "fadvise DONTNEED": lambda: os.posix_fadvise(readable, 0, 0, os.POSIX_FADV_DONTNEED),
        "pipe2 O_NOTIFICATION_PIPE": lambda: _close_both(os.pipe2(NOTIFICATION_PIPE)),
        "open O_TMPFILE": lambda: os.close(os.open(context.scratch, os.O_TMPFILE | os.O_RDWR, 0o600)),
        "truncate by open": lambda: os.close(os.open(f"/proc/self/fd/{own}", os.O_RDONLY | os.O_TRUNC)),
        "chown": lambda: os.fchown(own, -1, -1),
    }


def made(context):
    """Make what others could use, or what runs as its owner."""
    new = context.in_scratch("new")
    create = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    there = _buffer(bytes(context.in_scratch("there")) + b"\0")
    gone = _buffer(bytes(context.in_scratch("gone")) + b"\0")

    def file(flags, mode):
        os.close(os.open(new, flags, mode))
        new.unlink()

    def raw(name, *arguments):
        path = _buffer(bytes(new) + b"\0")
        os.close(kernel.syscall(name, path, *arguments))
        new.unlink()

    def folder(mode):
        new.mkdir(mode)
        new.rmdir()

    def whiteout():
        context.in_scratch("there").touch()
        kernel.syscall("renameat2", -100, there, -100, gone, 4)

    return {
        "openat set-uid": lambda: file(create, 0o4755),
        "openat set-gid": lambda: file(create, 0o2755),
        "open set-uid": lambda: raw("open", create, 0o4755),
        "open set-uid with high bits": lambda: raw("open", create | 1 << 32, 0o4755 | 1 << 32),
        "creat set-uid": lambda: raw("creat", 0o4755),
        "mkdir sticky": lambda: folder(0o1777),
        "mkdirat sticky": lambda: (
            kernel.syscall("mkdirat", -100, _buffer(bytes(new) + b"\0"), 0o1777),
            new.rmdir(),
        ),
        "renameat2 RENAME_WHITEOUT": whiteout,
    }


def sockets(control):
    address = socket.socket(fileno=os.dup(control))
    somewhere = _buffer(struct.pack("H", socket.AF_UNIX) + b"/nowhere\0")
    message = _buffer(struct.pack("PIxxxxPNPNi", 0, 0, 0, 0, 0, 0, 0))
    return {
        "send MSG_FASTOPEN": lambda: address.send(b"x", FASTOPEN),
        "send MSG_OOB": lambda: address.send(b"x", socket.MSG_OOB),
        "sendmsg MSG_FASTOPEN": lambda: address.sendmsg([b"x"], [], FASTOPEN),
        "sendmmsg MSG_FASTOPEN": lambda: kernel.syscall("sendmmsg", control, message, 0, FASTOPEN),
        "sendto an address": lambda: kernel.syscall(
            "sendto", control, _buffer(b"x"), 1, 0, somewhere, len(somewhere)
        ),
        "receive MSG_OOB": lambda: address.recv(1, socket.MSG_OOB | socket.MSG_DONTWAIT),
        "getsockopt SO_PEERPIDFD": lambda: os.close(address.getsockopt(socket.SOL_SOCKET, 77)),
        "getsockopt SO_COOKIE": lambda: address.getsockopt(socket.SOL_SOCKET, 57, 8),
        "getsockopt SO_TYPE of another level": lambda: address.getsockopt(socket.IPPROTO_TCP, 3),
        "getsockopt TCP_ZEROCOPY_RECEIVE": lambda: address.getsockopt(socket.IPPROTO_TCP, 35, 64),
        "setsockopt": lambda: address.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16),
    }


def memory(mapped, private):
    word, other = _buffer(b"\0" * 8), _buffer(b"\0" * 8)
    return {
        "madvise COLD": lambda: mapped.madvise(20),
        "madvise PAGEOUT": lambda: mapped.madvise(21),
        "madvise MERGEABLE": lambda: private.madvise(mmap.MADV_MERGEABLE),
        "mmap MAP_DROPPABLE": lambda: kernel.syscall(
            "mmap", 0, PAGE, 3, kernel.MAP_DROPPABLE | kernel.MAP_ANONYMOUS, -1, 0
        ),
        "futex TRYLOCK_PI": lambda: kernel.syscall("futex", word, 8, 0, 0, 0, 0),
        "futex TRYLOCK_PI private": lambda: kernel.syscall("futex", other, 8 | 128, 0, 0, 0, 0),
        "membarrier GLOBAL": lambda: kernel.syscall("membarrier", 1, 0, 0),
        "membarrier GLOBAL_EXPEDITED": lambda: kernel.syscall("membarrier", 2, 0, 0),
        "membarrier REGISTER_GLOBAL_EXPEDITED": lambda: kernel.syscall("membarrier", 4, 0, 0),
        "mseal": lambda: kernel.syscall_number(462, 0, 0, 0),
    }


def itself():
    return {
        "prctl SET_DUMPABLE": lambda: kernel.prctl(4, 1),
        "prctl SET_CHILD_SUBREAPER": lambda: kernel.prctl(36, 0),
        "prctl SET_SYSCALL_USER_DISPATCH": lambda: kernel.prctl(59, 0),
        "prctl TASK_PERF_EVENTS_DISABLE": lambda: kernel.prctl(31),
        "setpriority": lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0)),
        "sched_setaffinity": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
        "close_range UNSHARE": lambda: kernel.syscall("close_range", 4000, 4001, 0x1_0000_0002),
        "getpgid of another": lambda: os.getpgid(os.getppid()),
        "getsid of another": lambda: os.getsid(os.getppid()),
        "getpriority of another": lambda: os.getpriority(os.PRIO_PROCESS, os.getppid()),
        "ioprio_get of another": lambda: kernel.syscall("ioprio_get", 1, os.getppid()),
        "read a limit of another": lambda: kernel.syscall(
            "prlimit64", os.getppid(), 7, 0, _buffer(b"\0" * 16)
        ),
        "clock of another": lambda: time.clock_gettime(~os.getppid() << 3 | 2),
        "clock of another with high bits": lambda: kernel.syscall(
            "clock_gettime", (~os.getppid() << 3 | 2) & 0xFFFFFFFF, _buffer(b"\0" * 16)
        ),
        "timer by the clock of another": lambda: kernel.syscall(
            "timer_create", ~os.getppid() << 3 | 2, 0, _buffer(b"\0" * 4)
        ),
        "lsm_list_modules": lambda: kernel.syscall_number(461, 0, 0, 0),
        "futex_wake": lambda: kernel.syscall_number(454, 0, 0, 0, 0),
    }


def allowed(context, control):
    """Return what libraries need of the same calls, name to outcome."""
    own = os.open(context.in_scratch("kept"), os.O_RDWR | os.O_CREAT, 0o600)
    os.write(own, b"x" * PAGE)
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    end = socket.socket(fileno=os.dup(control))
    private = mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    available = bytearray(4)
    attempts = {
        "umask": lambda: _mode_after(context, 0),
        "umask of others": lambda: _mode_after(context, 0o27),
        "umask put back": lambda: os.umask(os.umask(0o077)),
        "open without a mode": lambda: os.close(
            kernel.syscall("openat", -100, _buffer(os.__file__.encode() + b"\0"), os.O_RDONLY, 0o7777)
        ),
        "open for all": lambda: os.close(os.open(context.in_scratch("all"), os.O_CREAT, 0o777)),
        "mkdir": lambda: context.in_scratch("folder").mkdir(0o777),
        "renameat2 RENAME_NOREPLACE": lambda: kernel.syscall(
            "renameat2",
            -100,
            _buffer(bytes(context.in_scratch("all")) + b"\0"),
            -100,
            _buffer(bytes(context.in_scratch("renamed")) + b"\0"),
            1,
        ),
        "files of libraries": lambda: _by_libraries(context.in_scratch("libraries")),
        "ioctl FIONREAD": lambda: fcntl.ioctl(reader, 0x541B, available),
        "set_blocking": lambda: os.set_blocking(writer, True),
        "set_inheritable": lambda: os.set_inheritable(writer, False),
        "fcntl F_SETLK": lambda: fcntl.lockf(own, fcntl.LOCK_EX | fcntl.LOCK_NB),
        "fcntl F_DUPFD_CLOEXEC": lambda: os.close(os.dup(own)),
        "send": lambda: end.send(b"said", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL),
        "sendmsg": lambda: end.sendmsg([b"said"]),
        "receive": lambda: end.recvmsg(64, 64, socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC),
        "getsockopt SO_TYPE": lambda: end.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
        "setsockopt SO_KEEPALIVE": lambda: end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0),
        "madvise DONTNEED": lambda: private.madvise(mmap.MADV_DONTNEED),
        "prctl SET_NAME": lambda: kernel.syscall("prctl", 15, _buffer(b"worker\0"), 0, 0, 0),
        "membarrier PRIVATE_EXPEDITED": lambda: kernel.syscall("membarrier", 16, 0, 0),
        "fadvise WILLNEED": lambda: os.posix_fadvise(own, 0, 0, os.POSIX_FADV_WILLNEED),
        "signal 0 to itself": lambda: os.kill(os.getpid(), 0),
        "its group by number": lambda: os.getpgid(os.getpid()),
        "its session": lambda: os.getsid(0),
        "its priority": lambda: os.getpriority(os.PRIO_PROCESS, os.getpid()),
        "processor time": lambda: (time.process_time(), time.thread_time()),
        "clock of a thread": lambda: time.clock_gettime(time.pthread_getcpuclockid(threading.get_ident())),
        "clock of its own": lambda: (time.clock_gettime(~os.getpid() << 3 | 2), time.clock_gettime(-6)),
        "sleep": lambda: time.sleep(0.001),
        "close_range": lambda: os.closerange(4000, 4001),
        "limits of its own by number": lambda: kernel.syscall(
            "prlimit64", os.getpid(), 7, 0, _buffer(b"\0" * 16)
        ),
        "read a limit": lambda: kernel.syscall("prlimit64", 0, 7, 0, _buffer(b"\0" * 16)),
    }
    tried = {name: outcome(attempt) for name, attempt in attempts.items()}
    with contextlib.closing(end):
        return {**tried, "isatty": None if not os.isatty(own) else "it is none", "copied": _copied(own)}


def _copied(own):
    with open(own, "rb", closefd=False) as source, Path("copy").open("wb") as target:
        source.seek(0)
        os.sendfile(target.fileno(), source.fileno(), 0, PAGE)
    return None if Path("copy").stat().st_size == PAGE else "not whole"


def _mode_after(context, mask):
    """Fail unless what is made after ``umask(mask)`` is for nobody else."""
    os.umask(mask)
    path = context.in_scratch(f"masked-{mask}")
    os.close(os.open(path, os.O_CREAT, 0o666))
    if path.stat().st_mode & 0o777 != 0o600:
        raise PermissionError(errno.EPERM, "it lets others in")


def _by_libraries(folder):
    """Make files and folders as libraries do; fail unless all of them are for nobody else."""
    # Loaded beforehand by the only test that needs them.
    import safetensors.torch
    import torch

    (folder / "one" / "two").mkdir(parents=True)
    torch.save({"weight": torch.ones(2)}, folder / "weights.pt")
    safetensors.torch.save_file({"weight": torch.ones(2)}, folder / "weights.safetensors")
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(b"x")
    Path(tempfile.mkdtemp(dir=folder), "inner").mkdir()
    shutil.make_archive(str(folder / "archive"), "zip", folder / "one")
    shutil.unpack_archive(folder / "archive.zip", folder / "unpacked")
    shutil.copyfile(folder / "weights.pt", folder / "copied.pt")
    shutil.move(folder / "unpacked", folder / "moved")
    with contextlib.closing(sqlite3.connect(folder / "data.sqlite")) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table kept (value)")
    open_to_others = [path for path in folder.rglob("*") if path.stat().st_mode & 0o7077]
    if open_to_others:
        raise PermissionError(errno.EPERM, f"others may use {open_to_others}")


def _buffer(data):
    return ctypes.create_string_buffer(data, len(data))


def _close_both(pipe):
    for end in pipe:
        os.close(end)
