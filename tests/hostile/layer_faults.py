"""Run as a program: start sandboxes on a machine that lacks something, and say what became of them.

``python layer_faults.py`` reads one JSON object a line: ``{"fault": NAME, "folder": PATH}``, and answers
each with one line of JSON. A fault is real: a system call filter around all of ringfence that refuses a call,
or answers that it was done and does nothing; a file system that is full, read-only or not there; a limit
on processes. Each is made in a process of its own, forked from one that has torch imported.
"""

import ctypes
import errno
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from seccompy import Action, ArgCmp, CmpOp, Filter, FilterFlag

from ringfence.cli.doctor_page import print_diagnosis
from ringfence.hooks.errors import RingfenceError, SandboxUnavailableError
from ringfence.hooks.types import StepInfo, TensorMap
from ringfence.isolation.doctor import diagnose
from ringfence.isolation.host.limits import cgroup, scratch_place
from ringfence.isolation.policy import kernel
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec

PLUGINS = str(Path(__file__).parents[1] / "isolation" / "plugins")
PR_SET_CHILD_SUBREAPER = 36
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
SECCOMP_SET_MODE_FILTER = 1
#: A file that no filter lets anybody close.
STUCK_FD = 77
_LEAST_S = 60.0


class CannotMakeError(Exception):
    """This machine, or this user, has no way to make the fault."""


# how a fault is made


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def answer(name, error, *conditions):
    """Have the system call answer ``error`` and do nothing; 0 says that it was done."""

    def make():
        outer = Filter(default=Action.ALLOW)
        outer.errno(name, error, args=list(conditions) or None)
        load(outer)

    return make


def load(outer):
    """Load a filter; as root without no_new_privs, which is one of the layers to look at."""
    program = outer.program
    buffer = _Program(len(program) // 8, program)
    try:
        kernel.syscall("seccomp", SECCOMP_SET_MODE_FILTER, 0, buffer)
    except PermissionError:
        outer.load()


def lie_about_no_new_privs():
    if os.geteuid() != 0:
        raise CannotMakeError("only root can have a filter without no_new_privs")
    answer("prctl", 0, option(kernel.PR_SET_NO_NEW_PRIVS))()


def both(*makers):
    def make():
        for maker in makers:
            maker()

    return make


def option(number):
    return ArgCmp(0, CmpOp.EQ, number)


def own_namespaces(kinds):
    """Move into namespaces of our own; an ordinary user gets a user namespace for it."""
    uid, gid = os.getuid(), os.getgid()
    try:
        kernel.syscall("unshare", kinds)
    except OSError:
        try:
            kernel.syscall("unshare", kinds | kernel.CLONE_NEWUSER)
        except OSError as error:
            raise CannotMakeError(f"no namespaces: {error.strerror}") from error
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def own_mounts(*, processes=False):
    """Have mounts of our own, which change nothing outside; and processes of our own, if need be."""
    own_namespaces(kernel.CLONE_NEWNS | (kernel.CLONE_NEWPID if processes else 0))
    mount("none", "/", "", MS_REC | MS_PRIVATE)


def mount(source, target, kind, flags=0, options=""):
    words = [ctypes.create_string_buffer(word.encode()) for word in (source, target, kind, options)]
    try:
        kernel.syscall("mount", words[0], words[1], words[2] if kind else None, flags, words[3])
    except OSError as error:
        raise CannotMakeError(f"mount of {kind or source} on {target}: {error.strerror}") from error


def unmount(target):
    kernel.syscall("umount2", ctypes.create_string_buffer(str(target).encode()), MNT_DETACH)


def mounted_below(top):
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = {line.split()[4] for line in lines}
    return sorted((path for path in found if path == top or path.startswith(f"{top}/")), key=len)


def cgroup_mounts():
    found = mounted_below("/sys/fs/cgroup")
    if not found:
        raise CannotMakeError("there are no cgroups as it is")
    return found


def no_cgroups():
    own_mounts()
    for path in reversed(cgroup_mounts()):
        try:
            unmount(path)
        except OSError as error:  # those of another user's namespace are locked together
            raise CannotMakeError(f"umount of {path}: {error.strerror}") from error


def read_only_cgroups():
    own_mounts()
    for path in cgroup_mounts():
        mount("none", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY)


def no_proc():
    own_mounts()
    mount("tmpfs", "/proc", "tmpfs")


def new_proc(options):
    """Have a ``/proc`` that tells less."""

    def make():
        own_mounts(processes=True)
        _go_on_in_a_child()
        mount("proc", "/proc", "proc", 0, options)

    return make


def no_accounts():
    own_mounts()
    mount("tmpfs", "/etc", "tmpfs")


def no_home():
    no_accounts()
    os.environ.pop("HOME", None)


def no_shared_memory():
    """Have a ``/dev`` as a small container has it."""
    own_mounts()
    names = ("null", "zero", "urandom", "random", "tty")
    kept = {name: os.open(f"/dev/{name}", os.O_PATH) for name in names if Path(f"/dev/{name}").exists()}
    mount("tmpfs", "/dev", "tmpfs")
    for name, fd in kept.items():
        Path(f"/dev/{name}").touch()
        mount(f"/proc/self/fd/{fd}", f"/dev/{name}", "", MS_BIND)
        os.close(fd)


def foreign_proc():
    """Have ``/proc`` tell of processes by other numbers than ours."""
    own_namespaces(kernel.CLONE_NEWPID)
    _go_on_in_a_child()


def _go_on_in_a_child():
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status))


