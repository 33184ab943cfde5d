"""Change what others run or start with; what succeeds is undone, or changes nothing."""

import ctypes
import fcntl
import importlib.util
import os
import stat

from lowlevel import makes, opens, text

from ringfence.isolation.policy import kernel

_SECRET = ".ssh/id_ed25519"
_FS_IOC_SETFLAGS, _FS_IOC_GETFLAGS = 0x40086602, 0x80086601
_RENAME_WHITEOUT = 4

#: What a shell, an interpreter or a server reads when its user next starts it.
STARTED = (".bashrc", ".profile", ".ssh/authorized_keys", ".config/usercustomize.py", ".aws/config")


def _makes_folder(path):
    os.mkdir(path)
    os.rmdir(path)
    return True


def _makes_link(path):
    os.symlink("/nowhere", path)
    os.unlink(path)
    return True


def _package_file(name):
    return importlib.util.find_spec(name).origin


def packages(aim):
    """Put code where every Python of this environment finds it."""
    new = os.path.join(aim.packages, f"ringfence-hostile-{os.getpid()}")
    installed = _package_file("msgspec")
    return {
        "new_pth": lambda: makes(f"{new}.pth"),
        "new_module": lambda: makes(f"{new}.py"),
        "new_folder": lambda: _makes_folder(new),
        "new_link": lambda: _makes_link(new),
        "installed": lambda: opens(installed, os.O_WRONLY),
        "installed_appended": lambda: opens(installed, os.O_WRONLY | os.O_APPEND),
        "installed_renamed": lambda: _renames(installed),
        "compiled": lambda: makes(os.path.join(os.path.dirname(installed), "hostile.pyc")),
        "beside_the_library": lambda: makes(os.path.join(os.path.dirname(os.__file__), "hostile.py")),
        "the_library": lambda: opens(os.__file__, os.O_WRONLY),
        "ringfence": lambda: opens(_package_file("ringfence.isolation.worker.layers.seccomp"), os.O_RDWR),
    }


def _renames(path):
    """Take a file from its place, and put it back."""
    os.rename(path, f"{path}-moved")
    os.rename(f"{path}-moved", path)
    return True


def homes(aim):
    """Leave something that runs when the user next logs in, and spoil data and checkpoints."""
    data = os.path.join(aim.project, "data.bin")
    attempts = {
        f"new{name.replace('/', '-')}": lambda name=name: makes(os.path.join(aim.home, name))
        for name in STARTED
    }
    attempts |= {
        f"new_in{folder.replace('/', '-')}": lambda folder=folder: makes(f"{folder}/hostile-{os.getpid()}")
        for folder in ("/tmp", "/var/tmp", "/dev/shm")
        if os.path.isdir(folder)
    }
    return attempts | {
        "new_folder": lambda: _makes_folder(os.path.join(aim.home, ".autostart")),
        "new_link": lambda: _makes_link(os.path.join(aim.home, ".pythonrc")),
        "open_for_writing": lambda: opens(data, os.O_WRONLY),
        "open_for_both": lambda: opens(data, os.O_RDWR),
        "append": lambda: opens(data, os.O_WRONLY | os.O_APPEND),
        "checkpoint": lambda: opens(os.path.join(aim.project, "checkpoint.safetensors"), os.O_WRONLY),
        "job": lambda: opens(os.path.join(aim.project, "job.yaml"), os.O_WRONLY),
        "remove_and_restore": lambda: _renames(data),
        "nameless_in_tmp": lambda: opens("/tmp", os.O_TMPFILE | os.O_WRONLY),
    }


def own_code(aim):
    """Change the plugin's own code, so that the next run has other code than was looked at."""
    own = os.path.join(aim.code, "tampering.py")
    return {
        "write": lambda: opens(own, os.O_WRONLY),
        "append": lambda: opens(own, os.O_WRONLY | os.O_APPEND),
        "new_module": lambda: makes(os.path.join(aim.code, "hostile_more.txt")),
        "new_folder": lambda: _makes_folder(os.path.join(aim.code, "hostile_more")),
        "through_handle": lambda: _reopens(own),
        "rename": lambda: _renames(own),
    }


def _reopens(path):
    handle = os.open(path, os.O_PATH)
    try:
        return opens(f"/proc/self/fd/{handle}", os.O_WRONLY)
    finally:
        os.close(handle)


