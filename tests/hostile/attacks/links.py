"""The same secrets by other ways than their names, and files moved in and out of one's own folder."""

import contextlib
import ctypes
import os
import threading

from lowlevel import text

from ringfence.isolation.policy import kernel

_SECRET = ".ssh/id_ed25519"
_AT_SYMLINK_FOLLOW, _AT_EMPTY_PATH, _RENAME_EXCHANGE = 0x400, 0x1000, 2


def _take(aim, path, dir_fd=None):
    """Read a file; tell whether it held the secret."""
    fd = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
    try:
        return os.read(fd, 64) == aim.secret.encode()
    finally:
        os.close(fd)


@contextlib.contextmanager
def _opened(path, flags):
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _gone_after(path, make):
    """Make a name, and take it away again."""
    make(path)
    try:
        yield path
    finally:
        os.unlink(path)


@contextlib.contextmanager
def _moved(move):
    """Work elsewhere for a while."""
    with _opened(".", os.O_PATH) as here:
        try:
            move()
            yield
        finally:
            os.fchdir(here)


def _link_what_is_named(source, target):
    # Python's own os.link() does not follow, whatever it is told.
    return kernel.syscall("linkat", -100, text(source), -100, text(target), _AT_SYMLINK_FOLLOW) == 0


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _through_links(aim):
    secret = os.path.join(aim.home, _SECRET)

    def link(make, beyond=""):
        with _gone_after("way", make) as way:
            return _take(aim, way + beyond)

    def chain():
        with _gone_after("first", lambda path: os.symlink(aim.home, path)):
            return link(lambda path: os.symlink(f"first/{_SECRET}", path))

    def of_handle(call):
        with _opened(secret, os.O_PATH) as handle:
            return link(lambda path: call(handle, path))

    def empty_path(handle, path):
        at = kernel.syscall("linkat", handle, text(""), -100, text(path), _AT_EMPTY_PATH)
        return at == 0

    return {
        "symlink": lambda: link(lambda path: os.symlink(secret, path)),
        "symlink_to_folder": lambda: link(lambda path: os.symlink(aim.home, path), f"/{_SECRET}"),
        "symlink_to_symlink": chain,
        "hard_link": lambda: link(lambda path: os.link(secret, path)),
        "hard_link_of_handle": lambda: of_handle(
            lambda fd, path: _link_what_is_named(f"/proc/self/fd/{fd}", path)
        ),
        "hard_link_of_nameless_handle": lambda: of_handle(empty_path),
    }


def _through_handles(aim):
    secret = os.path.join(aim.home, _SECRET)

    def beside(flags, name=_SECRET):
        with _opened(aim.home, flags) as folder:
            return _take(aim, name, folder)

    def above():
        with _opened(".", os.O_PATH) as folder:
            return _take(aim, os.path.relpath(secret), folder)

    def again(way):
        with _opened(secret, os.O_PATH) as handle:
            return _take(aim, way.format(handle))

    def by_openat2():
        with _opened(aim.home, os.O_PATH) as folder:
            how = _How(os.O_RDONLY, 0, 0)
            fd = kernel.syscall("openat2", folder, text(_SECRET), how, ctypes.sizeof(how))
            try:
                return os.read(fd, 64) == aim.secret.encode()
            finally:
                os.close(fd)

    def from_inside(move):
        with _moved(move):
            return _take(aim, _SECRET)

    def enter_handle():
        with _opened(aim.home, os.O_PATH) as folder:
            return from_inside(lambda: os.fchdir(folder))

    def absolute():
        with _moved(lambda: os.chdir(aim.home)):
            return _take(aim, secret)

    return {
        "openat_folder": lambda: beside(os.O_RDONLY | os.O_DIRECTORY),
        "openat_handle_of_folder": lambda: beside(os.O_PATH | os.O_DIRECTORY),
        "openat_upwards": above,
        "openat2": by_openat2,
        "handle_reopened": lambda: again("/proc/self/fd/{}"),
        "handle_reopened_of_thread": lambda: again("/proc/thread-self/fd/{}"),
        "handle_reopened_of_device": lambda: again("/dev/fd/{}"),
        "chdir": lambda: from_inside(lambda: os.chdir(aim.home)),
        "fchdir_handle": enter_handle,
        "absolute_after_chdir": absolute,
    }


def _through_proc(aim):
    secret = os.path.join(aim.home, _SECRET)
    me, thread = os.getpid(), threading.get_native_id()
    ways = {
        "dots": os.path.relpath(secret),
        "many_dots": "../" * 40 + secret,
        "slashes": f"//.//{secret}",
        "own_root": f"/proc/self/root{secret}",
        "own_root_by_number": f"/proc/{me}/root{secret}",
        "thread_root": f"/proc/thread-self/root{secret}",
        "task_root": f"/proc/self/task/{thread}/root{secret}",
        "own_cwd": f"/proc/self/cwd/{os.path.relpath(secret)}",
        "task_cwd": f"/proc/{me}/task/{thread}/cwd/{os.path.relpath(secret)}",
        "host_root": f"/proc/{aim.host_pid}/root{secret}",
        "zygote_root": f"/proc/{aim.zygote_pid}/root{secret}",
        "sibling_cwd": f"/proc/{aim.sibling_pid}/cwd/{'../' * 40}{secret}",
    }
    return {name: lambda way=way: _take(aim, way) for name, way in ways.items()}


def escapes(aim):
    return _through_links(aim) | _through_handles(aim) | _through_proc(aim)


def _rename_back(source, target):
    os.rename(source, target)
    os.rename(target, source)
    return True


def _exchange(one, other):
    """Swap two files, twice."""
    for _ in range(2):
        kernel.syscall("renameat2", -100, text(one), -100, text(other), _RENAME_EXCHANGE)
    return True


def moves(aim):
    """Carry files over the edge of the scratch folder, in both directions."""
    outside = os.path.join(aim.home, "brought")
    secret = os.path.join(aim.home, _SECRET)
    with open("own", "w") as file:
        file.write("own")
    os.makedirs("folder", exist_ok=True)

    def link_out():
        os.link("own", outside)
        os.unlink(outside)

    def nameless():
        with _opened(".", os.O_TMPFILE | os.O_RDWR) as fd:
            _link_what_is_named(f"/proc/self/fd/{fd}", outside)
        os.unlink(outside)

    def to_handle():
        with _opened(aim.home, os.O_PATH) as folder:
            os.rename("own", "brought", dst_dir_fd=folder)
            os.rename("brought", "own", src_dir_fd=folder)

    def take_in():
        os.rename(secret, "stolen")
        try:
            return _take(aim, "stolen")
        finally:
            os.rename("stolen", secret)

    return {
        "rename_out": lambda: _rename_back("own", outside),
        "rename_folder_out": lambda: _rename_back("folder", outside),
        "rename_to_handle": to_handle,
        "rename_to_sibling": lambda: _rename_back("own", os.path.join(aim.sibling_scratch, "brought")),
        "link_out": link_out,
        "link_nameless_out": nameless,
        "exchange": lambda: _exchange("own", secret),
        "rename_in": take_in,
        "rename_folder_in": lambda: _rename_back(os.path.join(aim.home, ".ssh"), "stolen"),
        "rename_inside_home": lambda: _rename_back(secret, outside),
    }