def temporary_folder(options):
    """Have all folders for temporary files be small ones."""

    def make():
        own_mounts()
        for folder in filter(Path.is_dir, scratch_place.scratch_parents()):
            mount("tmpfs", str(folder), "tmpfs", 0, options)

    return make


def stuck_file():
    """Leave a file open that can be closed by nobody, and inherited by all."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, STUCK_FD, inheritable=True)
    os.close(null)
    answer("close_range", errno.ENOSYS)()


def no_more_tasks():
    """Let there be the processes and threads of a sandbox without workers, and no other."""
    groups = cgroup.own_groups()
    parent = groups.get("pids") or groups.get("")
    if parent is None:
        raise CannotMakeError("no cgroup file system")
    folder = parent / f"test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "pids.max").write_text("max")
        (folder / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise CannotMakeError(f"no cgroup of its own: {error.strerror}") from error
    with Sandbox():
        needed = (folder / "pids.current").read_text()
    (folder / "pids.max").write_text(needed)


def limit(kind, value):
    return lambda: resource.setrlimit(kind, (value, value))


_UNREAD = []


def unanswered(name):
    """Have the system call wait for ever: a supervisor is to decide, and never does."""

    def make():
        outer = Filter(default=Action.ALLOW, flags=FilterFlag.NEW_LISTENER)
        outer.notify(name)
        _UNREAD.append(outer.load())  # open in this process, and never read

    return make


def no_torch():
    own_mounts()
    mount("tmpfs", str(Path(torch.__file__).parent), "tmpfs")


def broken_interpreter():
    own_mounts()
    mount(os.devnull, str(Path(sys.executable).resolve()), "", MS_BIND)


NO_SECCOMP = both(
    answer("prctl", errno.EINVAL, option(kernel.PR_SET_SECCOMP)), answer("seccomp", errno.ENOSYS)
)
NEW_VALUE = ArgCmp(2, CmpOp.NE, 0)  # of prlimit64; without one it only asks
SOME = ArgCmp(0, CmpOp.NE, 0)  # of unshare; a probe asks for none
THREAD = ArgCmp(0, CmpOp.MASKED_EQ, kernel.CLONE_THREAD, kernel.CLONE_THREAD)
PROCESS = ArgCmp(0, CmpOp.MASKED_EQ, 0, kernel.CLONE_THREAD)

#: Name to what makes it.
FAULTS = {
    "none": lambda: None,
    "landlock is not in the kernel": answer("landlock_create_ruleset", errno.ENOSYS),
    "landlock is switched off": answer("landlock_create_ruleset", errno.EOPNOTSUPP),
    "landlock is refused": answer("landlock_create_ruleset", errno.EPERM),
    "a landlock rule is refused": answer("landlock_add_rule", errno.EINVAL),
    "landlock is not enforced": answer("landlock_restrict_self", errno.E2BIG),
    "landlock does nothing": answer("landlock_restrict_self", 0),
    "seccomp is not in the kernel": NO_SECCOMP,
    "seccomp is refused": answer("seccomp", errno.EACCES),
    "seccomp does nothing": answer("seccomp", 0),
    "capabilities cannot be dropped": answer("capset", errno.EPERM),
    "dropping capabilities does nothing": answer("capset", 0),
    "no_new_privs is refused": answer("prctl", errno.EINVAL, option(kernel.PR_SET_NO_NEW_PRIVS)),
    "no_new_privs does nothing": lie_about_no_new_privs,
    "namespaces are refused": answer("unshare", errno.EPERM, SOME),
    "namespaces are used up": answer("unshare", errno.ENOSPC, SOME),
    "namespaces do nothing": answer("unshare", 0, SOME),
    "limits are refused": answer("prlimit64", errno.EPERM, NEW_VALUE),
    "limits do nothing": answer("prlimit64", 0, NEW_VALUE),
    "memory is limited from outside": limit(resource.RLIMIT_DATA, 1 << 30),
    "torch cannot be imported": no_torch,
    "a file cannot be closed": both(stuck_file, answer("close", errno.EIO, ArgCmp(0, CmpOp.EQ, STUCK_FD))),
    "closing a file does nothing": both(stuck_file, answer("close", 0, ArgCmp(0, CmpOp.EQ, STUCK_FD))),
    "the folder cannot be changed": answer("chdir", 0),
    "the end of the parent is not told": answer("prctl", errno.EINVAL, option(kernel.PR_SET_PDEATHSIG)),
    "the end of the parent is not told, it says": answer("prctl", 0, option(kernel.PR_SET_PDEATHSIG)),
    "a session of its own is not made": answer("setsid", 0),
    "cgroups are not mounted": no_cgroups,
    "cgroups are read-only": read_only_cgroups,
    "proc is not mounted": no_proc,
    "proc is of other processes": foreign_proc,
    "proc hides other processes": new_proc("hidepid=invisible"),
    "proc tells of processes alone": new_proc("subset=pid"),
    "there are no accounts": no_accounts,
    "there is no home": no_home,
    "there is no shared memory": no_shared_memory,
    "folders cannot be made": both(answer("mkdir", errno.EROFS), answer("mkdirat", errno.EROFS)),
    "the disk is full": temporary_folder("size=4k"),
    "no more files on the disk": temporary_folder("nr_inodes=4"),
    "no room for a scratch folder": temporary_folder("nr_inodes=3"),
    "no thread can be started": both(answer("clone3", errno.ENOSYS), answer("clone", errno.EAGAIN, THREAD)),
    "no process can be started": both(
        answer("clone3", errno.ENOSYS), answer("vfork", errno.EAGAIN), answer("clone", errno.EAGAIN, PROCESS)
    ),
    "no worker can be forked": no_more_tasks,
    "the interpreter cannot be run": broken_interpreter,
    "a supervisor decides on other calls": unanswered("acct"),
    "a probe hangs": unanswered("capget"),
}


# what is looked at


def examine(fault):
    """Return what the doctor says, what a plugin's start comes to, and what is left afterwards."""
    FAULTS[fault]()
    try:
        with Sandbox() as sandbox:
            diagnosis = diagnose(sandbox=sandbox)
            plugin = try_plugin(sandbox)
    except SandboxUnavailableError as error:
        plugin = refusal(error)
        diagnosis = diagnose()  # has to meet the same
    return {
        "doctor": diagnosis.to_dict(),
        "printed": printed(diagnosis),
        "plugin": plugin,
        "left": left_behind(),
    }


