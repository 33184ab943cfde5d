"""Classes of network addresses: this machine, a network of its own, or a host of the world."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Where clouds hand out the keys of a machine to whoever asks from inside it.
CLOUD_KEYS = frozenset(
    (
        *("metadata.google.internal", "metadata", "169.254.169.254", "168.63.129.16", "100.100.100.200"),
        *("192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42"),
    )
)

#: Reached from some networks only, or from none; which hosts they are depends on who asks.
_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16"),
            *("198.18.0.0/15", "240.0.0.0/4", "64:ff9b:1::/48", "fc00::/7", "fec0::/10"),
        ),
    )
)
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
#: Networks of version 6 whose addresses end in one of version 4, to which a translator may pass them on:
#: IPv4-compatible, IPv4-translated, NAT64.
_ENDS_IN_VERSION_4 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
_VERSION_4_BITS = 0xFFFFFFFF

# struct nlmsghdr, then struct rtmsg, then one attribute: its head and an address.
_HEADER, _ROUTE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=8BI"), struct.Struct("=HH")
_RTM_NEWROUTE, _RTM_GETROUTE, _NLM_F_REQUEST, _RTA_DST, _RTN_LOCAL = 24, 26, 1, 1, 2
_ERROR, _NLMSG_ERROR = struct.Struct("=i"), 2
_TYPE_AT = 7
_REPLY_BYTES = 4096


def forms(address: Address) -> Iterator[Address]:
    """Yield an address, and those of version 4 that it stands for where something translates it."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    for carried in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())):
        if carried is not None:
            yield carried
    if any(address in network for network in _ENDS_IN_VERSION_4) and int(address) > 1:
        yield ipaddress.IPv4Address(int(address) & _VERSION_4_BITS)


def has_keys(address: Address) -> bool:
    """Tell whether cloud machines get their keys there."""
    return any(str(form) in CLOUD_KEYS for form in forms(address))


def is_one_host(address: Address) -> bool:
    """Tell whether an address is one host's, whoever asks; links have theirs each for itself."""
    return not any(
        form.is_unspecified or form.is_multicast or form.is_link_local or form == _BROADCAST
        for form in forms(address)
    )


def spellings(address: Address) -> tuple[Address, ...]:
    """Return an address as it is, and as one of version 4 if it is nothing else in the kernel's eyes."""
    mapped = getattr(address, "ipv4_mapped", None)
    return (address,) if mapped is None else (address, mapped)


def is_loopback(address: Address) -> bool:
    """Tell whether an address is every machine's own."""
    return any(each.is_loopback for each in spellings(address))


def is_private(address: Address) -> bool:
    """Tell whether an address is of a network that is not everybody's."""
    return any(form in network for form in forms(address) for network in _PRIVATE)


def is_ours(address: Address) -> bool:
    """Tell whether this machine itself answers to an address, whatever interface has it; asks the kernel.

    Raises:
        OSError: The kernel does not say.
    """
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    packed = address.packed
    body = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _RTA_DST) + packed
    header = _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.sendto(header + body, (0, 0))
        reply = asked.recv(_REPLY_BYTES)
    kind = _HEADER.unpack_from(reply)[1]
    if kind == _RTM_NEWROUTE:
        return reply[_HEADER.size + _TYPE_AT] == _RTN_LOCAL
    code = -_ERROR.unpack_from(reply, _HEADER.size)[0] if kind == _NLMSG_ERROR else errno.EPROTO
    if code in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return False
    raise OSError(code, f"the kernel does not say whether {address} is this machine's: {os.strerror(code)}")
