"""The kernel enforces exactly what is granted: no neighbour, no other right, no other port."""

import errno
import socket
import sys
import threading
from pathlib import Path

import pytest

from ringfence.hooks.errors import PluginLoadError, PluginRaisedError
from ringfence.hooks.permissions import Permissions, Target
from ringfence.isolation.host.grants.grant import open_path
from ringfence.plugins.local_plugin import LocalPlugin

from .loopback import Server

REFUSED = {errno.EACCES, errno.EPERM}
#: Links and moves out of a folder look to Landlock like two file systems.
OUTSIDE = REFUSED | {errno.EXDEV}


@pytest.fixture
def place(tmp_path):
    """A granted folder, one that may be written, and neighbours of both."""
    for name in ("data", "data/inner", "out", "beside"):
        (tmp_path / name).mkdir()
    for name in (
        "data/file",
        "data/inner/deep",
        "out/old",
        "out/other",
        "beside/secret",
        "single",
        "single-2",
        "note",
    ):
        (tmp_path / name).write_text(name)
    (tmp_path / "data/leads-out").symlink_to(tmp_path / "beside/secret")
    (tmp_path / "data/folder-out").symlink_to(tmp_path / "beside")
    return tmp_path


@pytest.fixture
def granted(place):
    """What the tests grant: a folder and a file to read, a folder and a file to write."""
    return Permissions(
        (),
        (
            open_path("data", place, write=False),
            open_path("single", place, write=False),
            open_path("out", place, write=True),
            open_path("note", place, write=True),
        ),
    )


@pytest.fixture
def outcomes(start, spec, gradients, step):
    """Return a function that has a plugin try things, and returns what each attempt met."""

    def run(tries, permissions=None, *, isolated=True):
        options = {
            "tries": [[str(part) if isinstance(part, Path) else part for part in each] for each in tries]
        }
        settings = {"options": options} | ({} if permissions is None else {"permissions": permissions})
        where = "permitted:Tries"
        plugin = start(where, **settings) if isolated else LocalPlugin(spec(where, **settings))
        if not isolated:
            sys.modules.pop("permitted", None)
        own = step.for_plugin(0, "tries")
        plugin.call("backward", {"gradients": gradients}, own)
        return [int(own.scalars[str(number)]) for number in range(len(tries))]

    return run


def allowed(place):
    return [
        ("read", place / "data/file"),
        ("read", place / "data/inner/deep"),
        ("list", place / "data"),
        ("read", place / "single"),
        ("list", place / "out"),
        ("read", place / "out/old"),
        ("write", place / "out/new"),
        ("append", place / "out/old"),
        ("make folder", place / "out/made"),
        ("write", place / "out/made/file"),
        ("rename", place / "out/new", place / "out/newer"),
        ("remove", place / "out/newer"),
        ("write", place / "note"),
        ("append", place / "note"),
    ]


def refused(place):
    return [
        ("read", place / "beside/secret"),
        ("list", place / "beside"),
        ("list", place),
        ("read", place / "single-2"),
        ("read", place / "data/leads-out"),
        ("list", place / "data/folder-out"),
        ("read", place / "data/../beside/secret"),
        ("write", place / "data/file"),
        ("append", place / "data/file"),
        ("write", place / "data/new"),
        ("make folder", place / "data/made"),
        ("remove", place / "data/file"),
        ("write", place / "single"),
        ("write", place / "beside/new"),
        ("write", place / "note-2"),
        ("write", place / "out/../beside/new"),
        ("remove", place / "note"),
        ("link out", place / "out", place / "beside/secret"),
        ("hard link", place / "beside/secret", place / "out/hard"),
        ("hard link", place / "data/file", place / "out/hard-2"),
        ("rename", place / "out/old", place / "beside/old"),
        ("rename", place / "data/file", place / "out/file"),
        ("pipe", place / "out/pipe"),
        ("mode", place / "out/other"),
    ]


