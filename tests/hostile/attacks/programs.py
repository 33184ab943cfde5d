"""Start programs and processes, in every way that there is to start one."""

import concurrent.futures
import ctypes
import errno
import multiprocessing
import os
import pty
import signal
import subprocess

import machine
import seccompy
from lowlevel import past, text

from ringfence.isolation.policy import kernel

_AT_EMPTY_PATH = 0x1000
_VM, _VFORK, _PARENT, _SIGHAND = 0x100, 0x4000, 0x8000, 0x800
_SHELL = "/bin/sh"
_SHELL_TEXT = text(_SHELL)
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
_BAD_POINTER = 1


def _ends(pid):
    """Wait for a child."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def programs(aim):
    """Start a program beside this process, or in its place: there a bad argument keeps it from happening."""
    libc = ctypes.CDLL(None)
    loader = next((path for path in _LOADERS if os.path.exists(path)), _LOADERS[0])

    def execs(path):
        return past(lambda: kernel.syscall("execve", text(path), _BAD_POINTER, 0), errno.EFAULT)

    def execs_file(fd):
        try:
            return past(
                lambda: kernel.syscall("execveat", fd, text(""), _BAD_POINTER, 0, _AT_EMPTY_PATH),
                errno.EFAULT,
            )
        finally:
            os.close(fd)

    def from_memory(path):
        fd = os.memfd_create("program", 0)
        with open(path, "rb") as program, os.fdopen(fd, "wb", closefd=False) as copy:
            copy.write(program.read())
        return fd

    def runs_from_memory():
        fd = from_memory(_SHELL)
        try:
            return _ends(os.posix_spawn(f"/proc/self/fd/{fd}", ["sh", "-c", ":"], {}))
        finally:
            os.close(fd)

    def from_scratch():
        with open("program", "w") as file:
            file.write(f"#!{_SHELL}\n")
        os.chmod("program", 0o700)
        return subprocess.run([os.path.abspath("program")], check=True)

    return {
        "execve": lambda: execs(_SHELL),
        "execve_own": lambda: execs("/proc/self/exe"),
        "execveat": lambda: execs_file(os.open(_SHELL, os.O_PATH)),
        "fexecve_of_memory": lambda: execs_file(from_memory(_SHELL)),
        "spawn_of_memory": runs_from_memory,
        "posix_spawn": lambda: _ends(os.posix_spawn(_SHELL, ["sh", "-c", ":"], {})),
        "posix_spawnp": lambda: _ends(os.posix_spawnp("sh", ["sh", "-c", ":"], {"PATH": "/bin"})),
        "loader": lambda: _ends(os.posix_spawn(loader, ["ld.so", _SHELL, "-c", ":"], {})),
        "spawnv": lambda: os.spawnv(os.P_WAIT, _SHELL, ["sh", "-c", ":"]) == 0,
        "system": lambda: os.waitstatus_to_exitcode(os.system("exit 7")) == 7,
        "libc_system": lambda: libc.system(b"exit 7") == 7 << 8,
        "popen": lambda: os.popen("echo gone").read() == "gone\n",
        "subprocess": lambda: subprocess.run([_SHELL, "-c", ":"], check=True),
        "subprocess_shell": lambda: subprocess.run(":", shell=True, check=True),
        "scratch_script": from_scratch,
        "pty": _in_terminal,
    }


def _in_terminal():
    pid, fd = pty.fork()
    if pid == 0:
        os._exit(0)
    try:
        return _ends(pid)
    finally:
        os.close(fd)


class _Clone(ctypes.Structure):
    """struct clone_args."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("flags", "pidfd", "child", "parent", "signal", "stack", "size", "tls")
    )


def processes(aim):
    """Make a process that the host does not know of; each ends as soon as it began."""

    def raw(name, *args):
        return _ends(machine.in_memory("spawn")(kernel_number(name), *args))

    def clone3():
        args = _Clone(flags=_VM | _VFORK, signal=signal.SIGCHLD)
        return raw("clone3", ctypes.addressof(args), ctypes.sizeof(args))

    def forks():
        if (pid := os.fork()) == 0:
            os._exit(0)
        return _ends(pid)

    def orphan():
        machine.in_memory("spawn")(kernel_number("clone"), _PARENT | signal.SIGCHLD)
        return True

    return {
        "fork": forks,
        "bomb": lambda: all(forks() for _ in range(20)),
        "forkpty": _in_terminal,
        "raw_fork": lambda: raw("fork"),
        "vfork": lambda: raw("vfork"),
        "clone": lambda: raw("clone", signal.SIGCHLD),
        "clone_no_signal": lambda: _ends_quietly(machine.in_memory("spawn")(kernel_number("clone"), 0)),
        "clone_memory": lambda: raw("clone", _VM | _VFORK | signal.SIGCHLD),
        "clone_signals": lambda: raw("clone", _VM | _VFORK | _SIGHAND | signal.SIGCHLD),
        "clone_as_sibling": orphan,
        "clone3": clone3,
        "multiprocessing_fork": lambda: _multiprocessing("fork"),
        "multiprocessing_spawn": lambda: _multiprocessing("spawn"),
        "multiprocessing_server": lambda: _multiprocessing("forkserver"),
        "pool": _pool,
    }


def kernel_number(name):
    """Return the number of a system call."""
    try:
        return seccompy.syscall_nr(name)
    except ValueError:
        raise OSError(errno.ENOSYS, f"no {name} on this architecture") from None


def _ends_quietly(pid):
    """Wait for a child that says nothing when it ends."""
    return os.waitpid(pid, 0x40000000)[0] == pid


def _multiprocessing(method):
    context = multiprocessing.get_context(method)
    process = context.Process(target=os.getpid)
    process.start()
    process.join(30)
    return process.exitcode == 0


def _pool():
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(os.getppid).result(30) == os.getpid()


def loaded_code(aim):
    """Do what is forbidden from machine code: in memory, and in a library from the scratch folder."""
    ways = {
        "memory": lambda: machine.in_memory("call"),
        "library": lambda: machine.in_library("code.so"),
    }
    secret = text(os.path.join(aim.home, ".ssh/id_ed25519"))
    calls = {
        "open": lambda call: os.close(call(kernel_number("openat"), -100, ctypes.addressof(secret), 0)),
        "execve": lambda call: past(
            lambda: call(kernel_number("execve"), ctypes.addressof(_SHELL_TEXT), _BAD_POINTER, 0),
            errno.EFAULT,
        ),
        "kill": lambda call: call(kernel_number("kill"), aim.host_pid, 0) == 0,
        "socket": lambda call: os.close(call(kernel_number("socket"), 2, 1, 0)),
        "memfd": lambda call: os.close(call(kernel_number("memfd_create"), ctypes.addressof(_SHELL_TEXT), 0)),
        "ptrace": lambda call: past(
            lambda: call(kernel_number("ptrace"), 0x4207, aim.sibling_pid), errno.ESRCH
        ),
    }
    return {
        f"{way}_{name}": lambda load=load, use=use: use(load())
        for way, load in ways.items()
        for name, use in calls.items()
    }