def facts_of_files(aim):
    """Change who owns a file, who may read it, when it changed, how long it is: to what it is already."""
    secret = os.path.join(aim.home, _SECRET)
    was = os.stat(secret)
    flags = ctypes.c_int()

    def on_fd(change):
        # A file of its own does as well: no other call looks at the file first.
        fd = os.open("own", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            change(fd)
        finally:
            os.close(fd)
            os.unlink("own")

    def attribute(set_it, remove_it):
        set_it()
        remove_it()

    return {
        "chmod": lambda: os.chmod(secret, was.st_mode & 0o7777),
        "chmod_setuid": lambda: on_fd(lambda fd: os.chmod("own", 0o4755)),
        "fchmod": lambda: on_fd(lambda fd: os.fchmod(fd, 0o6755)),
        "fchmodat2": lambda: kernel.syscall("fchmodat2", -100, text(secret), was.st_mode & 0o7777, 0),
        "chown": lambda: os.chown(secret, was.st_uid, was.st_gid),
        "fchown": lambda: on_fd(lambda fd: os.fchown(fd, os.getuid(), os.getgid())),
        "utime": lambda: os.utime(secret, ns=(was.st_atime_ns, was.st_mtime_ns)),
        "truncate": lambda: os.truncate(secret, was.st_size),
        "open_and_empty": _empties,
        "setxattr": lambda: attribute(
            lambda: os.setxattr(secret, "user.hostile", b"1"), lambda: os.removexattr(secret, "user.hostile")
        ),
        "fsetxattr": lambda: on_fd(lambda fd: os.setxattr(fd, "user.hostile", b"1")),
        "mark_file": lambda: on_fd(
            lambda fd: attribute(
                lambda: fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags),
                lambda: fcntl.ioctl(fd, _FS_IOC_SETFLAGS, flags),
            )
        ),
        "mkfifo": lambda: (os.mkfifo("fifo"), os.unlink("fifo")),
        "mksocket": lambda: (os.mknod("node", 0o140600), os.unlink("node")),
        "mkdevice": lambda: (os.mknod("device", 0o020600, os.makedev(1, 3)), os.unlink("device")),
    }


def modes(aim):
    """Have the trainer, which changes modes of files in scratch, change those of others: to what they are."""
    own_code = os.path.join(aim.code, "tampering.py")
    note = os.path.join(aim.sibling_scratch, "note.txt")

    def on(path, change, flags=os.O_RDONLY):
        fd = os.open(path, flags)
        try:
            change(fd, stat.S_IMODE(os.fstat(fd).st_mode))
        finally:
            os.close(fd)

    def by_link(path):
        os.symlink(path, "to-others")
        try:
            os.chmod("to-others", stat.S_IMODE(os.stat(path).st_mode))
        finally:
            os.unlink("to-others")

    return {
        "by_descriptor": lambda: on(own_code, os.fchmod),
        "by_handle": lambda: on(own_code, lambda fd, mode: os.chmod(f"/proc/self/fd/{fd}", mode), os.O_PATH),
        "by_link": lambda: by_link(own_code),
        "of_a_secret": lambda: by_link(os.path.join(aim.home, _SECRET)),
        "of_a_sibling": lambda: os.chmod(note, stat.S_IMODE(os.stat(note).st_mode)),
        "of_a_device": lambda: on("/dev/null", os.fchmod),
        "of_its_folder": lambda: on(".", os.fchmod),
    }


def left_behind(aim):
    """Leave, where one may write, what runs as its owner, what anybody may change, and a device."""

    def made(mode, wanted, make):
        make("left", mode)
        try:
            return os.lstat("left").st_mode & wanted == wanted
        finally:
            (os.rmdir if os.path.isdir("left") else os.unlink)("left")

    def for_all(mode, make):
        mask = os.umask(0)
        try:
            return made(mode, 0o022, make)
        finally:
            os.umask(mask)

    def create(path, mode):
        os.close(kernel.syscall("creat", text(path), mode))

    def open_(path, mode):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))

    def whiteout():
        open_("moved", 0o600)
        try:
            kernel.syscall("renameat2", -100, text("moved"), -100, text("away"), _RENAME_WHITEOUT)
            return stat.S_ISCHR(os.lstat("moved").st_mode)
        finally:
            os.unlink("moved")
            if os.path.exists("away"):
                os.unlink("away")

    return {
        "set_uid": lambda: made(0o4755, stat.S_ISUID, open_),
        "set_gid": lambda: made(0o2755, stat.S_ISGID, open_),
        "set_uid_created": lambda: made(0o4755, stat.S_ISUID, create),
        "sticky_folder": lambda: made(0o1777, stat.S_ISVTX, os.mkdir),
        "file_for_all": lambda: for_all(0o666, open_),
        "folder_for_all": lambda: for_all(0o777, os.mkdir),
        "whiteout": whiteout,
    }


def _empties():
    """Empty a file that was opened for reading only."""
    with open("full", "w") as file:
        file.write("full")
    try:
        opens("full", os.O_RDONLY | os.O_TRUNC)
        return os.path.getsize("full") == 0
    finally:
        os.unlink("full")
