"""Which system calls there are for a plugin: every one is placed, and what is refused would have worked."""

import pytest
from seccompy.syscalls import AARCH64_SYSCALLS, X86_64_SYSCALLS

from ringfence.isolation.policy import syscalls
from ringfence.isolation.policy.syscall_arguments import BY_ARGUMENT, what_was_tried

#: Weighed and left out: without a use here, or without any on 64-bit machines. They get ENOSYS.
LEFT_OUT = {
    *("get_kernel_syms", "getpmsg", "putpmsg", "afs_syscall", "tuxcall", "security", "vserver"),
    *("set_thread_area", "get_thread_area", "epoll_ctl_old", "epoll_wait_old", "inotify_rm_watch"),
    *("futex_waitv", "futex_wake", "futex_wait", "futex_requeue", "set_mempolicy_home_node"),
    *("lsm_get_self_attr", "lsm_list_modules", "mseal", "file_getattr", "rseq_slice_yield"),
    # other names, and calls of 32-bit machines, in the table of 64-bit ARM
    *("fcntl64", "statfs64", "fstatfs64", "truncate64", "ftruncate64", "llseek", "sendfile64", "fstatat"),
    *("fstatat64", "fstat64", "mmap2", "fadvise64_64", "clock_gettime64", "clock_settime64"),
    *("clock_adjtime64", "clock_getres_time64", "clock_nanosleep_time64", "timer_gettime64"),
    *("timer_settime64", "timerfd_gettime64", "timerfd_settime64", "utimensat_time64", "pselect6_time64"),
    *("ppoll_time64", "io_pgetevents_time64", "recvmmsg_time64", "mq_timedsend_time64"),
    *("mq_timedreceive_time64", "semtimedop_time64", "rt_sigtimedwait_time64", "futex_time64"),
    "sched_rr_get_interval_time64",
}
#: Error that a plugin gets, to attempts of ``refused_calls``.
REFUSED = {
    "EPERM": {
        *("ioctl SIOCGIFCONF", "ioctl FIOASYNC", "ioctl FIOASYNC with high bits", "ioctl FS_IOC_GETFLAGS"),
        *("fcntl F_OFD_SETLK", "fcntl F_SETPIPE_SZ", "fcntl F_SETSIG", "chown", "truncate by open"),
        *("send MSG_FASTOPEN", "send MSG_OOB", "sendmsg MSG_FASTOPEN", "sendmmsg MSG_FASTOPEN"),
        *("sendto an address", "receive MSG_OOB", "setsockopt", "mmap MAP_DROPPABLE"),
        *("prctl SET_DUMPABLE", "prctl SET_CHILD_SUBREAPER", "prctl SET_SYSCALL_USER_DISPATCH"),
        *("prctl TASK_PERF_EVENTS_DISABLE", "setpriority", "sched_setaffinity"),
        *("getpgid of another", "getsid of another", "getpriority of another", "ioprio_get of another"),
        *("openat set-uid", "openat set-gid", "open set-uid", "open set-uid with high bits"),
        *("creat set-uid", "mkdir sticky", "mkdirat sticky", "read a limit of another"),
    },
    "EINVAL": {
        "renameat2 RENAME_WHITEOUT",
        *("fadvise DONTNEED", "pipe2 O_NOTIFICATION_PIPE", "madvise COLD", "madvise PAGEOUT"),
        *("madvise MERGEABLE", "membarrier GLOBAL", "membarrier GLOBAL_EXPEDITED"),
        *("membarrier REGISTER_GLOBAL_EXPEDITED", "close_range UNSHARE", "clock of another"),
        *("clock of another with high bits", "timer by the clock of another"),
    },
    "ENOSYS": {
        *("flock of a file that it may only read", "splice", "futex TRYLOCK_PI", "futex TRYLOCK_PI private"),
        *("mseal", "lsm_list_modules", "futex_wake"),
    },
    "ENOTSUP": {"open O_TMPFILE"},
    "ENOPROTOOPT": {
        *("getsockopt SO_PEERPIDFD", "getsockopt SO_COOKIE", "getsockopt SO_TYPE of another level"),
        "getsockopt TCP_ZEROCOPY_RECEIVE",
    },
}
WANTED = {name: error for error, names in REFUSED.items() for name in names}
#: What fails without the filter as well, for reasons of its own.
FAIL_OTHERWISE = {
    "ioctl FS_IOC_GETFLAGS": {"ENOTTY"},
    "send MSG_OOB": {"ENOTSUP"},
    "getsockopt SO_TYPE of another level": {"ENOTSUP"},
    "getsockopt TCP_ZEROCOPY_RECEIVE": {"ENOTSUP"},
    "receive MSG_OOB": {"ENOTSUP"},
    "lsm_list_modules": {"EINVAL", "E2BIG", "EFAULT"},
    "futex_wake": {"EINVAL"},
}
#: What kernels older than 6.18, or built without them, do not have.
OPTIONAL = {
    *("mmap MAP_DROPPABLE", "pipe2 O_NOTIFICATION_PIPE", "getsockopt SO_PEERPIDFD", "mseal", "futex_wake"),
    *("lsm_list_modules", "madvise MERGEABLE", "prctl SET_SYSCALL_USER_DISPATCH"),
}


