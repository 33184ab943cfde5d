"""Machine code: calls as no library makes them, in memory of our own or in a library of our own.

``call(number, …)`` makes a system call. ``spawn(number, …)`` does too, and where it returns a
second time, in a child that may share our stack, ends that child at once. ``old(number, …)``
makes one as programs for 32 bits do.
"""

import ctypes
import errno
import mmap
import os
import struct

_X86_64 = {
    "call": "4889f8 4889f7 4889d6 4889ca 4d89c2 4d89c8 4c8b4c2408 0f05 c3",
    # … test rax, rax; jz child; ret; child: exit_group(0)
    "spawn": "4889f8 4889f7 4889d6 4889ca 4d89c2 4d89c8 4c8b4c2408 0f05 4885c0 7401 c3 31ff b8e7000000 0f05",
    "old": "53 89f8 89f3 89d1 31d2 cd80 5b 4898 c3",
}
_ARM = "e80300aa e00301aa e10302aa e20303aa e30304aa e40305aa e50306aa 010000d4"
_AARCH64 = {"call": f"{_ARM} c0035fd6", "spawn": f"{_ARM} 400000b4 c0035fd6 c80b80d2 010000d4"}
_CODE = {"x86_64": _X86_64, "aarch64": _AARCH64}
_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}
_CODE_AT, _SYMBOLS_AT, _STRINGS_AT, _HASH_AT, _DYNAMIC_AT, _END = 256, 320, 368, 376, 400, 496

_kept = []


def code(name):
    """Return the instructions of a function.

    Raises:
        OSError: There are none for this processor (ENOSYS).
    """
    try:
        return bytes.fromhex(_CODE[os.uname().machine][name])
    except KeyError:
        raise OSError(errno.ENOSYS, f"no code for '{name}' on {os.uname().machine}") from None


def function(address):
    """Return the function at an address; it raises ``OSError`` for what the kernel refuses."""
    raw = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 7)(address)

    def made(number, *args):
        result = raw(number, *(*args, 0, 0, 0, 0, 0, 0)[:6])
        if -4096 < result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    return made


def in_memory(name):
    """Return a function that lies in memory of our own."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
    memory.write(code(name))
    return in_mapping(memory)


def in_mapping(memory):
    """Return the function that a mapping begins with."""
    _kept.append(memory)
    return function(ctypes.addressof(ctypes.c_char.from_buffer(memory)))


def in_library(path):
    """Write a library that holds one function, load it, and return the function."""
    with open(path, "wb") as file:
        file.write(library(code("call")))
    loaded = ctypes.CDLL(os.path.abspath(path))
    os.unlink(path)
    _kept.append(loaded)
    return function(ctypes.cast(loaded.call, ctypes.c_void_p).value)


def library(instructions):
    """Return the least of a shared library: one segment, one symbol, ``call``."""
    header = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        *("<HHIQQQIHHHHHH", 3, _ELF_MACHINE[os.uname().machine], 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)
    )
    segments = (
        struct.pack("<IIQQQQQQ", 1, 7, 0, 0, 0, _END, _END, 4096),
        struct.pack("<IIQQQQQQ", 2, 6, _DYNAMIC_AT, _DYNAMIC_AT, _DYNAMIC_AT, 96, 96, 8),
        struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16),
    )
    symbol = struct.pack("<IBBHQQ", 1, 0x12, 0, 1, _CODE_AT, len(instructions))
    dynamic = ((4, _HASH_AT), (5, _STRINGS_AT), (6, _SYMBOLS_AT), (10, 6), (11, 24), (0, 0))
    parts = {
        0: header + b"".join(segments),
        _CODE_AT: instructions,
        _SYMBOLS_AT + 24: symbol,
        _STRINGS_AT: b"\0call\0",
        _HASH_AT: struct.pack("<5I", 1, 2, 1, 0, 0),
        _DYNAMIC_AT: b"".join(struct.pack("<QQ", *entry) for entry in dynamic),
    }
    image = bytearray(_END)
    for at, part in parts.items():
        image[at : at + len(part)] = part
    return bytes(image)
