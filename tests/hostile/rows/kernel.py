"""The kernel: limits, rights, namespaces, mounts, and calls that nobody needs."""

import errno
import os
import resource

from .. import reasons
from ..row import Row

_ALONE = reasons.alone("--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_NAMESPACES = reasons.alone("--uts", "--ipc", "--net", "--cgroup")
_TERMINALS = {
    "ptmx": "/dev/ptmx",
    "pts_ptmx": "/dev/pts/ptmx",
    "console": "/dev/console",
    "tty0": "/dev/tty0",
    "tty1": "/dev/tty1",
    "pts0": "/dev/pts/0",
}
_BPF = reasons.setting("/proc/sys/kernel/unprivileged_bpf_disabled", "0")
_PERF = reasons.setting("/proc/sys/kernel/perf_event_paranoid", "-1", "0", "1", "2") and reasons.lacks(
    "PERFMON"
)
_NULL = "the tests give a trainer /dev/null for standard input as well"
_NO_TERMINAL = frozenset({errno.ENXIO, errno.ENOENT, errno.ENOTTY, errno.EIO})
_LIMITS = ("DATA", "STACK", "FSIZE", "SIGPENDING", "CORE", "MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO")
_UNKNOWN = (512, 520, 547, 600, 9999, 0x3FFFFFFF, 0x7FFFFFFF, -2)
_X32 = 0x40000000
#: Kernels, and filters around all of this, lack or refuse these; made so that nothing comes of them.
_ASKED = {
    "io_uring": ("io_uring_setup", 0, None),
    "io_uring_enter": ("io_uring_enter", -1, 0, 0, 0, None, 0),
    "io_uring_register": ("io_uring_register", -1, 0, None, 0),
    "aio": ("io_setup", 0, None),
    "userfaultfd": ("userfaultfd", 0x7FFF),
    "bpf_program": ("bpf", 5, None, 0),
    "add_key": ("add_key", None, None, None, 0, 0),
    "request_key": ("request_key", None, None, None, 0),
    "keyctl": ("keyctl", 0, -3, 0, 0, 0),
    "landlock": ("landlock_create_ruleset", None, 0, 1),
    "landlock_add": ("landlock_add_rule", -1, 1, None, 0),
    "landlock_restrict": ("landlock_restrict_self", -1, 0),
    "lsm_attributes": ("lsm_set_self_attr", 0, None, 0, 0),
    "modify_ldt": ("modify_ldt", 99, None, 0),
    "iopl": ("iopl", 0),
    "ioperm": ("ioperm", 0, 1, 0),
    "personality": ("personality", 0xFFFFFFFF),
    "kernel_log": ("syslog", 10, None, 0),
    "fanotify": ("fanotify_init", 0xFFFFFFFF, 0),
    "lookup_cookie": ("lookup_dcookie", 0, None, 0),
    "remap_file_pages": ("remap_file_pages", 0, 0, 1, 0, 0),
    "vmsplice": ("vmsplice", -1, None, 1, 0),
    "cachestat": ("cachestat", -1, None, None, 0),
    "membarrier": ("membarrier", 0, 0, 0),
    "shadow_stack": ("map_shadow_stack", 0, 1, 0),
    "seccomp": ("seccomp", 99, 0, None),
}
_MACHINE = {
    "reboot": ("SYS_BOOT", "reboot", 0, 0, 0, None),
    "kexec": ("SYS_BOOT", "kexec_load", 0, 1 << 20, None, 1),
    "init_module": ("SYS_MODULE", "init_module", None, 0, None),
    "finit_module": ("SYS_MODULE", "finit_module", -1, None, 0),
    "delete_module": ("SYS_MODULE", "delete_module", None, 0),
    "sethostname": ("SYS_ADMIN", "sethostname", None, -1),
    "setdomainname": ("SYS_ADMIN", "setdomainname", None, 1000),
    "settimeofday": ("SYS_TIME", "settimeofday", None, None),
    "clock_settime": ("SYS_TIME", "clock_settime", 99, None),
    "swapon": ("SYS_ADMIN", "swapon", None, 0),
    "swapoff": ("SYS_ADMIN", "swapoff", None),
    "acct": ("SYS_PACCT", "acct", 1),
}

ROWS = (
    Row(
        42,
        "raise one's limits",
        "seccomp, rlimits",
        "limits:own",
        no_control=reasons.because(
            {f"limit_{name}": reasons.unlimited(getattr(resource, f"RLIMIT_{name}")) for name in _LIMITS}
            | {"lock_memory": reasons.lacks("IPC_LOCK", anywhere=True)}
        ),
    ),
    Row(
        42,
        "run before others",
        "seccomp",
        "limits:priorities",
        no_control=reasons.each(("nice", "fifo", "round_robin", "io_real_time"), reasons.lacks("SYS_NICE"))
        | reasons.each(("host_pages", "sibling_pages"), reasons.refused("migrate_pages", 0, 1, None, None)),
    ),
    Row(
        42,
        "become another user",
        "seccomp, privileges",
        "limits:identity",
        no_control=reasons.because(
            {
                "setgroups": reasons.lacks("SETGID", anywhere=True),
                "secure_bits": reasons.lacks("SETPCAP", anywhere=True),
                "memory_map": reasons.lacks("SYS_RESOURCE"),
            }
        ),
    ),
    Row(
        43,
        "leave for other namespaces",
        "seccomp",
        "machine_wide:namespaces",
        no_control=reasons.not_alone(_NAMESPACES),
        control_prefix=_NAMESPACES or (),
    ),
    Row(
        43,
        "mount and change the root",
        "seccomp",
        "machine_wide:mounts",
        no_control=reasons.not_alone(_ALONE),
        control_prefix=_ALONE or (),
    ),
    Row(
        43,
        "change the machine",
        "seccomp, privileges",
        "machine_wide:whole_machine",
        no_control=reasons.because(
            {
                name: reasons.lacks(right) or reasons.refused(*call)
                for name, (right, *call) in _MACHINE.items()
            }
            | {"sysctl": reasons.closed("/proc/sys/kernel/hostname", os.W_OK)}
        ),
    ),
    Row(
        44,
        "calls that nobody needs",
        "seccomp",
        "surface:calls",
        also={"membarrier": frozenset({errno.EINVAL})},
        no_control=reasons.because({name: reasons.refused(*call) for name, call in _ASKED.items()})
        | reasons.because(
            {
                "bpf_map": _BPF and reasons.lacks("BPF"),
                "bpf_program": _BPF and reasons.lacks("BPF"),
                "perf": _PERF,
                "perf_of_host": _PERF,
                "fanotify": reasons.lacks("SYS_ADMIN"),
            }
        ),
    ),
    Row(
        44,
        "open files by handles",
        "seccomp",
        "surface:handles",
        no_control=reasons.each(("open_by_handle", "open_by_no_handle"), reasons.lacks("DAC_READ_SEARCH")),
    ),
    Row(
        45,
        "calls by unknown numbers",
        "seccomp",
        "surface:unknown_numbers",
        no_control=reasons.because(
            {f"number_{number & 0xFFFFFFFF}": reasons.refused(number, 0, 0, 0) for number in _UNKNOWN}
            | {
                f"x32_{name}": reasons.refused(_X32 | number)
                for name, number in (("getpid", 39), ("getppid", 110), ("getuid", 102))
            }
        ),
    ),
    Row(
        46,
        "type into a terminal",
        "seccomp",
        "terminal:typing",
        also=_NO_TERMINAL,
        no_control=reasons.each(("select", "select_high"), "only a virtual console knows of selections")
        | reasons.because({"console": reasons.lacks("SYS_ADMIN")}),
    ),
    Row(
        46,
        "open terminals",
        "landlock, process",
        "terminal:listening",
        also=_NO_TERMINAL,
        no_control=reasons.because({name: reasons.closed(path, os.W_OK) for name, path in _TERMINALS.items()})
        | {"standard_input": _NULL},
    ),
)
