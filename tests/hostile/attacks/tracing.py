"""Look into other processes and change them: by /proc, by ptrace, by their memory and their files."""

import contextlib
import ctypes
import errno
import os
import time

import hostile
from lowlevel import opens, past

from ringfence.isolation.policy import kernel

_TRACEME, _ATTACH, _SEIZE, _DETACH, _INTERRUPT = 0, 16, 0x4206, 17, 0x4207
_WALL = 0x40000000
_KCMP_FILE, _KCMP_VM = 0, 1
_MADV_COLD = 20
#: Text that this process and, where it was forked from it, the trainer have at the same place.
_SAME = hostile.Aim.__doc__
_SAME_AT = id(_SAME) + _SAME.__sizeof__() - len(_SAME) - 1

#: Below ``/proc/<number>``: what is read, what is listed, where links lead, what is written.
READ = ("environ", "maps", "smaps", "auxv", "cmdline", "stat", "status", "io", "limits", "mounts", "sched")
LISTED = ("fd", "fdinfo", "task", "ns", "map_files", "root", "cwd", "net")
LINKS = ("root", "cwd", "exe", "ns/user", "fd/0")
WRITTEN = ("mem", "oom_score_adj", "comm", "coredump_filter", "clear_refs", "uid_map")


def _whom(aim):
    return {"host": aim.host_pid, "zygote": aim.zygote_pid, "sibling": aim.sibling_pid}


def _read(path):
    with open(path, "rb") as file:
        return file.read(64) or True


def proc(aim):
    """Use what ``/proc`` tells of other processes, and lets change."""
    attempts = {"processes": lambda: os.listdir("/proc")}
    for who, pid in _whom(aim).items():
        top = f"/proc/{pid}"
        attempts |= {f"{who}_{name}": lambda path=f"{top}/{name}": _read(path) for name in READ}
        attempts |= {
            f"{who}_{name}_listed": lambda path=f"{top}/{name}": os.listdir(path) or True for name in LISTED
        }
        attempts |= {
            f"{who}_{name.replace('/', '-')}_link": lambda path=f"{top}/{name}": os.readlink(path)
            for name in LINKS
        }
        attempts |= {
            f"{who}_{name}_written": lambda path=f"{top}/{name}": opens(path, os.O_WRONLY) for name in WRITTEN
        }
        attempts[f"{who}_mem"] = lambda top=top: opens(f"{top}/mem")
        attempts[f"{who}_by_thread"] = lambda top=top, pid=pid: _read(f"{top}/task/{pid}/environ")
        attempts[f"{who}_by_dots"] = lambda pid=pid: _read(f"/proc/self/../{pid}/environ")
    attempts["host_open_file"] = lambda: _read(f"/proc/{aim.host_pid}/fd/{aim.open_fd}")
    attempts["host_root_beyond"] = lambda: os.listdir(os.path.join(f"/proc/{aim.host_pid}/root", ""))
    return attempts


@contextlib.contextmanager
def _traced(request, pid):
    """Hold a process by ptrace for a moment, and let it go as it was."""
    kernel.syscall("ptrace", request, pid, 0, 0)
    if request == _SEIZE:
        kernel.syscall("ptrace", _INTERRUPT, pid, 0, 0)
    for _ in range(1000):
        if os.waitpid(pid, os.WNOHANG | _WALL)[0] == pid:
            break
        time.sleep(0.001)
    try:
        yield
    finally:
        kernel.syscall("ptrace", _DETACH, pid, 0, 0)


def ptrace(aim):
    """Trace and let go: whoever can do this can do anything to a process."""

    def hold(request, pid):
        with _traced(request, pid):
            return True

    return {
        f"{name}_{who}": lambda request=request, pid=pid: hold(request, pid)
        for name, request in (("attach", _ATTACH), ("seize", _SEIZE))
        for who, pid in _whom(aim).items()
    } | {"traceme": lambda: kernel.syscall("ptrace", _TRACEME, 0, 0, 0) == 0}


def ptrace_and_leave(aim):
    """Trace the trainer and end: it stays stopped for ever."""

    def attach():
        kernel.syscall("ptrace", _ATTACH, aim.host_pid, 0, 0)
        return True

    return {"attach": attach}


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _copy(name, pid, buffer):
    """Copy between a buffer and the place where another process has the same text."""
    ours = _Vector(ctypes.addressof(buffer), len(buffer))
    theirs = _Vector(_SAME_AT, len(buffer))
    return kernel.syscall(name, pid, ours, 1, theirs, 1, 0) == len(buffer)


