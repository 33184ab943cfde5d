"""A grant is worked out once: what exists, of the right kind, within reach, and where a host is one host."""

import os
import socket

import pytest

from ringfence.hooks.permissions import Permissions, Target
from ringfence.isolation.host.grants.grant import GrantError, is_unchanged, open_path, parse_target
from ringfence.isolation.host.grants.grant_advice import how_to_allow
from ringfence.isolation.transport.messages import MAX_PATH
from ringfence.isolation.worker.serve import refused_file


def test_a_relative_path_starts_from_the_base_folder(tmp_path):
    (tmp_path / "data").mkdir()
    grant = open_path("data", tmp_path, write=False)

    found = (tmp_path / "data").stat()
    assert (grant.path, grant.write) == (str(tmp_path / "data"), False)
    assert (grant.device, grant.inode) == (found.st_dev, found.st_ino)
    assert is_unchanged(grant)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").touch()
    assert open_path("~/data", tmp_path / "elsewhere", write=False).path == str(tmp_path / "data")


def test_a_link_is_judged_by_where_it_leads(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "good").symlink_to("data")
    (tmp_path / "bad").symlink_to("home/.ssh")
    (tmp_path / "around").symlink_to(tmp_path / "home" / ".." / "home")

    assert open_path("good", tmp_path, write=True).path == str(tmp_path / "data")
    with pytest.raises(GrantError, match=r"^'bad' \(.*/home/.ssh\) may be granted to no plugin: keys"):
        open_path("bad", tmp_path, write=False)
    with pytest.raises(GrantError, match="your home folder"):
        open_path("around", tmp_path, write=False)


def test_what_has_been_replaced_is_told_apart(tmp_path):
    (tmp_path / "data").mkdir()
    grant = open_path("data", tmp_path, write=False)
    (tmp_path / "data").rename(tmp_path / "old")
    assert not is_unchanged(grant)
    (tmp_path / "data").symlink_to("old")
    assert not is_unchanged(grant)


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("make", [_pipe, _socket])
def test_only_files_and_folders_can_be_granted(tmp_path, make, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "odd")
    with pytest.raises(GrantError, match="'odd' is neither a file nor a folder"):
        open_path("odd", tmp_path, write=False)


@pytest.mark.parametrize(
    ("text", "write", "said"),
    [
        ("", False, "is empty"),
        ("  ", False, "is empty"),
        ("nope", False, "'nope' does not exist"),
        ("nope", True, "make it first, as a plugin cannot"),
        ("file/below", False, "does not exist"),
        ("loop", False, "cannot be opened"),
        ("a\0b", False, "cannot be opened"),
        ("x" * 5000, False, "cannot be opened"),
        ("odd\udcff", False, "cannot be shown as text"),
        ("/", False, "a folder that holds too much"),
        ("~nobody-of-that-name/x", False, "cannot be opened"),
    ],
)
def test_what_cannot_be_granted_is_told_with_the_reason(tmp_path, text, write, said):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "odd\udcff").touch()
    with pytest.raises(GrantError, match=said):
        open_path(text, tmp_path, write=write)