def test_what_is_granted_works_and_appears(outcomes, place, granted):
    assert outcomes(allowed(place), granted) == [0] * len(allowed(place))
    assert (place / "out/made/file").read_text() == "written by a plugin"
    assert (place / "out/old").read_text() == "out/old and more"
    assert (place / "note").read_text() == "written by a plugin and more"
    assert not (place / "out/newer").exists()
    # Nobody but the user may look at what a plugin makes.
    assert (place / "out/made").stat().st_mode & 0o077 == 0


def test_nothing_else_works(outcomes, place, granted):
    tries = refused(place)
    before = snapshot(place)

    met = outcomes(tries, granted)

    assert [tried for tried, error in zip(tries, met, strict=True) if error not in OUTSIDE] == []
    assert snapshot(place) == before


def test_without_a_grant_none_of_it_works(outcomes, place):
    tries = allowed(place)
    before = snapshot(place)

    met = outcomes(tries)

    # What an earlier attempt was to make is not there for the later ones.
    assert all(error in OUTSIDE | {errno.ENOENT} for error in met)
    assert snapshot(place) == before


def test_without_a_sandbox_all_of_it_works(outcomes, place):
    """The control: it is the sandbox that refuses."""
    undone = {("remove", place / "data/file"), ("rename", place / "data/file", place / "out/file")}
    tries = [each for each in refused(place) if each not in undone]
    assert outcomes(tries, isolated=False) == [0] * len(tries)


