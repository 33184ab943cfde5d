"""System calls that a plugin may not make.

A call is refused with an error rather than a signal, so that libraries which
only try it fall back. Numbers that this table's authors have not seen do not
exist for a plugin, and a program of another architecture is killed.
"""

from __future__ import annotations

import errno
import functools
import os

import seccompy
from seccompy import Action, ArgCmp, CmpOp, Filter

from . import kernel
from .status import LayerError, LayerStatus, active

#: The newest system call that was weighed for the tables below; all later ones get ENOSYS.
NEWEST_WEIGHED = 471

_LOW = 0xFFFFFFFF

_PROGRAMS = ("execve", "execveat", "fork", "vfork", "uselib")
_OTHER_PROCESSES = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp"),
    *("pidfd_open", "pidfd_getfd", "pidfd_send_signal", "move_pages", "migrate_pages", "get_robust_list"),
    *("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
    *("setpriority", "ioprio_set", "setpgid"),
    *("sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity"),
)
# The control socket is open already; it needs sendmsg and recvmsg only.
_SOCKETS = ("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "setsockopt")
# Memory that no limit of a process counts.
_UNCOUNTED_MEMORY = (
    *("memfd_create", "memfd_secret", "shmget", "shmat", "shmctl", "shmdt", "remap_file_pages"),
    *("msgget", "msgsnd", "msgrcv", "msgctl", "semget", "semop", "semctl", "semtimedop"),
    *("mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr"),
)
_KERNEL_SURFACE = (
    *("userfaultfd", "bpf", "perf_event_open", "add_key", "request_key", "keyctl", "seccomp"),
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "lsm_set_self_attr"),
    *("vmsplice", "modify_ldt", "iopl", "ioperm", "personality", "lookup_dcookie", "cachestat"),
    *("uprobe", "uretprobe", "map_shadow_stack", "syslog", "_sysctl", "sysfs", "ustat", "nfsservctl"),
)
_FILE_SYSTEMS = (
    *("mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount"),
    *("open_tree", "open_tree_attr", "mount_setattr", "statmount", "listmount", "listns"),
    *("unshare", "setns", "name_to_handle_at", "open_by_handle_at", "quotactl", "quotactl_fd"),
    *("swapon", "swapoff", "acct", "sync", "syncfs"),
    *("fanotify_init", "fanotify_mark", "inotify_init", "inotify_init1", "inotify_add_watch"),
)
# Landlock does not guard who owns a file, who may read it, when it changed, or its attributes.
_FILE_METADATA = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat", "truncate"),
    *("utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat", "file_setattr"),
    *("mknod", "mknodat"),
)
_IDENTITY = (
    *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid"),
    *("setgroups", "capset", "setrlimit"),
)
_MACHINE = (
    *("reboot", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"),
    *("create_module", "query_module", "sethostname", "setdomainname", "vhangup"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex"),
)

#: Error to the calls that get it, whatever their arguments.
REFUSED: dict[int, tuple[str, ...]] = {
    errno.EPERM: (
        _PROGRAMS
        + _OTHER_PROCESSES
        + _SOCKETS
        + _UNCOUNTED_MEMORY
        + _KERNEL_SURFACE
        + _FILE_SYSTEMS
        + _FILE_METADATA
        + _IDENTITY
        + _MACHINE
    ),
    # "This kernel is older": the C library then uses clone and open, whose arguments a filter can see.
    errno.ENOSYS: (
        *("clone3", "openat2", "io_uring_setup", "io_uring_enter", "io_uring_register"),
        *("io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents"),
    ),
    # "This file system has none": posix_fallocate then writes zeros, and copying a file goes on.
    errno.EOPNOTSUPP: (
        *("fallocate", "getxattr", "lgetxattr", "fgetxattr", "getxattrat"),
        *("listxattr", "llistxattr", "flistxattr", "listxattrat"),
    ),
}


def _bits(index: int, value: int, mask: int) -> ArgCmp:
    """Match when the bits ``mask`` of an argument equal ``value``."""
    return ArgCmp(index, CmpOp.MASKED_EQ, value, mask)


def _low(index: int, value: int) -> ArgCmp:
    """Match on the low 32 bits: the kernel reads no more of an int (CVE-2019-10063)."""
    return _bits(index, value, _LOW)


_NEW_NAMESPACES = (
    kernel.CLONE_NEWNS,
    kernel.CLONE_NEWCGROUP,
    kernel.CLONE_NEWUTS,
    kernel.CLONE_NEWIPC,
    kernel.CLONE_NEWUSER,
    kernel.CLONE_NEWPID,
    kernel.CLONE_NEWNET,
)
_SHARED_ANONYMOUS = kernel.MAP_SHARED | kernel.MAP_ANONYMOUS
_TIOCSTI, _TIOCLINUX, _TIOCSCTTY, _FIOSETOWN, _SIOCSPGRP = 0x5412, 0x541C, 0x540E, 0x8901, 0x8902
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY, _F_SETPIPE_SZ = 8, 10, 15, 1024, 1026, 1031
_MADV_REMOVE, _MADV_MERGEABLE = 9, 12
_READ_AND_EMPTY = (os.O_TRUNC, os.O_TRUNC | os.O_ACCMODE)  # kernels before 6.2 ask for no right to write

#: (call, error, condition on its arguments) refused; the call is allowed otherwise.
CONDITIONS: tuple[tuple[str, int, ArgCmp], ...] = (
    ("clone", errno.EPERM, _bits(0, 0, kernel.CLONE_THREAD)),
    *(("clone", errno.EPERM, _bits(0, flag, flag)) for flag in _NEW_NAMESPACES),
    ("mmap", errno.EPERM, _bits(3, _SHARED_ANONYMOUS, _SHARED_ANONYMOUS)),
    # RLIMIT_DATA counts neither mappings that grow downwards nor does RssAnon count huge pages.
    ("mmap", errno.EPERM, _bits(3, kernel.MAP_GROWSDOWN, kernel.MAP_GROWSDOWN)),
    ("mmap", errno.EPERM, _bits(3, kernel.MAP_HUGETLB, kernel.MAP_HUGETLB)),
    ("madvise", errno.EINVAL, _low(2, _MADV_REMOVE)),
    ("madvise", errno.EINVAL, _low(2, _MADV_MERGEABLE)),
    ("prlimit64", errno.EPERM, ArgCmp(2, CmpOp.NE, 0)),
    *(
        ("prctl", errno.EPERM, _low(0, option))
        for option in (
            kernel.PR_SET_PDEATHSIG,
            kernel.PR_SET_SECCOMP,
            kernel.PR_SCHED_CORE,
            kernel.PR_SET_MEMORY_MERGE,
        )
    ),
    *(
        ("ioctl", errno.EPERM, _low(1, request))
        for request in (_TIOCSTI, _TIOCLINUX, _TIOCSCTTY, _FIOSETOWN, _SIOCSPGRP)
    ),
    *(
        ("fcntl", errno.EPERM, _low(1, command))
        for command in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY, _F_SETPIPE_SZ)
    ),
    ("open", errno.EPERM, _bits(1, *_READ_AND_EMPTY)),
    ("openat", errno.EPERM, _bits(2, *_READ_AND_EMPTY)),
)


def _number(name: str) -> int | None:
    try:
        return seccompy.syscall_nr(name)
    except ValueError:
        return None  # a call of the other architecture


@functools.cache
def build() -> Filter:
    """Build the filter that is the same for every plugin.

    Cached: the zygote builds it once, and each forked child loads its own copy.
    Names are resolved to numbers before anything is allowed, as two names may
    share one.
    """
    built = Filter(default=int(Action.ERRNO) | errno.ENOSYS)
    for name, error, condition in CONDITIONS:  # first, so that these frequent calls are found soonest
        if (number := _number(name)) is not None:
            built.errno(number, error, args=[condition])
    for error, names in REFUSED.items():
        for name in names:
            if (number := _number(name)) is not None:
                built.errno(number, error)
    for number in range(NEWEST_WEIGHED + 1):
        built.allow(number)  # the first rule of a number that matches decides: what is refused stays so
    _ = built.program
    return built


def _own_signals(pid: int) -> Filter:
    """Let a process signal itself only; abort() and raise() must work."""
    built = Filter(default=Action.ALLOW)
    for name in ("kill", "tgkill"):
        built.allow(name, args=[_low(0, pid)])
        built.errno(name, errno.EPERM)
    return built


def apply() -> LayerStatus:
    """Load the filters on this thread and all that it starts.

    Raises:
        LayerError: The kernel or the architecture has no seccomp filters.
        OSError: The kernel refused them.
    """
    if not seccompy.supported():
        raise LayerError("seccomp", "this kernel was built without seccomp filters")
    _own_signals(os.getpid()).load()
    build().load()
    refused = sum(_number(name) is not None for names in REFUSED.values() for name in names)
    return active("seccomp", f"{refused} system calls refused, {len(CONDITIONS) + 2} more by their arguments")
