"""Parts of the kernel that a plugin does not need, and that others have got out through."""

import ctypes
import errno
import os
import struct

import machine
import seccompy
from lowlevel import by_name, gets_fd, past, text

from ringfence.isolation.policy import kernel

_UFFD_USER_MODE_ONLY = 1
_MAP_CREATE, _PROG_LOAD = 0, 5
_PROCESS_KEYRING = -2
_PERF_SOFTWARE, _PERF_DUMMY = 1, 9
_HERE = -100
_X32 = 0x40000000
#: Of what no one has thought yet, or only on other machines.
NUMBERS = (512, 520, 547, 600, 9999, 0x3FFFFFFF, 0x7FFFFFFF, -2)


def calls(aim):
    """Call what Python has no name for."""
    ring = ctypes.create_string_buffer(120)
    array = ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 8, 1), 128)
    event = ctypes.create_string_buffer(
        struct.pack("IIQQQQQ", _PERF_SOFTWARE, 64, _PERF_DUMMY, 0, 0, 0, 0b1100000), 64
    )
    context = ctypes.c_ulong()
    key, name = text("user"), text("hostile")
    ruleset = ctypes.create_string_buffer(struct.pack("Q", 1), 8)
    nothing = frozenset({errno.EFAULT, errno.EINVAL, errno.EBADF, errno.ENOENT})

    def asks(call, *args, errors=nothing):
        return lambda: past(lambda: kernel.syscall(call, *args), *errors)

    def aio():
        kernel.syscall("io_setup", 1, ctypes.addressof(context))
        return kernel.syscall("io_destroy", context.value) == 0

    return {
        "io_uring": gets_fd("io_uring_setup", 1, ring),
        "io_uring_enter": asks("io_uring_enter", -1, 0, 0, 0, None, 0),
        "io_uring_register": asks("io_uring_register", -1, 0, None, 0),
        "aio": aio,
        "userfaultfd": gets_fd("userfaultfd", _UFFD_USER_MODE_ONLY),
        "bpf_map": gets_fd("bpf", _MAP_CREATE, array, 72),
        "bpf_program": asks(
            "bpf", _PROG_LOAD, ctypes.create_string_buffer(72), 72, errors=(*nothing, errno.E2BIG)
        ),
        "perf": gets_fd("perf_event_open", event, 0, -1, -1, 0),
        "perf_of_host": gets_fd("perf_event_open", event, aim.host_pid, -1, -1, 0),
        "add_key": by_name("add_key", key, name, text("x"), 1, _PROCESS_KEYRING),
        "request_key": asks("request_key", key, text("absent"), None, 0, errors=(errno.ENOKEY,)),
        "keyctl": by_name("keyctl", 0, _PROCESS_KEYRING, 1, 0, 0),
        "seccomp": asks("seccomp", 99, 0, None),
        "prctl_seccomp": lambda: past(lambda: kernel.prctl(22, 99), errno.EINVAL),
        "landlock": gets_fd("landlock_create_ruleset", ruleset, 8, 0),
        "landlock_add": asks("landlock_add_rule", -1, 1, None, 0),
        "landlock_restrict": asks("landlock_restrict_self", -1, 0),
        "lsm_attributes": asks("lsm_set_self_attr", 0, None, 0, 0, errors=(*nothing, errno.EOPNOTSUPP)),
        "modify_ldt": by_name("modify_ldt", 0, ctypes.create_string_buffer(64), 64),
        "iopl": by_name("iopl", 0),
        "ioperm": by_name("ioperm", 0, 1, 0),
        "personality": by_name("personality", 0xFFFFFFFF),
        "kernel_log": by_name("syslog", 10, None, 0),
        "fanotify": gets_fd("fanotify_init", 0, 0),
        "inotify": gets_fd("inotify_init1", 0),
        "lookup_cookie": asks("lookup_dcookie", 0, None, 0),
        "remap_file_pages": asks("remap_file_pages", 0, 0, 1, 0, 0),
        "vmsplice": asks("vmsplice", -1, None, 1, 0),
        "splice": asks("splice", -1, None, -1, None, 1, 0),
        "tee": asks("tee", -1, -1, 1, 0),
        "cachestat": asks("cachestat", -1, None, None, 0),
        "membarrier": by_name("membarrier", 2, 0, 0),
        "shadow_stack": asks("map_shadow_stack", 0, 1, 0, errors=(*nothing, errno.EOPNOTSUPP, errno.ENOSPC)),
    }


def handles(aim):
    """Open a file by what the kernel calls it: no name of it is looked at."""
    secret = os.path.join(aim.home, ".ssh/id_ed25519")
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    mount = ctypes.c_int()

    def name():
        return (
            kernel.syscall("name_to_handle_at", _HERE, text(secret), handle, ctypes.addressof(mount), 0) == 0
        )

    def by_handle():
        name()
        folder = os.open(".", os.O_RDONLY)
        try:
            fd = kernel.syscall("open_by_handle_at", folder, handle, os.O_RDONLY)
        finally:
            os.close(folder)
        try:
            return os.read(fd, 64) == aim.secret.encode()
        finally:
            os.close(fd)

    return {
        "name_to_handle": name,
        "open_by_handle": by_handle,
        "open_by_no_handle": lambda: past(
            lambda: kernel.syscall("open_by_handle_at", -1, handle, 0),
            errno.EBADF,
            errno.ESTALE,
            errno.EINVAL,
        ),
    }


def unknown_numbers(aim):
    """Make calls by numbers that no table has, and by those that programs of another kind use."""
    attempts = {
        f"number_{number & 0xFFFFFFFF}": lambda number=number: kernel.syscall_number(number, 0, 0, 0)
        for number in NUMBERS
    }
    return attempts | {
        f"x32_{name}": lambda name=name: kernel.syscall_number(_X32 | seccompy.syscall_nr(name), 0, 0, 0) >= 0
        for name in ("getpid", "getppid", "getuid")
    }


def old_calls(aim):
    """Make a call as programs for 32 bits do, to which other numbers belong: 20 is getpid."""
    return {"getpid": lambda: machine.in_memory("old")(20) > 0}
