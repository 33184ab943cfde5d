"""Other processes: looked into, changed, signalled; and processes of one's own."""

import errno
import os

from .. import reasons
from ..row import Row

_YAMA = reasons.setting("/proc/sys/kernel/yama/ptrace_scope", "0")
_ALONE = reasons.alone("--pid", "--fork", "--kill-child", "--mount-proc")
_WHOM = ("host", "zygote", "sibling", "first")
_INVALID = frozenset({errno.EINVAL})
_KERNEL_FILES = {
    "sysrq": "/proc/sysrq-trigger",
    "cgroup_members": "/sys/fs/cgroup/cgroup.procs",
    "cgroup_members_v1": "/sys/fs/cgroup/memory/cgroup.procs",
    "cgroup_members_unified": "/sys/fs/cgroup/unified/cgroup.procs",
    "core_pattern": "/proc/sys/kernel/core_pattern",
}

ROWS = (
    Row(7, "look into other processes by /proc", "landlock", "tracing:proc"),
    Row(
        8,
        "trace other processes",
        "seccomp, landlock",
        "tracing:ptrace",
        no_control={"*": _YAMA} if _YAMA else {},
    ),
    Row(
        8,
        "trace the trainer and end, so that it stays stopped",
        "seccomp, landlock",
        "tracing:ptrace_and_leave",
        no_control={"*": _YAMA} if _YAMA else {},
        harms="" if _YAMA else "stopped",
    ),
    Row(
        9,
        "read and write the memory of others, take their files",
        "seccomp, landlock",
        "tracing:memory",
        no_control=({"*": _YAMA} if _YAMA else {})
        | reasons.each((f"madvise_{who}" for who in _WHOM[:3]), reasons.lacks("SYS_NICE")),
    ),
    Row(
        10,
        "kill()",
        "seccomp, landlock",
        "signalling:kill",
        no_control=reasons.not_alone(_ALONE),
        control_prefix=_ALONE or (),
    ),
    Row(
        10,
        "every other call that signals",
        "seccomp, landlock",
        "signalling:other_calls",
        also={f"timer_{who}": _INVALID for who in _WHOM} | {"tgkill_any_group": frozenset({errno.ESRCH})},
        no_control=reasons.not_alone(_ALONE)
        | reasons.each((f"timer_{who}" for who in _WHOM), "a timer signals threads of its own process only")
        | {"tgkill_any_group": "the kernel looks for the thread in the group that is named"},
        control_prefix=_ALONE or (),
    ),
    Row(10, "signals by files", "seccomp", "signalling:by_files"),
    Row(
        10,
        "files of the kernel's that end others",
        "landlock",
        "signalling:by_the_kernel",
        no_control=reasons.because(
            {name: reasons.closed(path, os.W_OK) for name, path in _KERNEL_FILES.items()}
        ),
    ),
    Row(10, "stop the trainer", "seccomp, landlock", "signalling:stop", harms="stopped"),
    Row(10, "end the trainer", "seccomp, landlock", "signalling:end", harms="ended"),
    Row(11, "read, change and end a sibling", "landlock, seccomp", "tracing:sibling"),
    Row(18, "start programs", "seccomp, landlock", "programs:programs"),
    Row(18, "run machine code of one's own", "seccomp, landlock", "programs:loaded_code"),
    Row(19, "start processes", "seccomp", "programs:processes"),
)
