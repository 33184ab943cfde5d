"""Network: reach anybody."""

import os
import socket

from ..attacks.network import SOCKETS
from ..row import Row


def lacking(*names):
    """Return those of the attempts that this user or kernel has no sockets for, with what the kernel says."""
    missing = {}
    for name in names:
        try:
            socket.socket(*SOCKETS[name]).close()
        except OSError as error:
            missing[name] = f"user {os.geteuid()} is given no such socket here: {error.strerror}"
    return missing


def without_names(*names):
    """Return the attempts that need a name of this machine to be known, if it is not."""
    try:
        socket.gethostbyname("localhost")
    except OSError as error:
        return dict.fromkeys(names, f"nothing tells here who localhost is: {error.strerror}")
    return {}


#: A look-up whose socket was refused.
_NO_NAME = frozenset({socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_FAIL, socket.EAI_SYSTEM})

ROWS = (
    Row(
        12,
        "connect and listen over TCP",
        "seccomp, landlock, namespaces",
        "network:tcp",
        also={"connect_by_name": _NO_NAME},
        no_control=lacking("multipath", "shared_memory_communication") | without_names("connect_by_name"),
        heard=("tcp", "tcp6") if socket.has_ipv6 else ("tcp",),
    ),
    Row(
        13,
        "send datagrams and look up names",
        "seccomp, namespaces",
        "network:udp",
        also={"getaddrinfo": _NO_NAME, "gethostbyname": _NO_NAME},
        no_control=without_names("getaddrinfo", "gethostbyname"),
        heard=("udp",),
    ),
    Row(
        13,
        "raw, netlink and other families of sockets",
        "seccomp",
        "network:families",
        no_control=lacking("raw", "raw_v6", "ping", "sctp", "vsock", "crypto", "packet"),
    ),
    Row(
        14,
        "Unix sockets by path and by name",
        "seccomp, landlock",
        "network:unix",
        heard=("unix", "abstract"),
    ),
)
