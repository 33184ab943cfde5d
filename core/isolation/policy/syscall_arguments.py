"""System calls whose arguments decide whether a plugin may make them.

Where the harmless arguments are few and known, they are listed and all others are refused.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from typing import NamedTuple

from seccompy import ArgCmp, CmpOp

from . import kernel
from .syscalls import (
    CHANGE_SYSTEMS,
    OPEN_A_CONNECTION,
    RAISE_LIMITS,
    REACH_KERNEL,
    SIGNAL,
    SIGNALS,
    START_A_PROCESS,
    TOLD,
    USE_A_TERMINAL,
)

_LOW = 0xFFFFFFFF


class Rule(NamedTuple):
    """A rule on a call's arguments; of several rules for one call the first that fits decides.

    Attributes:
        call: Its name.
        then: An error that it gets in silence, 0 if it is said to have been done; what was tried, in
            words, if it gets EPERM and is told; or None if it is allowed.
        when: All of them must hold of its arguments; masked or whole equality, or its contrary.
    """

    call: str
    then: int | str | None
    when: tuple[ArgCmp, ...] = ()

    def fits(self, arguments: Sequence[int]) -> bool:
        """Tell whether the rule speaks of a call with these arguments, as the kernel would."""
        return all(
            ((arguments[each.index] & each.mask) == each.value) is not (each.op is CmpOp.NE)
            for each in self.when
        )


def _bits(index: int, value: int, mask: int) -> ArgCmp:
    """Match when the bits ``mask`` of an argument equal ``value``."""
    return ArgCmp(index, CmpOp.MASKED_EQ, value, mask)


def _low(index: int, value: int) -> ArgCmp:
    """Match on the low 32 bits: the kernel reads no more of an int (CVE-2019-10063)."""
    return _bits(index, value, _LOW)


def _only(call: str, index: int, values: tuple[int, ...], otherwise: int) -> tuple[Rule, ...]:
    """Allow these values of an int argument, and refuse all others in silence."""
    return (*(Rule(call, None, (_low(index, value),)) for value in values), Rule(call, otherwise))


def _only_options(
    call: str, options: tuple[tuple[int, tuple[int, ...]], ...], otherwise: int
) -> tuple[Rule, ...]:
    """Allow these options of sockets, by level; refuse all others in silence."""
    allowed = ((level, option) for level, those in options for option in those)
    return (
        *(Rule(call, None, (_low(1, level), _low(2, option))) for level, option in allowed),
        Rule(call, otherwise),
    )


def _only_flags(call: str, index: int, flags: int, otherwise: int | str, *also: ArgCmp) -> tuple[Rule, ...]:
    """Allow these flags, in any combination, where ``also`` holds; refuse the call otherwise."""
    return Rule(call, None, (_bits(index, 0, _LOW & ~flags), *also)), Rule(call, otherwise)


def _all_but(call: str, *refused: tuple[int | str, tuple[ArgCmp, ...]]) -> tuple[Rule, ...]:
    """Refuse a call with these arguments; allow it otherwise."""
    return (*(Rule(call, then, when) for then, when in refused), Rule(call, None))


def _without_marks(call: str, mode: int, *unless: ArgCmp) -> tuple[Rule, ...]:
    """Refuse to make what is set-uid, set-gid or sticky; a call for which ``unless`` holds makes nothing."""
    none = Rule(call, None, (_bits(mode, 0, _MARKS),))
    return (none, *((Rule(call, None, unless),) if unless else ()), Rule(call, errno.EPERM))


_NEW_NAMESPACES = (
    kernel.CLONE_NEWNS,
    kernel.CLONE_NEWCGROUP,
    kernel.CLONE_NEWUTS,
    kernel.CLONE_NEWIPC,
    kernel.CLONE_NEWUSER,
    kernel.CLONE_NEWPID,
    kernel.CLONE_NEWNET,
)
_SHARED_ANONYMOUS = kernel.MAP_SHARED | kernel.MAP_ANONYMOUS

# What a terminal is and how wide it is (told apart from a file by the answer), how much can be read,
# close on exec, do not block. Nothing that changes a terminal or tells of network interfaces.
_IOCTLS = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_TIOCSTI, _TIOCLINUX, _TIOCSCTTY, _FIOSETOWN, _SIOCSPGRP = 0x5412, 0x541C, 0x540E, 0x8901, 0x8902

# Copies, flags, record locks; the size of a pipe and the seals of a memfd may be read.
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032, 1034)
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15

# Names of threads and of memory, precision of sleep, and questions about itself.
_PRCTLS = (2, 3, 7, 15, 16, 21, 23, 25, 27, 29, 30, 39, 40, 41, 42, 51, 52, 56, 0x53564D41)

# Registers of threads, and leave to use a processor's matrix unit.
_ARCH_PRCTLS = (0x1001, 0x1002, 0x1003, 0x1004, 0x1021, 0x1022, 0x1023, 0x1024, 0x1025)

# How its own memory will be used. Not MADV_REMOVE (frees pages of a result buffer under the host's
# eyes), MADV_MERGEABLE (tells by its timing what others hold), MADV_COLD and MADV_PAGEOUT (take
# pages of shared libraries from everybody).
_MADVICE = (0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19, 22, 23, 102, 103)
_POSIX_FADV_DONTNEED = 4
_CLOSE_RANGE_UNSHARE = 2

# Priority inheritance reaches into other processes by their number, without asking.
_FUTEX_OPERATION = 0x7F
_FUTEX_PRIORITY_INHERITANCE = (6, 7, 8, 11, 12, 13)
# These interrupt processors that run other processes.
_MEMBARRIER_FOR_ALL = (1, 2, 4)

_READ_AND_EMPTY = (os.O_TRUNC, os.O_TRUNC | os.O_ACCMODE)  # kernels before 6.2 ask for no right to write
_NAMELESS = os.O_TMPFILE & ~os.O_DIRECTORY  # a file that no look into the folder finds
_MARKS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_NO_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2

# Python opens its sockets otherwise; the C library, to ask a daemon for the name of a user, like this.
_ASKS_FOR_NAMES = (socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
# Not MSG_FASTOPEN, which connects; nor urgent data and zero copies, which nobody needs.
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL | socket.MSG_MORE | socket.MSG_EOR
_MSG_WAITFORONE = 0x10000
_SO_PROTOCOL, _SO_DOMAIN = 38, 39
_RECEIVE_FLAGS = (
    socket.MSG_PEEK
    | socket.MSG_TRUNC
    | socket.MSG_DONTWAIT
    | socket.MSG_WAITALL
    | socket.MSG_NOSIGNAL
    | _MSG_WAITFORONE
    | socket.MSG_CMSG_CLOEXEC
)
# Of a connection, what libraries read and set. Others map what was received past every count of memory
# (TCP_ZEROCOPY_RECEIVE), or tell of the machine and of who is at the other end.
_MAY_BE_SET = (
    (socket.SOL_SOCKET, (socket.SO_KEEPALIVE, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)),
    (socket.IPPROTO_TCP, (socket.TCP_NODELAY,)),
)
_MAY_BE_READ = (
    *_MAY_BE_SET,
    (socket.SOL_SOCKET, (socket.SO_TYPE, socket.SO_ERROR, socket.SO_SNDBUF, socket.SO_RCVBUF)),
    (socket.SOL_SOCKET, (socket.SO_LINGER, socket.SO_ACCEPTCONN, _SO_PROTOCOL, _SO_DOMAIN)),
    (socket.IPPROTO_TCP, (socket.TCP_MAXSEG,)),
)

#: Calls that are refused or allowed by their arguments; the most frequent ones first, as the
#: kernel looks for them in this order.
BY_ARGUMENT: tuple[Rule, ...] = (
    *_all_but(
        "futex",
        *((errno.ENOSYS, (_bits(1, each, _FUTEX_OPERATION),)) for each in _FUTEX_PRIORITY_INHERITANCE),
    ),
    *_all_but(
        "mmap",
        (errno.EPERM, (_bits(3, _SHARED_ANONYMOUS, _SHARED_ANONYMOUS),)),
        # RLIMIT_DATA does not count mappings that grow downwards, nor RssAnon huge pages, and what
        # may be dropped at any time is gone before it is measured.
        (errno.EPERM, (_bits(3, kernel.MAP_GROWSDOWN, kernel.MAP_GROWSDOWN),)),
        (errno.EPERM, (_bits(3, kernel.MAP_HUGETLB, kernel.MAP_HUGETLB),)),
        (errno.EPERM, (_bits(3, kernel.MAP_DROPPABLE, kernel.MAP_DROPPABLE),)),
    ),
    *_only("madvise", 2, _MADVICE, errno.EINVAL),
    Rule("openat", errno.EPERM, (_bits(2, *_READ_AND_EMPTY),)),
    Rule("openat", errno.EOPNOTSUPP, (_bits(2, _NAMELESS, _NAMELESS),)),
    *_without_marks("openat", 3, _bits(2, 0, os.O_CREAT)),
    Rule("ioctl", USE_A_TERMINAL, (_low(1, _TIOCSTI),)),
    Rule("ioctl", USE_A_TERMINAL, (_low(1, _TIOCLINUX),)),
    Rule("ioctl", USE_A_TERMINAL, (_low(1, _TIOCSCTTY),)),
    Rule("ioctl", SIGNAL, (_low(1, _FIOSETOWN),)),
    Rule("ioctl", SIGNAL, (_low(1, _SIOCSPGRP),)),
    *_only("ioctl", 1, _IOCTLS, errno.EPERM),
    # Only to whom the socket is connected already.
    *_only_flags("sendto", 3, _SEND_FLAGS, OPEN_A_CONNECTION, ArgCmp(4, CmpOp.EQ, 0)),
    *_only_flags("recvmsg", 2, _RECEIVE_FLAGS, errno.EPERM),
    *_only_flags("recvfrom", 3, _RECEIVE_FLAGS, errno.EPERM),
    *_only_flags("recvmmsg", 3, _RECEIVE_FLAGS, errno.EPERM),
    *_only_flags("sendmsg", 2, _SEND_FLAGS, OPEN_A_CONNECTION),
    *_only_flags("sendmmsg", 3, _SEND_FLAGS, OPEN_A_CONNECTION),
    *(Rule("fcntl", SIGNAL, (_low(1, command),)) for command in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX)),
    *_only("fcntl", 1, _FCNTLS, errno.EPERM),
    *_all_but(
        "clone",
        *((CHANGE_SYSTEMS, (_bits(0, flag, flag),)) for flag in _NEW_NAMESPACES),
        (START_A_PROCESS, (_bits(0, 0, kernel.CLONE_THREAD),)),
        # A thread with open files of its own could keep deleted ones where nobody counts them.
        (errno.EPERM, (_bits(0, 0, kernel.CLONE_FILES),)),
    ),
    Rule("open", errno.EPERM, (_bits(1, *_READ_AND_EMPTY),)),
    Rule("open", errno.EOPNOTSUPP, (_bits(1, _NAMELESS, _NAMELESS),)),
    *_without_marks("open", 2, _bits(1, 0, os.O_CREAT)),
    *_without_marks("creat", 1),
    *_without_marks("mkdir", 1),
    *_without_marks("mkdirat", 2),
    # What it makes is for its user alone. An error would be taken for a mask by libraries that set one to
    # learn which it was; told 0, they do no harm, as no mode lets others in here.
    Rule("umask", None, (_bits(0, _NO_OTHERS, _NO_OTHERS),)),
    Rule("umask", 0),
    # Not RENAME_WHITEOUT, which leaves a device.
    *_only_flags("renameat2", 4, _RENAME_NOREPLACE | _RENAME_EXCHANGE, errno.EINVAL),
    Rule("prctl", REACH_KERNEL, (_low(0, kernel.PR_SET_SECCOMP),)),
    *_only("prctl", 0, _PRCTLS, errno.EPERM),
    *_only("arch_prctl", 0, _ARCH_PRCTLS, errno.EINVAL),
    *_all_but("membarrier", *((errno.EINVAL, (_low(0, command),)) for command in _MEMBARRIER_FOR_ALL)),
    *_all_but("fadvise64", (errno.EINVAL, (_low(3, _POSIX_FADV_DONTNEED),))),
    # Open files of a thread's own, as with clone: neither the limit on them nor a look finds them all.
    *_all_but("close_range", (errno.EINVAL, (_bits(2, _CLOSE_RANGE_UNSHARE, _CLOSE_RANGE_UNSHARE),))),
    # A pipe of the kernel's own notices is no pipe.
    *_only_flags("pipe2", 1, os.O_CLOEXEC | os.O_NONBLOCK, errno.EINVAL),
    *_only_options("getsockopt", _MAY_BE_READ, errno.ENOPROTOOPT),
    *_only_options("setsockopt", _MAY_BE_SET, errno.EPERM),
    Rule("prlimit64", None, (ArgCmp(2, CmpOp.EQ, 0),)),
    Rule("prlimit64", RAISE_LIMITS),
    Rule("socket", errno.EPERM, tuple(_low(index, value) for index, value in enumerate(_ASKS_FOR_NAMES))),
    Rule("socket", OPEN_A_CONNECTION),
)


def what_was_tried(name: str, arguments: Sequence[int]) -> str | None:
    """Return in words what a call that is told tried to do, as the end of "tried to ..."; None for others."""
    if name in SIGNALS:
        return SIGNAL
    for rule in BY_ARGUMENT:
        if rule.call == name and rule.fits(arguments):
            return rule.then if isinstance(rule.then, str) else None
    return next((words for words, names in TOLD.items() if name in names), None)