def _steals(call, *then):
    """Get a descriptor, use it, and close it."""
    fd = call()
    try:
        return all(use(fd) for use in then)
    finally:
        os.close(fd)


def memory(aim):
    """Read and write the memory of others, take their open files, and compare what they have."""
    me = os.getpid()
    beginning = _SAME[:32].encode()

    def reads(pid):
        buffer = ctypes.create_string_buffer(len(beginning))
        return _copy("process_vm_readv", pid, buffer) and buffer.raw == beginning

    def pidfd(pid, *then):
        return _steals(lambda: kernel.syscall("pidfd_open", pid, 0), *then)

    def takes(handle):
        taken = kernel.syscall("pidfd_getfd", handle, aim.open_fd, 0)
        return _steals(lambda: taken, lambda fd: os.pread(fd, 64, 0) == aim.secret.encode())

    def advises(handle):
        place = _Vector(_SAME_AT & ~4095, 4096)
        return kernel.syscall("process_madvise", handle, place, 1, _MADV_COLD, 0) >= 0

    def asks_robust_list(pid):
        head, size = ctypes.c_void_p(), ctypes.c_size_t()
        kernel.syscall("get_robust_list", pid, ctypes.addressof(head), ctypes.addressof(size))
        return True

    attempts = {}
    for who, pid in _whom(aim).items():
        attempts |= {
            f"readv_{who}": lambda pid=pid: reads(pid),
            f"writev_{who}": lambda pid=pid: _copy(
                "process_vm_writev", pid, ctypes.create_string_buffer(beginning, len(beginning))
            ),
            f"pidfd_{who}": lambda pid=pid: pidfd(pid),
            f"kcmp_memory_{who}": lambda pid=pid: kernel.syscall("kcmp", me, pid, _KCMP_VM, 0, 0) >= 0,
            f"kcmp_files_{who}": lambda pid=pid: kernel.syscall("kcmp", me, pid, _KCMP_FILE, 0, 0) >= 0,
            f"robust_list_{who}": lambda pid=pid: asks_robust_list(pid),
            f"pages_{who}": lambda pid=pid: kernel.syscall("move_pages", pid, 0, None, None, None, 0) == 0,
            f"madvise_{who}": lambda pid=pid: pidfd(pid, advises),
        }
    return attempts | {
        "getfd_host": lambda: pidfd(aim.host_pid, takes),
        # Where no descriptor of a process is to be had, the calls are made with what is none.
        "getfd_of_nothing": lambda: _bad_descriptor("pidfd_getfd", -1, aim.open_fd, 0),
        "madvise_of_nothing": lambda: _bad_descriptor("process_madvise", -1, None, 0, _MADV_COLD, 0),
        "release_of_nothing": lambda: _bad_descriptor("process_mrelease", -1, 0),
    }


def _bad_descriptor(name, *args):
    return past(lambda: kernel.syscall(name, *args), errno.EBADF)


def sibling(aim):
    """Read and change what another plugin keeps in its scratch folder, and end that plugin."""
    note = os.path.join(aim.sibling_scratch, "note.txt")
    beside = os.path.join("..", os.path.basename(aim.sibling_scratch))

    def by_handle():
        folder = os.open(aim.sibling_scratch, os.O_PATH)
        return _steals(lambda: folder, lambda fd: opens("note.txt", dir_fd=fd))

    def renames():
        os.rename(note, f"{note}-moved")
        os.rename(f"{note}-moved", note)
        return True

    return {
        "list": lambda: os.listdir(aim.sibling_scratch),
        "list_by_dots": lambda: os.listdir(beside),
        "list_all": lambda: os.listdir(".."),
        "read": lambda: _read(note),
        "read_by_dots": lambda: _read(os.path.join(beside, "note.txt")),
        "read_by_handle": by_handle,
        "read_by_cwd": lambda: _read(f"/proc/{aim.sibling_pid}/cwd/note.txt"),
        "write": lambda: opens(note, os.O_WRONLY),
        "truncate": lambda: os.truncate(note, os.stat(note).st_size),
        "add": lambda: opens(os.path.join(aim.sibling_scratch, "added"), os.O_WRONLY | os.O_CREAT),
        "rename": renames,
        "lock": lambda: _locks(note),
        "kill_0": lambda: os.kill(aim.sibling_pid, 0),
        "kill": lambda: os.kill(aim.sibling_pid, 9),
    }


def _locks(path):
    """Hold the lock of a file that another waits for."""
    fd = os.open(path, os.O_RDONLY)
    return _steals(lambda: fd, lambda fd: kernel.syscall("flock", fd, 2 | 4) == 0)
