"""Network: reach anybody, by every family of sockets that a kernel may have."""

import os
import socket
import stat
import struct

#: A query for a name of which the first part is what was stolen.
_QUESTION = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\x06stolen\x07invalid\x00" + struct.pack(">2H", 1, 1)
_IPPROTO_MPTCP, _IPPROTO_SCTP, _AF_SMC = 262, 132, 43
_VMADDR_CID_LOCAL = 1
_ROUTE_DUMP = struct.pack("=IHHIIBxxx", 20, 18, 0x301, 1, 0, 0)


def _send(family, address, kind=socket.SOCK_STREAM, protocol=0):
    with socket.socket(family, kind, protocol) as made:
        made.settimeout(3)
        made.connect(address)
        return made.send(b"stolen")


def _send_without_connecting(family, kind, address, flags=0):
    with socket.socket(family, kind) as made:
        return made.sendto(b"stolen", flags, address)


def _listen(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.bind(address)
        made.listen()
        return True


def tcp(aim):
    here = ("127.0.0.1", aim.tcp_port)
    attempts = {
        "connect": lambda: _send(socket.AF_INET, here),
        "connect_by_name": lambda: socket.create_connection(("localhost", aim.tcp_port), 3).close() or True,
        "fast_open": lambda: _send_without_connecting(
            socket.AF_INET, socket.SOCK_STREAM, here, socket.MSG_FASTOPEN
        ),
        "multipath": lambda: _send(socket.AF_INET, here, protocol=_IPPROTO_MPTCP),
        "shared_memory_communication": lambda: _send(_AF_SMC, here),
        "listen": lambda: _listen(socket.AF_INET, ("127.0.0.1", 0)),
        "listen_to_all": lambda: _listen(socket.AF_INET, ("0.0.0.0", 0)),
    }
    if aim.tcp6_port:
        attempts |= {
            "connect_v6": lambda: _send(socket.AF_INET6, ("::1", aim.tcp6_port)),
            "connect_mapped": lambda: _send(socket.AF_INET6, ("::ffff:127.0.0.1", aim.tcp_port)),
            "listen_v6": lambda: _listen(socket.AF_INET6, ("::1", 0)),
        }
    return attempts


def udp(aim):
    here = ("127.0.0.1", aim.udp_port)

    def send_message():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            return made.sendmsg([b"stolen"], [], 0, here)

    def ask_for_a_name():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            return made.sendto(_QUESTION, here)

    attempts = {
        "sendto": lambda: _send_without_connecting(socket.AF_INET, socket.SOCK_DGRAM, here),
        "connect": lambda: _send(socket.AF_INET, here, socket.SOCK_DGRAM),
        "sendmsg": send_message,
        "name_query": ask_for_a_name,
        "getaddrinfo": lambda: socket.getaddrinfo("localhost", 80),
        "gethostbyname": lambda: socket.gethostbyname("localhost"),
    }
    if aim.tcp6_port:
        address = ("::1", aim.udp_port)
        attempts["sendto_v6"] = lambda: _send_without_connecting(socket.AF_INET6, socket.SOCK_DGRAM, address)
    return attempts


#: Attempt to the socket that it takes, for those that a user or a kernel may lack.
SOCKETS = {
    "raw": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "raw_v6": (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
    "ping": (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "sctp": (socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_SCTP),
    "vsock": (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
    "crypto": (socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
    "packet": (socket.AF_PACKET, socket.SOCK_RAW, 0),
    "multipath": (socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP),
    "shared_memory_communication": (_AF_SMC, socket.SOCK_STREAM, 0),
}


def families(aim):
    def ask_the_kernel():
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as made:
            made.bind((0, 0))
            return made.send(_ROUTE_DUMP)

    def hear_of_devices():
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as made:
            made.bind((0, 0))
            return True

    wanted = ("raw", "raw_v6", "ping", "sctp", "vsock", "crypto", "packet")
    attempts = {name: lambda name=name: socket.socket(*SOCKETS[name]).close() or True for name in wanted}
    return attempts | {
        "netlink": ask_the_kernel,
        "netlink_devices": hear_of_devices,
        "interfaces": socket.if_nameindex,
    }


def unix(aim):
    def by_a_socket_that_is_there(address):
        """Connect one that was inherited, so that none has to be made; where none is, one is made."""
        with _inherited() or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
            made.connect(address)
            return made.send(b"stolen")

    return {
        "path": lambda: _send(socket.AF_UNIX, aim.unix_path),
        "abstract": lambda: _send(socket.AF_UNIX, aim.abstract),
        "inherited_to_path": lambda: by_a_socket_that_is_there(aim.unix_path),
        "inherited_to_abstract": lambda: by_a_socket_that_is_there(aim.abstract),
        "listen_by_path": lambda: _listen(socket.AF_UNIX, "listener"),
        "listen_abstract": lambda: _listen(socket.AF_UNIX, "\0ringfence-hostile"),
        "pair": lambda: [end.close() for end in socket.socketpair()],
    }


def _inherited():
    for fd in range(3, 256):
        try:
            is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        except OSError:
            continue
        if is_socket:
            found = socket.socket(fileno=os.dup(fd))
            if found.family == socket.AF_UNIX:
                return found
            found.close()
    return None