def printed(diagnosis):
    screen = io.StringIO()
    print_diagnosis(diagnosis, Console(file=screen, width=1000))
    return screen.getvalue()


def try_plugin(sandbox):
    paths = {"search_path": (PLUGINS,), "readable": (PLUGINS,)}
    spec = PluginSpec("halve", "tests", "1.0", "obedient", "Halve", "gradient", **paths)
    try:
        plugin = sandbox.start(spec)
    except RingfenceError as error:
        return refusal(error)
    gradients = TensorMap.like({"weight": torch.ones(3)})
    gradients["weight"].fill_(1.0)
    halved = plugin.call("backward", {"gradients": gradients}, StepInfo(0))
    return {
        "answer": halved["weight"].tolist(),
        "layers": {layer.name: layer.status for layer in plugin.layers},
    }


def refusal(error):
    return {"error": type(error).__name__, "message": str(error)}


def left_behind():
    """Return processes and files that are still there."""
    deadline = time.monotonic() + 30
    running = True
    while running and time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            running = False
        else:
            time.sleep(0 if pid else 0.02)
    return {"processes": running, "files": os.listdir(tempfile.gettempdir())}


def child(request, out):
    os.environ["TMPDIR"] = request["folder"]
    tempfile.tempdir = None
    kernel.prctl(PR_SET_CHILD_SUBREAPER, 1)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        result = examine(request["fault"])
    except CannotMakeError as error:
        result = {"skip": str(error)}
    os.write(out, json.dumps(result).encode())


def cgroups():
    """Return the control groups of this machine; those of other tests come and go meanwhile."""
    return [path for path, _, _ in os.walk("/sys/fs/cgroup")]


def serve(request):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            child(request, writer)
            status = 0
        except BaseException as error:
            os.write(writer, json.dumps({"raised": f"{type(error).__name__}: {error}"}).encode())
            raise
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        result = json.loads(answers.read() or b"{}")
    os.waitpid(pid, 0)
    result["cgroups"] = [path for path in cgroups() if f"/ringfence-{pid}-" in path]
    for path in cgroups():
        if path.endswith(f"/test-{pid}"):
            os.rmdir(path)
    return result


def main():
    for line in sys.stdin:
        sys.stdout.write(json.dumps(serve(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