def test_what_a_plugin_could_not_use_anyway_is_told(tmp_path):
    """It runs as the trainer's user, but without what only root may do."""
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "data").touch()
    (tmp_path / "read-only").touch(mode=0o444)
    if os.geteuid() == 0:
        os.chown(tmp_path / "closed", 65534, 65534)
        with pytest.raises(GrantError, match="/closed is closed to user 0 without special rights"):
            open_path("closed/data", tmp_path, write=False)
    with pytest.raises(GrantError, match="cannot be changed by a plugin: its mode is -r--r--r--"):
        open_path("read-only", tmp_path, write=True)
    assert open_path("read-only", tmp_path, write=False)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("example.com:443", Target("example.com", 443)),
        ("Example.COM.:443", Target("example.com", 443)),
        ("localhost:1", Target("localhost", 1)),
        ("my_db:65535", Target("my_db", 65535)),
        ("xn--bcher-kva.example:80", Target("xn--bcher-kva.example", 80)),
        ("10.0.0.7:8080", Target("10.0.0.7", 8080)),
        ("[::1]:80", Target("::1", 80)),
        ("[2001:DB8:0::1]:80", Target("2001:db8::1", 80)),
    ],
)
def test_a_target_is_one_host_and_one_port(text, target):
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("example.com", "is not HOST:PORT"),
        (":443", "is not HOST:PORT"),
        ("", "is not HOST:PORT"),
        ("example.com:", "no port from 1 to 65535"),
        ("example.com:0", "no port from 1 to 65535"),
        ("example.com:65536", "no port from 1 to 65535"),
        ("example.com:https", "no port from 1 to 65535"),
        ("example.com:-1", "no port from 1 to 65535"),
        ("example.com:٤٤٣", "no port from 1 to 65535"),
        ("https://example.com:443", "is a URL"),
        ("example.com:443/path", "is a URL or a path"),
        ("*.example.com:443", "stands for many hosts"),
        ("*:443", "stands for many hosts"),
        ("exa mple.com:443", "no name of a host"),
        ("-x.com:443", "no name of a host"),
        ("a..b:443", "no name of a host"),
        ("user@example.com:443", "no name of a host"),
        ("bücher.example:80", "xn--"),
        ("127.1:80", "no name of a host"),
        ("2130706433:80", "no name of a host"),
        ("0x7f000001:80", "no name of a host"),
        ("1.2.3.4.5:80", "no name of a host"),
        ("::1:80", "only IPv6 stands in brackets"),
        ("[10.0.0.1]:80", "only IPv6 stands in brackets"),
        ("0.0.0.0:80", "no address of one host"),
        ("[::]:80", "no address of one host"),
        ("224.0.0.1:80", "no address of one host"),
        ("255.255.255.255:80", "no address of one host"),
        ("169.254.1.1:80", "no address of one host"),
        ("[fe80::1]:80", "no address of one host"),
        ("169.254.169.254:80", "cloud machines get their keys there"),
        ("[fd00:ec2::254]:80", "cloud machines get their keys there"),
        ("[::ffff:169.254.169.254]:80", "cloud machines get their keys there"),
        ("[64:ff9b::a9fe:a9fe]:80", "cloud machines get their keys there"),
        ("[2002:a9fe:a9fe::]:80", "cloud machines get their keys there"),
        ("[::ffff:0.0.0.0]:80", "no address of one host"),
        ("[::ffff:224.0.0.1]:80", "no address of one host"),
        ("metadata.google.internal:80", "cloud machines get their keys there"),
        ("a" * 254 + ":80", "no name of a host"),
    ],
)
def test_what_is_no_host_and_port_is_told_with_what_would_be_right(text, said):
    with pytest.raises(GrantError, match=said.replace("[", r"\[")):
        parse_target(text)


def test_a_refused_file_comes_with_the_line_that_would_allow_it(tmp_path):
    (tmp_path / "data").touch()
    (tmp_path / "out").mkdir()
    granted = Permissions((), (open_path("data", tmp_path, write=False),))

    assert how_to_allow(bytes(tmp_path / "out"), "acme", Permissions()).endswith(
        f"write beside 'acme': read: [{tmp_path}/out]"
    )
    assert how_to_allow(bytes(tmp_path / "out"), "acme", granted).endswith(
        f": read: [{tmp_path}/data, {tmp_path}/out]"
    )
    assert how_to_allow(bytes(tmp_path / "data"), "acme", granted).endswith(f": write: [{tmp_path}/data]")
    assert how_to_allow(bytes(tmp_path / "out/new"), "acme", granted).endswith(f": write: [{tmp_path}/out]")


@pytest.mark.parametrize(
    "refused",
    [
        b"",
        b"relative",
        b"/etc/shadow",
        b"/",
        b"/proc/1/environ",
        b"~/.ssh/id_ed25519",
        b"/no/such/place/at/all",
        b"/a\0b",
        b"/\xff",
    ],
)
def test_nothing_is_advised_that_a_job_may_not_grant(refused):
    assert how_to_allow(refused, "acme", Permissions()) == ""


class NamedAlikeError(Exception):
    """Another's, by the name and the words of one of Python's."""


NamedAlikeError.__name__ = "PermissionError"


@pytest.mark.parametrize(
    ("raised", "file"),
    [
        (PermissionError(13, "Permission denied", "/srv/data"), b"/srv/data"),
        (PermissionError(1, "Operation not permitted", "/srv/\udcff"), b"/srv/\xff"),
        (PermissionError(13, "Permission denied", "/a", None, "/b"), b"/a"),
        (PermissionError(13, "Permission denied"), b""),
        (PermissionError(13, "Permission denied", 12), b""),
        (PermissionError(13, "Permission denied", "/\ud800"), b""),
        (PermissionError(13, "Permission denied", "/" + "a" * MAX_PATH), b""),
        (PermissionError("[Errno 13] Permission denied: '/srv'"), b""),
        (FileNotFoundError(2, "No such file or directory", "/srv"), b""),
        (NamedAlikeError("[Errno 13] Permission denied: '/srv'"), b""),
    ],
    ids=str,
)
def test_a_refused_file_is_what_python_says_and_not_what_a_text_looks_like(raised, file):
    assert refused_file(raised) == file
