"""The host connects to what is granted and nowhere else, and hands over the socket."""

import contextlib
import errno
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ringfence.hooks.permissions import Target
from ringfence.isolation.host.grants.connection_broker import (
    BURST,
    MAX_OPEN,
    RATE_PER_S,
    ConnectionBroker,
    why_not,
)
from ringfence.isolation.host.limits import stray_descriptors as passing
from ringfence.isolation.policy.confinement import Network
from ringfence.isolation.transport.connect_messages import MAX_CONNECT_S, REPLY, REQUEST
from ringfence.isolation.worker import connect_client
from ringfence.isolation.worker.connect_client import ConnectClient

from ..watching import descriptors, settled_descriptors
from .loopback import Server, deaf


@pytest.fixture
def server():
    made = []

    def start(name, *address):
        made.append(Server(name.encode(), *address))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def dial():
    """Return a function that makes a broker for some targets, and what its worker would use."""
    brokers = []

    def start(*targets, **settings):
        broker = ConnectionBroker("acme", targets, 1, **settings)
        brokers.append(broker)
        return ConnectClient(Network("acme", targets), broker.ends[0])

    yield start
    for broker in brokers:
        broker.close()
        assert not broker._thread.is_alive()


def ask(opened, text=b"hello"):
    with opened:
        opened.sendall(text)
        return opened.recv(100)


def test_a_granted_port_is_reached_and_its_neighbour_never_hears_anything(server, dial):
    granted, neighbour = server("granted"), server("neighbour")
    connect = dial(Target("127.0.0.1", granted.port))

    assert ask(connect("127.0.0.1", granted.port, 5.0)) == b"granted"
    with pytest.raises(PermissionError, match=r"does not grant plugin 'acme' a connection to 127\.0\.0\.1:"):
        connect("127.0.0.1", neighbour.port, 5.0)
    assert (granted.heard, neighbour.heard) == ([b"hello"], [])


def test_what_is_missing_is_told_with_the_line_to_write(dial):
    connect = dial(Target("x.example", 443), Target("::1", 80))
    with pytest.raises(PermissionError) as refused:
        connect("Y.example.", 443, 5.0)
    assert """write 'connect: [x.example:443, "[::1]:80", y.example:443]' beside 'acme'""" in str(
        refused.value
    )


def test_names_are_looked_up_by_the_host_in_any_case(server, dial):
    granted = server("granted")
    connect = dial(Target("localhost", granted.port))
    assert ask(connect("LOCALHOST.", granted.port, 5.0)) == b"granted"


def test_version_six_works_too(server, dial):
    try:
        granted = server("granted", "::1")
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    connect = dial(Target("::1", granted.port))
    assert ask(connect("::1", granted.port, 5.0)) == b"granted"
    assert ask(connect("[::1]", granted.port, 5.0)) == b"granted"


def test_a_refused_connection_is_the_usual_error(server, dial):
    gone = server("gone")
    gone.close()
    connect = dial(Target("127.0.0.1", gone.port))
    with pytest.raises(ConnectionRefusedError, match=rf"127\.0\.0\.1:{gone.port}: Connection refused"):
        connect("127.0.0.1", gone.port, 5.0)


def test_no_answer_in_time_is_a_timeout(dial):
    """A listener whose queue is full answers nobody."""
    with deaf() as port:
        connect = dial(Target("127.0.0.1", port))
        with pytest.raises(TimeoutError, match="no answer in time"):
            connect("127.0.0.1", port, 0.2)


