"""Namespaces, mounts and the machine as a whole.

Run, without a sandbox, in a mount namespace of its own; whatever else would harm has arguments
that the kernel refuses once it has let the caller through.
"""

import ctypes
import errno
import os
import socket

import machine
import seccompy
from lowlevel import gets_fd, opens, past, text

from ringfence.isolation.policy import kernel

#: What the kernel says of arguments that nobody means.
_NONSENSE = (
    *(errno.EFAULT, errno.EINVAL, errno.EBADF, errno.ENOENT, errno.ENODEV, errno.ENOEXEC, errno.ENOTBLK),
)
_HERE = -100
_OPEN_TREE_CLONE, _MOVE_FROM_HANDLE = 1, 4
_BIND, _RDONLY, _REMOUNT = 4096, 1, 32
_DETACH = 2
_NAMESPACES = ("UTS", "IPC", "CGROUP", "NET", "NS", "PID", "USER")
_NEW_TIME = 0x80
_VM, _VFORK, _SIGCHLD = 0x100, 0x4000, 17


def namespaces(aim):
    """Leave for other namespaces: new ones, and those of others."""

    def child(flag):
        number = seccompy.syscall_nr("clone")
        pid = machine.in_memory("spawn")(number, flag | _VFORK | _SIGCHLD)
        return os.waitpid(pid, 0)[0] == pid

    def child3(flag):
        args = (ctypes.c_uint64 * 8)(flag | _VFORK, 0, 0, 0, _SIGCHLD, 0, 0, 0)
        number = seccompy.syscall_nr("clone3")
        pid = machine.in_memory("spawn")(number, ctypes.addressof(args), ctypes.sizeof(args))
        return os.waitpid(pid, 0)[0] == pid

    def enters(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            return kernel.syscall("setns", fd, 0) == 0
        finally:
            os.close(fd)

    def thread_with(flag):
        # A thread cannot have namespaces of its own: the kernel says so once it has let the caller ask.
        number = seccompy.syscall_nr("clone")
        flags = kernel.CLONE_THREAD | kernel.CLONE_SIGHAND | _VM | flag
        return past(lambda: machine.in_memory("spawn")(number, flags), errno.EINVAL)

    flags = {name.lower(): getattr(kernel, f"CLONE_NEW{name}") for name in _NAMESPACES}
    attempts = {f"clone_{name}": lambda flag=flag: child(flag) for name, flag in flags.items()}
    attempts["clone3_user"] = lambda: child3(kernel.CLONE_NEWUSER)
    attempts["clone_thread_user"] = lambda: thread_with(kernel.CLONE_NEWUSER)
    attempts |= {
        f"enter_own_{name}": lambda name=name: enters(f"/proc/self/ns/{name}")
        for name in ("uts", "ipc", "net", "cgroup")
    }
    attempts["enter_host_net"] = lambda: enters(f"/proc/{aim.host_pid}/ns/net")
    attempts["enter_nothing"] = lambda: past(lambda: kernel.syscall("setns", -1, 0), errno.EBADF)
    attempts |= {
        f"unshare_{name}": lambda flag=flag: kernel.syscall("unshare", flag) == 0
        for name, flag in flags.items()
    }
    return attempts | {
        "unshare_time": lambda: kernel.syscall("unshare", _NEW_TIME) == 0,
        "unshare_files": lambda: kernel.syscall("unshare", 0x200) == 0,
    }


def mounts(aim):
    """Mount, move what is mounted, and change the root."""
    os.makedirs("here", exist_ok=True)

    def mount(source, kind, flags=0):
        kernel.syscall("mount", text(source), text("here"), text(kind), flags, None)
        return kernel.syscall("umount2", text("here"), _DETACH) == 0

    def moved():
        tree = kernel.syscall("open_tree", _HERE, text(aim.home), _OPEN_TREE_CLONE)
        try:
            kernel.syscall("move_mount", tree, text(""), _HERE, text("here"), _MOVE_FROM_HANDLE)
            return kernel.syscall("umount2", text("here"), _DETACH) == 0
        finally:
            os.close(tree)

    def asks(name, *args):
        return lambda: past(lambda: kernel.syscall(name, *args), *_NONSENSE)

    return {
        "tmpfs": lambda: mount("none", "tmpfs"),
        "proc": lambda: mount("none", "proc"),
        "bind": lambda: mount(aim.home, "", _BIND),
        "remount": lambda: past(
            lambda: kernel.syscall("mount", None, text("here"), None, _REMOUNT | _RDONLY | _BIND, None),
            errno.EINVAL,
        ),
        "umount": lambda: past(lambda: kernel.syscall("umount2", text("here"), _DETACH), errno.EINVAL),
        "fsopen": gets_fd("fsopen", text("tmpfs"), 0),
        "open_tree": gets_fd("open_tree", _HERE, text(aim.home), _OPEN_TREE_CLONE),
        "move_mount": moved,
        "fspick": gets_fd("fspick", _HERE, text("/"), 0),
        "fsmount": asks("fsmount", -1, 0, 0),
        "fsconfig": asks("fsconfig", -1, 0, None, None, 0),
        "mount_setattr": asks("mount_setattr", -1, text(""), 0x1000, None, 0),
        "statmount": asks("statmount", None, None, 0, 0),
        "listmount": asks("listmount", None, None, 0, 0),
        "pivot_root": lambda: past(
            lambda: kernel.syscall("pivot_root", text("here"), text("here")), errno.EINVAL, errno.EBUSY
        ),
        "chroot": lambda: os.chroot("/"),
        "quotactl": asks("quotactl", 0x7FFFFF00, None, 0, None),
    }


def whole_machine(aim):
    """Change the machine for everybody."""

    def asks(name, *args):
        return lambda: past(lambda: kernel.syscall(name, *args), *_NONSENSE)

    host = socket.gethostname()
    absent = text("/nowhere/at/all")
    return {
        "reboot": asks("reboot", 0, 0, 0, None),
        "kexec": asks("kexec_load", 0, 1 << 20, None, 1),
        "init_module": asks("init_module", None, 0, None),
        "finit_module": asks("finit_module", -1, text(""), 0),
        "delete_module": asks("delete_module", text("no_such_module"), 0),
        "sethostname": lambda: kernel.syscall("sethostname", text(host), len(host)) == 0,
        "setdomainname": asks("setdomainname", None, 1000),
        "settimeofday": asks("settimeofday", ctypes.create_string_buffer(b"\xff" * 16, 16), None),
        "clock_settime": asks("clock_settime", 0, ctypes.create_string_buffer(b"\xff" * 16, 16)),
        "swapon": asks("swapon", absent, 0),
        "swapoff": asks("swapoff", absent),
        "acct": asks("acct", absent),
        "sync": lambda: kernel.syscall("sync") == 0,
        "sysctl": lambda: opens("/proc/sys/kernel/hostname", os.O_WRONLY),
    }