def snapshot(folder):
    """Return everything below a folder, with what is in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_each_file_is_as_large_as_one_in_scratch_at_most(outcomes, place, granted):
    assert outcomes([("big", place / "out/big")], granted) == [errno.EFBIG]


def test_a_restarted_plugin_has_the_same_grants(start, place, granted, gradients, step):
    tries = [
        ["read", str(place / "data/file")],
        ["write", str(place / "out/new")],
        ["read", str(place / "single-2")],
    ]
    plugin = start("permitted:Tries", options={"tries": tries}, permissions=granted)
    for _ in range(2):
        own = step.for_plugin(0, "tries")
        plugin.call("backward", {"gradients": gradients}, own)
        assert [own.scalars[name] for name in "012"] == [0, 0, errno.EACCES]
        plugin.restart()


def test_what_was_replaced_since_the_start_is_not_opened_instead(start, place, granted):
    plugin = start("permitted:Tries", options={"tries": []}, permissions=granted)
    (place / "data").rename(place / "moved")
    (place / "data").symlink_to(place / "beside")
    with pytest.raises(
        PluginLoadError, match=f"{place}/data, which the job grants it, was replaced or removed"
    ):
        plugin.restart()


def test_a_constructor_may_use_what_is_granted(start, place, granted):
    at_start = [["read", str(place / "data/file")]]
    start("permitted:Tries", options={"tries": [], "at_start": at_start}, permissions=granted)
    with pytest.raises(PluginLoadError) as error:
        start("permitted:Tries", options={"tries": [], "at_start": at_start})
    assert str(error.value).endswith(f"If it should, write beside 'tries': read: [{place}/data/file]")


def test_a_refusal_ends_with_the_line_that_would_allow_it(start, place, granted, gradients, step):
    tries = [["read", str(place / "beside/secret")]]
    plugin = start("permitted:Raises", options={"tries": tries}, permissions=granted)
    with pytest.raises(PluginRaisedError) as error:
        plugin.call("backward", {"gradients": gradients}, step.for_plugin(0, "raises"))
    line = f"read: [{place}/data, {place}/single, {place}/beside/secret]"
    assert str(error.value).endswith(
        f"the job does not grant 'raises' this file. If it should, write beside 'raises': {line}"
    )


# network


@pytest.fixture
def servers():
    made = Server(b"granted"), Server(b"other")
    yield made
    for each in made:
        each.close()


def test_only_the_granted_port_hears_anything(outcomes, servers):
    granted, other = servers
    permissions = Permissions((), (), (Target("127.0.0.1", granted.port),))
    tries = [
        ("talk", "127.0.0.1", granted.port),
        ("talk", "127.0.0.1", other.port),
        ("talk", "localhost", granted.port),
        ("plain socket", "127.0.0.1", granted.port),
        ("plain socket", "127.0.0.1", other.port),
    ]

    met = outcomes(tries, permissions)

    assert met[0] == 0
    assert all(error in REFUSED for error in met[1:])
    assert (granted.heard, other.heard) == ([b"hello from inside"], [])


def test_without_a_grant_no_port_hears_anything(outcomes, servers):
    tries = [(what, "127.0.0.1", each.port) for what in ("talk", "plain socket") for each in servers]
    assert all(error in REFUSED for error in outcomes(tries))
    assert [each.heard for each in servers] == [[], []]


def test_a_trusted_plugin_connects_as_any_code_does(outcomes, servers):
    """The control: the same attempts reach both ports."""
    granted, other = servers
    tries = [("talk", "127.0.0.1", granted.port), ("plain socket", "127.0.0.1", other.port)]
    assert outcomes(tries, isolated=False) == [0, 0]
    assert granted.heard == [b"hello from inside"]


def test_a_connection_leads_to_no_other_and_tells_nothing_of_the_machine(outcomes, servers):
    granted, other = servers
    permissions = Permissions((), (), (Target("127.0.0.1", granted.port),))
    tries = [
        ("connect anew", "127.0.0.1", granted.port, other.port),
        ("fast open", "127.0.0.1", granted.port, other.port),
        ("fast open message", "127.0.0.1", granted.port, other.port),
        ("listen", "127.0.0.1", granted.port),
        ("option", "127.0.0.1", granted.port),
        ("interfaces", "127.0.0.1", granted.port),
        ("map what comes", "127.0.0.1", granted.port),
    ]

    *met, mapped = outcomes(tries, permissions)

    assert [tried[0] for tried, error in zip(tries, met, strict=False) if error not in REFUSED] == []
    assert mapped == errno.ENOPROTOOPT
    assert other.heard == []


def test_a_connection_has_the_options_that_libraries_set(outcomes, servers):
    permissions = Permissions((), (), (Target("127.0.0.1", servers[0].port),))
    assert outcomes([("usual options", "127.0.0.1", servers[0].port)], permissions) == [0]


def test_what_a_connection_receives_can_be_mapped_where_no_filter_refuses_it(outcomes, servers):
    """The control: past every count of memory."""
    assert outcomes([("map what comes", "127.0.0.1", servers[0].port)], isolated=False) == [0]


def test_a_socket_connects_by_sending_where_no_filter_refuses_it(servers):
    """The control: without the filter, data and MSG_FASTOPEN connect a fresh socket, unseen by connect()."""
    _, other = servers
    with socket.socket() as fresh:
        try:
            fresh.sendto(b"connected without connect", socket.MSG_FASTOPEN, ("127.0.0.1", other.port))
        except OSError as error:
            pytest.skip(f"this kernel has it switched off (net.ipv4.tcp_fastopen): {error}")
        assert fresh.recv(100) == b"other"
    assert other.heard == [b"connected without connect"]


def test_each_worker_has_a_line_of_its_own_and_a_restart_brings_new_ones(start, servers, batch, step):
    granted, _ = servers
    permissions = Permissions((), (), (Target("127.0.0.1", granted.port),))
    threads = threading.active_count()
    plugin = start(
        "permitted:Posts",
        "augment",
        workers=2,
        options={"host": "127.0.0.1", "port": granted.port},
        permissions=permissions,
    )
    for _ in range(2):
        before = len(granted.heard)
        done = []
        list(plugin.stream(((batch, step) for _ in range(4)), done=done.append, failed=pytest.fail))
        assert len(granted.heard) - before == 4
        plugin.restart()
    plugin.close()
    assert threading.active_count() == threads