def test_a_name_without_address_is_told(dial):
    def nothing(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    connect = dial(Target("nowhere.invalid", 80), look_up=nothing)
    with pytest.raises(
        OSError, match=r"nowhere\.invalid:80: the name cannot be looked up: Name or service not known"
    ):
        connect("nowhere.invalid", 80, 5.0)


def test_a_name_that_is_pointed_back_at_this_machine_leads_nowhere(server, dial):
    """Its owner may change what it stands for at any time."""
    inside = server("inside")

    def rebound(host, port):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", inside.port))]

    connect = dial(Target("scores.example", inside.port), look_up=rebound)
    with pytest.raises(PermissionError, match=r"stands for 127\.0\.0\.1, this machine"):
        connect("scores.example", inside.port, 5.0)
    assert inside.heard == []


@pytest.mark.parametrize(
    ("address", "host", "allowed"),
    [
        ("93.184.216.34", "x.example", True),
        ("2606:4700::1111", "x.example", True),
        ("64:ff9b::5db8:d822", "x.example", True),  # translated to a host of the world
        ("10.1.2.3", "x.example", False),
        ("172.16.0.1", "x.example", False),
        ("192.168.1.1", "x.example", False),
        ("100.64.0.1", "x.example", False),
        ("0.1.2.3", "x.example", False),
        ("fd12::1", "x.example", False),
        ("fec0::1", "x.example", False),
        ("127.0.0.1", "x.example", False),
        ("127.8.8.8", "x.example", False),
        ("::1", "x.example", False),
        ("::ffff:127.0.0.1", "x.example", False),
        ("64:ff9b::7f00:1", "x.example", False),
        ("64:ff9b::a01:203", "x.example", False),
        ("64:ff9b:1::5db8:d822", "x.example", False),
        ("2002:7f00:1::1", "x.example", False),
        ("2002:a9fe:a9fe::1", "x.example", False),
        ("2001:0:5db8:d822:8000:63bf:80ff:fffe", "x.example", False),  # a client at 127.0.0.1
        ("::7f00:1", "x.example", False),
        ("::ffff:0:7f00:1", "x.example", False),
        ("0.0.0.0", "x.example", False),  # noqa: S104 - to refuse it
        ("169.254.169.254", "x.example", False),
        ("::ffff:169.254.169.254", "x.example", False),
        ("::ffff:a9fe:a9fe", "::ffff:a9fe:a9fe", False),
        ("169.254.169.254", "169.254.169.254", False),
        ("fd00:ec2::254", "x.example", False),
        ("fd20:ce::254", "x.example", False),
        ("fe80::1%eth0", "x.example", False),
        ("224.0.0.1", "x.example", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("::ffff:10.1.2.3", "10.1.2.3", True),
        ("::ffff:10.1.2.3", "::ffff:a01:203", True),
        ("64:ff9b::a01:203", "10.1.2.3", False),
        ("fd12::1", "fd12::1", True),
        ("127.0.0.1", "localhost", True),
        ("10.0.0.1", "localhost", False),
        ("::ffff:127.0.0.1", "localhost", True),
        ("64:ff9b::7f00:1", "localhost", False),
        ("127.0.0.1", "db.localhost", True),
        ("nonsense", "x.example", False),
    ],
)
def test_where_a_name_may_lead(address, host, allowed):
    assert (why_not(address, Target(host, 80)) == "") is allowed


def test_a_name_may_stand_for_an_address_that_is_granted_as_well():
    name, address = Target("db.example", 5432), Target("10.1.2.3", 5432)
    assert why_not("10.1.2.3", name) == (
        "the name stands for 10.1.2.3, an address of a private network; "
        "if it should, grant the address itself: '10.1.2.3:5432'"
    )
    assert why_not("10.1.2.3", name, (name, address)) == ""
    assert why_not("10.1.2.3", name, (name, Target("10.1.2.3", 22)))
    assert why_not("10.1.2.4", name, (name, address))


#: Run in a network of its own, which has these addresses and leads nowhere.
REBOUND = """
import errno, json, socket, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from loopback import Server
from ringfence.hooks.permissions import Target
from ringfence.isolation.host.limits import stray_descriptors as passing
from ringfence.isolation.worker import connect_client
from ringfence.isolation.host.grants.connection_broker import ConnectionBroker
from ringfence.isolation.policy.confinement import Network
from ringfence.isolation.worker.connect_client import ConnectClient

ip = lambda *words: subprocess.run(("ip", *words), check=True)
ip("link", "set", "lo", "up")
# The second one answers connections under the name of the first, so that both ends differ.
ip("address", "add", "203.0.113.7/24", "dev", "lo")
ip("address", "add", "203.0.113.8/24", "dev", "lo")
ip("address", "add", "2001:db8::7/128", "dev", "lo", "nodad")
# The kernel makes the way to an address after it has answered, and later where others keep it busy;
# once it refuses what nobody listens to, packets arrive.
for address in ("203.0.113.7", "203.0.113.8", "2001:db8::7"):
    deadline = time.monotonic() + 30
    while True:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as trial:
            trial.settimeout(0.1)
            if trial.connect_ex((address, 9)) == errno.ECONNREFUSED:
                break
        assert time.monotonic() < deadline, f"no way leads to {address}"
        time.sleep(0.01)
came_of_it = {}
for address in ("203.0.113.7", "203.0.113.8", "2001:db8::7", "::ffff:203.0.113.7"):
    inside = Server(b"inside", "2001:db8::7" if address == "2001:db8::7" else "0.0.0.0")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    name, plain = Target("scores.example", inside.port), Target("203.0.113.7", inside.port)
    rebound = lambda host, port: [(family, socket.SOCK_STREAM, 0, "", (address, port))]
    for targets in ((name,), (name, Target(address.removeprefix("::ffff:"), inside.port))):
        broker = ConnectionBroker("acme", targets, 1, look_up=rebound)
        try:
            connect = ConnectClient(Network("acme", targets), broker.ends[0])
            with connect("scores.example", inside.port, 5.0) as opened:
                opened.sendall(b"hello")
                came_of_it.setdefault(address, []).append(opened.recv(100).decode())
        except PermissionError as error:
            came_of_it.setdefault(address, []).append(str(error).partition(": ")[2])
        broker.close()
    inside.close()
    came_of_it[address].append(len(inside.heard))
print(json.dumps(came_of_it))
"""


def test_a_name_that_stands_for_an_address_of_this_machines_own_leads_nowhere():
    """Such an address may be one of the world's, as that of a server's interface is."""
    unshare = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--net")
    try:
        subprocess.run([*unshare, "ip", "link"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network of its own to try this in: {error}")
    command = [*unshare, sys.executable, "-c", REBOUND, str(Path(__file__).parent)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True)
    came_of_it = json.loads(done.stdout)
    assert len(came_of_it) == 4
    for address, (refused, granted, connections) in came_of_it.items():
        assert f"the name stands for {ipaddress.ip_address(address)}, this machine; if it should" in refused
        assert (granted, connections) == ("inside", 1)


def test_only_so_many_are_open_at_a_time_and_closing_makes_room(server, dial):
    # Its port listens; whether anybody accepts is no matter.
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        port = listening.getsockname()[1]
        connect = dial(Target("127.0.0.1", port))
        opened = [connect("127.0.0.1", port, 5.0) for _ in range(MAX_OPEN)]
        with pytest.raises(OSError, match=f"{MAX_OPEN} connections are open") as refused:
            connect("127.0.0.1", port, 5.0)
        assert refused.value.errno == errno.EMFILE
        opened.pop().close()
        opened.append(connect("127.0.0.1", port, 5.0))
        for each in opened:
            each.close()


def test_a_plugin_that_asks_on_and_on_is_kept_waiting(dial):
    """Each connection costs the trainer a moment, and the machine a port for a minute."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        port = listening.getsockname()[1]
        connect = dial(Target("127.0.0.1", port))
        began = time.monotonic()
        for _ in range(BURST + 10):
            connect("127.0.0.1", port, 5.0).close()
        assert time.monotonic() - began >= 9 / RATE_PER_S


def test_what_is_under_way_is_bounded_by_the_host(server, dial):
    granted = server("granted")
    with dial(Target("127.0.0.1", granted.port))("127.0.0.1", granted.port, 5.0) as opened:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            assert opened.getsockopt(socket.SOL_SOCKET, option) <= 2 * 256 * 1024
        assert opened.gettimeout() == 5.0
        assert not opened.get_inheritable()
        opened.sendall(b"x")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"x",
        b"127.0.0.1:80",
        REQUEST.pack(1, 1, 1000),
        REQUEST.pack(1, 65535, 1000),
        REQUEST.pack(1, 0, 1000) + b"x",
        bytes(60_000),
    ],
    ids=["short", "an address", "next index", "last index", "long", "very long"],
)
def test_a_request_of_another_form_ends_the_line_and_nothing_is_opened(server, request_bytes):
    granted = server("granted")
    broker = ConnectionBroker("acme", [Target("127.0.0.1", granted.port)], 1)
    (line,) = broker.ends
    line.settimeout(5.0)
    line.send(request_bytes)
    assert line.recv(100) == b""
    with pytest.raises(BrokenPipeError):
        line.send(REQUEST.pack(1, 0, 1000))
    assert granted.heard == []
    broker.close()


def ask_without_end(line):
    for number in range(5000):
        line.send(REQUEST.pack(number, 0, 1000))
        time.sleep(0.001)


def test_replies_that_nobody_reads_end_the_line(server):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        broker = ConnectionBroker("acme", [Target("127.0.0.1", listening.getsockname()[1])], 1)
        (line,) = broker.ends
        line.settimeout(5.0)
        before = descriptors()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            ask_without_end(line)
        broker.close()
        assert settled_descriptors(before) <= before


@pytest.fixture
def older(monkeypatch):
    """Make the kernel one before 6.16, which knows of no way to keep descriptors out of a socket."""
    monkeypatch.setattr(passing, "_SO_PASSRIGHTS", 9999)


def test_descriptors_that_a_worker_sends_along_are_refused(server, dial):
    granted = server("granted")
    connect = dial(Target("127.0.0.1", granted.port))
    if not passing.refuse_descriptors(connect._line):
        pytest.skip("this kernel is older than 6.16")
    connect._line.setsockopt(socket.SOL_SOCKET, passing._SO_PASSRIGHTS, 1)
    with Path("/dev/null").open("rb") as file, pytest.raises(PermissionError):
        socket.send_fds(connect._line, [REQUEST.pack(1, 0, 1000)], [file.fileno()])
    assert ask(connect("127.0.0.1", granted.port, 5.0)) == b"granted"


@pytest.mark.usefixtures("older")
def test_descriptors_that_a_worker_sends_along_are_dropped_by_an_older_kernel(server, dial):
    granted = server("granted")
    connect = dial(Target("127.0.0.1", granted.port))
    read, write = os.pipe()
    socket.send_fds(connect._line, [REQUEST.pack(1, 0, 1000)], [write])
    os.close(write)
    assert os.read(read, 1) == b"", "somebody still holds the end that was sent"
    os.close(read)
    data, fds, _, _ = socket.recv_fds(connect._line, 100, 1)
    assert struct.unpack("<Ii", data[: REPLY.size]) == (1, 0)
    socket.socket(fileno=fds[0]).close()


@pytest.mark.usefixtures("older")
def test_descriptors_under_way_are_counted_where_the_kernel_cannot_refuse_them():
    with deaf() as port, Path("/dev/null").open("rb") as file:
        broker = ConnectionBroker("acme", [Target("127.0.0.1", port)], 2)
        busy, waits = broker.ends
        busy.send(REQUEST.pack(1, 0, 60_000))
        time.sleep(0.1)  # it connects, and reads nobody's line meanwhile
        socket.send_fds(waits, [REQUEST.pack(1, 0, 1000)], [file.fileno()] * 3)
        assert sorted(queue.descriptors() for queue in broker.queues) == [0, 3]
        broker.close()
        assert [queue.descriptors() for queue in broker.queues] == [0, 0]


def test_a_second_request_before_the_first_is_answered_ends_the_line():
    """While the host waits it reads nothing: what a worker sends then stays in the kernel."""
    with deaf() as port:
        broker = ConnectionBroker("acme", [Target("127.0.0.1", port)], 1)
        (line,) = broker.ends
        line.settimeout(5.0)
        line.send(REQUEST.pack(1, 0, 60_000))
        line.send(REQUEST.pack(2, 0, 60_000))
        with pytest.raises(ConnectionResetError):
            line.recv(100)
        broker.close()


def test_a_reply_that_comes_late_is_not_taken_for_the_next_one(server, dial, monkeypatch):
    """The first name is looked up for longer than anybody waits."""
    first, second = server("first"), server("second")
    targets = Target("127.0.0.1", first.port), Target("127.0.0.2", second.port)
    may_answer = threading.Event()

    def slow(host, port):
        if port == first.port:
            may_answer.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]

    connect = dial(*targets, Target("127.0.0.1", second.port), look_up=slow)
    monkeypatch.setattr(connect_client, "_RESOLVER_S", 0.0)
    with pytest.raises(TimeoutError):
        connect("127.0.0.1", first.port, 0.2)
    monkeypatch.undo()
    may_answer.set()
    assert ask(connect("127.0.0.2", second.port, 5.0)) == b"second"


def test_what_was_closed_before_all_of_it_was_sent_counts_as_open(dial):
    """Whoever does not read keeps half a megabyte of each in the kernel, for minutes."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        port = listening.getsockname()[1]
        connect = dial(Target("127.0.0.1", port))
        for _ in range(MAX_OPEN):
            with connect("127.0.0.1", port, 5.0) as opened:
                opened.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while opened.send(bytes(65536)):
                        pass
        with pytest.raises(OSError, match=f"{MAX_OPEN} connections are open"):
            connect("127.0.0.1", port, 5.0)
        listening.accept()[0].close()  # what was under way is given up
        connect("127.0.0.1", port, 5.0).close()


def test_closing_does_not_wait_for_a_connection_that_is_being_made():
    with deaf() as port:
        broker = ConnectionBroker("acme", [Target("127.0.0.1", port)], 1)
        broker.ends[0].send(REQUEST.pack(1, 0, 60_000))
        time.sleep(0.1)
        broker.close()
        broker._thread.join(MAX_CONNECT_S / 2)  # on a busy machine it ends after that
        assert not broker._thread.is_alive()


def test_a_worker_that_is_gone_leaves_nothing_behind(server):
    granted = server("granted")
    before = descriptors()
    broker = ConnectionBroker("acme", [Target("127.0.0.1", granted.port)], 2)
    broker.ends.pop().close()
    connect = ConnectClient(Network("acme", (Target("127.0.0.1", granted.port),)), broker.ends[0])
    assert ask(connect("127.0.0.1", granted.port, 5.0)) == b"granted"
    broker.close()
    broker.close()
    assert settled_descriptors(before) <= before
