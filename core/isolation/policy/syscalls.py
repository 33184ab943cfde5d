"""System calls that a plugin may make: what is not named here does not exist for it.

A call is allowed, refused in silence, or refused and told. Told are calls that no
library makes to do its work; silent are those that libraries try and do without,
as when a file's times cannot be copied with it. A few are made by the host.
"""

from __future__ import annotations

import errno

import seccompy

OPEN_A_CONNECTION = "open a connection"
SIGNAL = "signal another process"
START_A_PROCESS = "start another process"
START_A_PROGRAM = "start a program"
CHANGE_SYSTEMS = "change file systems or namespaces"
USE_A_TERMINAL = "type into a terminal"
RAISE_LIMITS = "raise its limits"
REACH_KERNEL = "reach into the kernel"

#: What a plugin tried, as the end of "tried to ...", to the calls that always get EPERM and are told.
TOLD: dict[str, tuple[str, ...]] = {
    START_A_PROGRAM: ("execve", "execveat", "uselib"),
    START_A_PROCESS: ("fork", "vfork"),
    OPEN_A_CONNECTION: ("connect", "bind", "listen", "accept", "accept4"),
    SIGNAL: ("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"),
    "look into another process": (
        *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp"),
        *("pidfd_open", "pidfd_getfd"),
    ),
    "share memory or messages with other processes": (
        *("shmget", "shmat", "shmctl", "shmdt", "msgget", "msgsnd", "msgrcv", "msgctl"),
        *("semget", "semop", "semctl", "semtimedop", "mq_open", "mq_unlink", "mq_timedsend"),
        *("mq_timedreceive", "mq_notify", "mq_getsetattr"),
    ),
    REACH_KERNEL: (
        *("userfaultfd", "bpf", "perf_event_open", "add_key", "request_key", "keyctl", "seccomp"),
        *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "lsm_set_self_attr"),
        *("vmsplice", "modify_ldt", "iopl", "ioperm", "personality", "memfd_secret", "lookup_dcookie"),
        *("syslog", "_sysctl", "sysfs", "ustat", "nfsservctl"),
    ),
    CHANGE_SYSTEMS: (
        *("mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick"),
        *("move_mount", "open_tree", "open_tree_attr", "mount_setattr", "statmount", "listmount", "listns"),
        *("unshare", "setns", "name_to_handle_at", "open_by_handle_at", "quotactl", "quotactl_fd"),
        *("swapon", "swapoff", "acct", "fanotify_init", "fanotify_mark"),
    ),
    "become another user": (
        *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid"),
        *("setgroups", "capset"),
    ),
    RAISE_LIMITS: ("setrlimit",),
    "change the machine": (
        *("reboot", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"),
        *("create_module", "query_module", "sethostname", "setdomainname", "vhangup"),
        *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex"),
    ),
}

# Landlock does not guard who owns a file, who may read it, when it changed, or its attributes.
_FILE_METADATA = (
    *("chown", "lchown", "fchown", "fchownat", "truncate"),
    *("utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat", "file_setattr", "mknod", "mknodat"),
)
_SCHEDULING = (
    *("sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity"),
    *("setpriority", "ioprio_set", "setpgid", "setsid", "move_pages", "migrate_pages", "get_robust_list"),
)
# asyncio makes a pair for itself, and runs without; the control socket is open already.
_SOCKETS = ("socketpair",)
# Memory that no limit of a process counts.
_UNCOUNTED_MEMORY = ("memfd_create", "remap_file_pages", "map_shadow_stack")
# What others do with files, and when: the time that it takes tells, and waiting for it stops others.
_OTHERS_FILES = (
    *("sync", "syncfs", "cachestat", "inotify_init", "inotify_init1", "inotify_add_watch"),
    *("uprobe", "uretprobe"),
)

#: Error to the calls that get it in silence, whatever their arguments.
QUIET: dict[int, tuple[str, ...]] = {
    errno.EPERM: _FILE_METADATA + _SCHEDULING + _SOCKETS + _UNCOUNTED_MEMORY + _OTHERS_FILES,
    # "This kernel is older": the C library then uses clone and open, whose arguments a filter can see.
    errno.ENOSYS: (
        *("clone3", "openat2", "io_uring_setup", "io_uring_enter", "io_uring_register"),
        *("io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents"),
        # It takes a file that may only be read, and holds up whoever locks it too. fcntl() has
        # locks as well, which databases need; those that shut others out take a file open for writing.
        "flock",
        # Moving pages between pipes and files has let readers write before (CVE-2022-0847).
        *("splice", "tee"),
    ),
    # "This file system has none": posix_fallocate then writes zeros, and copying a file goes on.
    errno.EOPNOTSUPP: (
        *("fallocate", "getxattr", "lgetxattr", "fgetxattr", "getxattrat"),
        *("listxattr", "llistxattr", "flistxattr", "listxattrat"),
    ),
}

#: Calls that the host makes where it listens, after a look at what is meant; they get EPERM otherwise.
BY_HOST = ("chmod", "fchmod", "fchmodat", "fchmodat2")

#: Calls that are allowed whatever their arguments.
ALLOWED: tuple[str, ...] = (
    # open files, within what Landlock opens
    *("read", "write", "pread64", "pwrite64", "readv", "writev", "preadv", "pwritev", "preadv2", "pwritev2"),
    *("close", "lseek", "dup", "dup2", "dup3", "pipe", "sendfile", "copy_file_range"),
    *("fsync", "fdatasync", "sync_file_range", "sync_file_range2", "ftruncate", "readahead"),
    # names of files, within what Landlock opens
    *("stat", "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat"),
    *("faccessat2", "getdents", "getdents64", "getcwd", "chdir", "fchdir", "rename", "renameat", "rmdir"),
    *("unlink", "unlinkat", "link", "linkat", "symlink", "symlinkat", "readlink", "readlinkat"),
    # memory of its own
    *("brk", "munmap", "mprotect", "mremap", "msync", "mincore", "mlock", "mlock2", "munlock", "mlockall"),
    *("munlockall", "mbind", "set_mempolicy", "get_mempolicy", "pkey_mprotect", "pkey_alloc", "pkey_free"),
    # threads and time
    *("exit", "exit_group", "restart_syscall", "set_tid_address", "set_robust_list", "rseq", "sched_yield"),
    *("sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_getattr", "getcpu"),
    *("sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval", "getpriority"),
    *("ioprio_get", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday"),
    *("time", "times", "alarm", "getitimer", "setitimer", "timer_create", "timer_settime", "timer_gettime"),
    *("timer_getoverrun", "timer_delete", "timerfd_create", "timerfd_settime", "timerfd_gettime"),
    # signals to itself, and waiting
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait"),
    *("rt_sigsuspend", "sigaltstack", "signalfd", "signalfd4", "pause", "wait4", "waitid"),
    *("poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait"),
    *("epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2"),
    # sockets that it was given
    *("shutdown", "getsockname", "getpeername"),
    # what it is and what the machine is
    *("getpid", "gettid", "getppid", "getpgrp", "getpgid", "getsid", "getuid", "geteuid", "getgid"),
    *("getegid", "getgroups", "getresuid", "getresgid", "capget", "getrlimit", "getrusage", "uname"),
    *("sysinfo", "getrandom"),
)

#: To itself only, by a rule that knows the process's number; to others they are told.
SIGNALS = ("kill", "tgkill")


def number_of(name: str) -> int | None:
    """Return a call's number, or None on an architecture that does not have it."""
    try:
        return seccompy.syscall_nr(name)
    except ValueError:
        return None