def test_every_call_is_placed_once_or_left_out_on_purpose():
    known = X86_64_SYSCALLS.keys() | AARCH64_SYSCALLS.keys()
    placed = [*syscalls.ALLOWED, *syscalls.SIGNALS, *syscalls.BY_HOST, *{rule.call for rule in BY_ARGUMENT}]
    placed += [name for names in (*syscalls.TOLD.values(), *syscalls.QUIET.values()) for name in names]
    assert len(placed) == len(set(placed))
    assert LEFT_OUT.isdisjoint(placed)
    assert set(placed) | LEFT_OUT == known


def test_the_last_rule_for_a_call_fits_always():
    last = {rule.call: rule for rule in BY_ARGUMENT}
    assert all(not rule.when for rule in last.values())


@pytest.mark.parametrize("table", [X86_64_SYSCALLS, AARCH64_SYSCALLS], ids=["x86_64", "aarch64"])
def test_no_other_name_of_a_refused_call_lets_it_through(table):
    def numbers(names):
        return {table[name] for name in names if name in table}

    refused = (*syscalls.TOLD.values(), *syscalls.QUIET.values(), syscalls.BY_HOST)
    refused = numbers(name for names in refused for name in names)
    assert not refused & numbers(syscalls.ALLOWED)
    assert not refused & numbers(rule.call for rule in BY_ARGUMENT)
    assert not numbers(syscalls.ALLOWED) & numbers(rule.call for rule in BY_ARGUMENT)


def test_what_the_filter_refuses_gets_the_error_that_libraries_know(confined):
    assert confined("try_refused")["tried"] == WANTED


def test_without_the_filter_the_same_calls_work(confined):
    outside = confined("try_refused", skip=["landlock", "seccomp"])["tried"]
    assert outside.keys() == WANTED.keys()
    for name in outside.keys() - OPTIONAL:
        assert outside[name] is None or outside[name] in FAIL_OTHERWISE.get(name, ()), name
        assert outside[name] != WANTED[name]


def test_what_libraries_need_of_the_same_calls_works(confined):
    tried = confined("try_allowed", preload=["torch", "safetensors.torch"])["tried"]
    assert {name: error for name, error in tried.items() if error} == {}


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("execve", (0, 0, 0), "start a program"),
        ("clone", (17,), "start another process"),
        ("clone", (0x10000000 | 17,), "change file systems or namespaces"),
        ("clone", (0x10000,), None),
        ("socket", (2, 1, 0), "open a connection"),
        ("socket", (1, 1 | 0o2004000, 0), None),
        ("sendto", (3, 0, 1, 0x20000000, 0), "open a connection"),
        ("sendto", (3, 0, 1, 0x4000, 4096), "open a connection"),
        ("sendto", (3, 0, 1, 0x4000, 0), None),
        ("ioctl", (0, 0x1_0000_5412), "type into a terminal"),
        ("ioctl", (0, 0x5401), None),
        ("prlimit64", (0, 7, 4096), "raise its limits"),
        ("prlimit64", (0, 7, 0), None),
        ("kill", (1, 9), "signal another process"),
        ("chmod", (0, 0), None),
        ("read", (0, 0, 0), None),
    ],
)
def test_what_was_tried_is_said_in_words(name, arguments, words):
    assert what_was_tried(name, arguments) == words
