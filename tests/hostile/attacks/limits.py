"""Raise one's limits, one's priority and one's rights; take processors from others."""

import ctypes
import errno
import os
import resource
import struct

from lowlevel import opens, past

from ringfence.isolation.policy import kernel

_LIMITS = ("DATA", "STACK", "FSIZE", "NOFILE", "SIGPENDING", "CORE", "MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO")
_ANYBODY = -1
_WORD = (1 << 64) - 1
_IOPRIO_REAL_TIME = 1 << 13
_CAPABILITY_VERSION = 0x20080522
_MCL_FUTURE = 2
_PR_SET_KEEPCAPS, _PR_SET_SECUREBITS, _PR_SET_MM = 8, 28, 35
_SCHED_BATCH, _SCHED_RR = 3, 2


def own(aim):
    """Raise every limit that this process has."""

    def lifts(kind):
        # The number of files has a highest number of its own, which is less than infinity.
        top = resource.getrlimit(kind)[1] if kind == resource.RLIMIT_NOFILE else resource.RLIM_INFINITY
        wanted = ctypes.create_string_buffer(struct.pack("QQ", *[top & _WORD] * 2), 16)
        return kernel.syscall("prlimit64", 0, kind, wanted, None) == 0

    def old_call():
        same = struct.pack("QQ", *(limit & _WORD for limit in resource.getrlimit(resource.RLIMIT_CORE)))
        return kernel.syscall("setrlimit", resource.RLIMIT_CORE, ctypes.create_string_buffer(same, 16)) == 0

    attempts = {
        f"limit_{name}": lambda name=name: lifts(getattr(resource, f"RLIMIT_{name}")) for name in _LIMITS
    }
    return attempts | {
        "setrlimit": old_call,
        "lock_memory": lambda: kernel.syscall("mlockall", _MCL_FUTURE) == 0,
        "score": lambda: opens("/proc/self/oom_score_adj", os.O_WRONLY),
    }


def priorities(aim):
    """Run before others, on their processors, and reach for theirs."""
    batch, param = os.SCHED_BATCH, os.sched_param(0)
    attributes = ctypes.create_string_buffer(struct.pack("IIQiIQQQ", 48, _SCHED_BATCH, 0, 0, 0, 0, 0, 0), 48)
    processors = os.sched_getaffinity(0)
    node = ctypes.create_string_buffer(struct.pack("Q", 1), 8)

    def same_limit(pid):
        resource.prlimit(pid, resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))

    attempts = {
        "nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
        "nice_same": lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0)),
        "fifo": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "round_robin": lambda: os.sched_setscheduler(0, _SCHED_RR, os.sched_param(1)),
        "io_real_time": lambda: kernel.syscall("ioprio_set", 1, 0, _IOPRIO_REAL_TIME),
        "batch": lambda: os.sched_setscheduler(0, batch, param),
        "param": lambda: os.sched_setparam(0, param),
        "attributes": lambda: kernel.syscall("sched_setattr", 0, attributes, 0),
        "processors": lambda: os.sched_setaffinity(0, processors),
        "user_nice": lambda: os.setpriority(os.PRIO_USER, 0, 0),
    }
    for who, pid in (("host", aim.host_pid), ("sibling", aim.sibling_pid)):
        attempts |= {
            f"{who}_nice": lambda pid=pid: os.setpriority(os.PRIO_PROCESS, pid, 0),
            f"{who}_batch": lambda pid=pid: os.sched_setscheduler(pid, os.SCHED_OTHER, param),
            f"{who}_processors": lambda pid=pid: os.sched_setaffinity(pid, processors),
            f"{who}_io": lambda pid=pid: kernel.syscall("ioprio_set", 1, pid, 0),
            f"{who}_limit": lambda pid=pid: same_limit(pid),
            f"{who}_pages": lambda pid=pid: kernel.syscall("migrate_pages", pid, 64, node, node),
        }
    return attempts


def identity(aim):
    """Become another user, or get back what was dropped."""
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION, 0), 8)
    rights = ctypes.create_string_buffer(24)

    def same_rights():
        kernel.syscall("capget", header, rights)
        kernel.syscall("capset", header, rights)

    return {
        "setuid": lambda: os.setuid(os.getuid()),
        "setgid": lambda: os.setgid(os.getgid()),
        "setreuid": lambda: os.setreuid(_ANYBODY, _ANYBODY),
        "setregid": lambda: os.setregid(_ANYBODY, _ANYBODY),
        "setresuid": lambda: os.setresuid(_ANYBODY, _ANYBODY, _ANYBODY),
        "setresgid": lambda: os.setresgid(_ANYBODY, _ANYBODY, _ANYBODY),
        "setfsuid": lambda: kernel.syscall("setfsuid", os.getuid()) >= 0,
        "setfsgid": lambda: kernel.syscall("setfsgid", os.getgid()) >= 0,
        "setgroups": lambda: os.setgroups(os.getgroups()),
        "capset": same_rights,
        "secure_bits": lambda: kernel.prctl(_PR_SET_SECUREBITS, 0),
        "keep_rights": lambda: kernel.prctl(_PR_SET_KEEPCAPS, 1),
        "memory_map": lambda: past(lambda: kernel.prctl(_PR_SET_MM, 1, 0), errno.EINVAL),
        "own_uid_map": lambda: opens("/proc/self/uid_map", os.O_WRONLY),
    }
