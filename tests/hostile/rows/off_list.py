"""What no list of attacks named: found by trying whatever the sandbox still let through."""

import ctypes
import errno
import os
import socket
import tempfile

from ringfence.isolation.policy import kernel

from .. import reasons
from ..row import Row

_INVALID = frozenset({errno.EINVAL})
_NOT_HERE = frozenset({errno.EOPNOTSUPP})
_NO_OPTION = frozenset({errno.ENOPROTOOPT})
_PEERPIDFD, _NETNS_COOKIE = 77, 71
_GETFLAGS, _GETVERSION = 0x80086601, 0x80087601
_FAST_OPEN = "/proc/sys/net/ipv4/tcp_fastopen"
_OTHERS_LIMITS = reasons.lacks("SYS_RESOURCE")


def _nameless():
    os.close(os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR, 0o600))


def _pidfd():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.close(ours.getsockopt(socket.SOL_SOCKET, _PEERPIDFD))


def _cookie_of_the_network():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.getsockopt(socket.SOL_SOCKET, _NETNS_COOKIE, 8)


def _asks(request):
    def attempt():
        with open(__file__, "rb") as file:
            kernel.syscall("ioctl", file.fileno(), request, ctypes.create_string_buffer(8))

    return attempt


def _droppable():
    kernel.syscall("mmap", 0, 4096, 3, kernel.MAP_DROPPABLE | kernel.MAP_ANONYMOUS, -1, 0)


_DROPPABLE = reasons.fails(_droppable)

ROWS = (
    Row("x1", "open files of a thread's own", "seccomp", "off_list:file_tables", also=_INVALID),
    Row(
        "x2",
        "change attributes of a file that may only be read",
        "seccomp",
        "off_list:file_flags",
        no_control=reasons.each(
            ("flags", "flags_high_bits"),
            reasons.fails(_asks(_GETFLAGS)) or reasons.lacks("FOWNER", anywhere=True),
        )
        | reasons.each(
            ("version",), reasons.fails(_asks(_GETVERSION)) or reasons.lacks("FOWNER", anywhere=True)
        ),
    ),
    Row(
        "x3",
        "ask the socket who is at its other end",
        "seccomp",
        "off_list:peer",
        also=_NO_OPTION,
        no_control=reasons.because({"process": reasons.fails(_pidfd)}),
    ),
    Row("x4", "ask the socket for the trainer's network", "seccomp", "off_list:interfaces"),
    Row(
        "x5",
        "change what the kernel does for one",
        "seccomp",
        "off_list:itself",
        also=_INVALID,
    ),
    Row("x6", "lock files that everybody reads", "seccomp", "off_list:library_locks"),
    Row("x7", "watch the clocks of others", "seccomp", "off_list:clocks", also=_INVALID),
    Row(
        "x8",
        "ask for groups, limits and priorities of others",
        "seccomp",
        "off_list:told_of_others",
        no_control=reasons.because({"limit_first": _OTHERS_LIMITS}),
    ),
    Row(
        "x9",
        "connect by sending",
        "seccomp",
        "off_list:fast_open",
        no_control=reasons.because({"new_socket": reasons.setting(_FAST_OPEN, "1", "3", "1027")}),
    ),
    Row(
        "x10",
        "files that no look finds",
        "seccomp",
        "off_list:nameless",
        also=_NOT_HERE,
        no_control=reasons.each(("here", "to_be_linked_never"), reasons.fails(_nameless)),
    ),
    Row(
        "x11",
        "have the trainer ended when memory is short",
        "landlock, process",
        "off_list:outlive",
    ),
    Row(
        "x12",
        "memory that is in no figure",
        "seccomp",
        "off_list:uncounted",
        no_control=reasons.each(("droppable", "droppable_high_bits"), _DROPPABLE),
    ),
    Row("x13", "interrupt the processors of others", "seccomp", "off_list:interrupts", also=_INVALID),
    Row("x14", "throw out pages that others use", "seccomp", "off_list:pages_of_others", also=_INVALID),
    Row(
        "x15",
        "read what the machine is called",
        "namespaces",
        "off_list:host_name",
        # Where no namespace is to be had the name is what it is.
        also=frozenset() if reasons.alone("--uts") else frozenset({0}),
    ),
    Row(
        "x16",
        "ask sockets for what the kernel keeps of them, and map what they receive",
        "seccomp",
        "off_list:options",
        also=_NO_OPTION,
        no_control=reasons.because({"network": reasons.fails(_cookie_of_the_network)}),
    ),
)
