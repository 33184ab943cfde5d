"""Search memory of one's own for what another process had in it."""

import ctypes
import os
import re

from ringfence.isolation.policy import kernel

_CHUNK = 1 << 22
_PIPE = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)
_libc.write.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)


def mappings():
    """Yield (start, end, permissions, name) of everything mapped."""
    with open("/proc/self/maps") as file:
        for line in file:
            place, permissions, _, _, _, *name = line.split(maxsplit=5)
            start, end = (int(number, 16) for number in place.split("-"))
            yield start, end, permissions, name[0].strip() if name else ""


def _worth_a_look(permissions, name):
    """Leave out what is only what lies on the disk, and pages that the kernel alone fills."""
    if "r" not in permissions or name.startswith(("[v", "[uprobes")):
        return False
    return "w" in permissions or not name.startswith("/") or name.startswith(("/memfd", "/dev"))


def search(read, halves):
    """Return whether the two halves lie one after the other anywhere; they are joined nowhere here.

    Args:
        read: ``(address, size)`` to bytes, as many as could be read.
        halves: Text, in two parts.
    """
    first, second = (half.encode() for half in halves)
    pattern = re.compile(re.escape(first))
    overlap = len(first) + len(second)
    for start, end, permissions, name in mappings():
        if not _worth_a_look(permissions, name):
            continue
        for at in range(start, end, _CHUNK):
            data = read(at, min(_CHUNK + overlap, end - at))
            if any(data.startswith(second, found.end()) for found in pattern.finditer(data)):
                return True
    return False


def _by_pointer():
    """Read by handing the kernel pointers: one that leads nowhere is an error, not a signal."""
    reader, writer = os.pipe()

    def read(address, size):
        parts = []
        for at in range(address, address + size, _PIPE):
            got = _libc.write(writer, at, min(_PIPE, address + size - at))
            if got <= 0:
                break
            parts.append(os.read(reader, got))
        return b"".join(parts)

    return read


def _by_proc():
    fd = os.open("/proc/self/mem", os.O_RDONLY)

    def read(address, size):
        try:
            return os.pread(fd, size, address)
        except OSError:  # a page that nobody can read
            return b""

    return read


def _by_process():
    def read(address, size):
        buffer = ctypes.create_string_buffer(size)
        ours = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), size)
        theirs = (ctypes.c_size_t * 2)(address, size)
        got = kernel.syscall("process_vm_readv", os.getpid(), ours, 1, theirs, 1, 0)
        return buffer.raw[:got]

    return read


def canary(aim):
    """Look for what the trainer alone has in its memory."""
    return {
        "pointer": lambda: search(_by_pointer(), aim.canary),
        "proc": lambda: search(_by_proc(), aim.canary),
        "process": lambda: search(_by_process(), aim.canary),
    }


def environment(aim):
    """Look for the trainer's variables: where they are kept, and anywhere in memory."""
    names = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "SSH_AUTH_SOCK", "LD_PRELOAD")
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    attempts = {f"dictionary_{name}": lambda name=name: name in os.environ for name in names}
    attempts |= {
        f"library_{name}": lambda name=name: libc.getenv(name.encode()) is not None for name in names
    }
    return attempts | {
        "others": lambda: bool(os.environ.keys() - DOCUMENTED),
        "array": lambda: bool(_array() - DOCUMENTED),
        "bytes": lambda: b"HF_TOKEN" in os.environb,
        "own_proc": lambda: _names("/proc/self/environ"),
        "host_proc": lambda: _names(f"/proc/{aim.host_pid}/environ"),
        "zygote_proc": lambda: _names(f"/proc/{aim.zygote_pid}/environ"),
        # As it stands in memory, and in no text of this file.
        "stack": lambda: search(_by_pointer(), ("AWS_SECRET_ACC", "ESS_KEY=")),
    }


#: All that a plugin's environment has.
DOCUMENTED = frozenset(
    (
        *("PATH", "LANG", "HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"),
        *("USER", "LOGNAME", "NO_ALBUMENTATIONS_UPDATE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        *("MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM", "NUMEXPR_MAX_THREADS", "NUMBA_NUM_THREADS"),
        *("POLARS_MAX_THREADS", "RAYON_NUM_THREADS"),
    )
)


def _array():
    """Return the names in the C library's own list."""
    entries = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    names, at = set(), 0
    while entries and entries[at]:
        names.add(entries[at].partition(b"=")[0].decode())
        at += 1
    return names


def _names(path):
    with open(path, "rb") as file:
        return {entry.partition(b"=")[0] for entry in file.read().split(b"\0")} or True
