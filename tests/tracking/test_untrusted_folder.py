"""Files below a folder that may be anybody's."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ringfence.tracking import untrusted_folder as module
from ringfence.tracking.untrusted_folder import OddFileError, Tree

from ..watching import descriptors

SECRET = b"a secret of the user's\n"


@pytest.fixture
def victim(tmp_path) -> Path:
    (tmp_path / "home").mkdir()
    path = tmp_path / "home" / "key"
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    (folder / "reports").mkdir(parents=True)
    (folder / "metrics.jsonl").write_bytes(b"{}\n")
    return folder


def link(run: Path, victim: Path) -> str:
    (run / "reports" / "p.jsonl").symlink_to(victim)
    return "reports/p.jsonl"


def folder_link(run: Path, victim: Path) -> str:
    (run / "samples").symlink_to(victim.parent)
    return "samples/key"


def hard_link(run: Path, victim: Path) -> str:
    (run / "job.yaml").hardlink_to(victim)
    return "job.yaml"


def above(run: Path, victim: Path) -> str:
    return f"reports/../../home/{victim.name}"


LEADS_AWAY = [link, folder_link, hard_link, above]
SAID = ["is a symbolic link", "is a symbolic link", "has another name as well", "is no name of a folder"]


@pytest.fixture
def unguarded(monkeypatch) -> None:
    """Open files as Python does by itself."""
    monkeypatch.setattr(module, "_CALM", os.O_CLOEXEC)
    monkeypatch.setattr(module, "_FOLDER", os.O_RDONLY | os.O_DIRECTORY)
    monkeypatch.setattr(module, "_check_file", lambda found, name: None)


@pytest.mark.parametrize(("way", "said"), list(zip(LEADS_AWAY, SAID, strict=True)))
def test_no_way_leads_to_a_file_elsewhere(run, victim, way, said):
    name = way(run, victim)
    for attempt in (
        lambda: Tree(run).read(name, 100),
        lambda: os.close(Tree(run).open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)),
    ):
        with pytest.raises(OddFileError, match=said):
            attempt()
    assert victim.read_bytes() == SECRET


@pytest.mark.parametrize("way", [link, folder_link, hard_link])
def test_without_the_guard_each_leads_there(run, victim, way, unguarded):
    assert Tree(run).read(way(run, victim), 100) == SECRET


@pytest.mark.parametrize("name", ["../home/key", "/etc/passwd", "reports/../x", "", ".", "reports//x", "x/"])
def test_what_is_no_name_below_the_folder_is_refused(run, victim, name):
    tree = Tree(run)
    for attempt in (
        lambda: tree.read(name, 9),
        lambda: tree.write(name, [b""]),
        lambda: tree.make(name),
        lambda: tree.remove(name),
        lambda: tree.remove_folder(name),
    ):
        with pytest.raises(OddFileError, match="is no name of a"):
            attempt()
    assert victim.read_bytes() == SECRET


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "a FIFO"),
        (make_socket, "a socket"),
        (os.mkdir, "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a symbolic link"),
    ],
)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT])
def test_only_regular_files_are_opened_and_nothing_waits(run, make: Callable, what, flags):
    make(run / "odd")
    with pytest.raises(OddFileError, match=f"^.Errno {errno.ELOOP}. odd is {what}"):
        Tree(run).open("odd", flags)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_not_opened(run):
    try:
        os.mknod(run / "odd", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    with pytest.raises(OddFileError, match="odd is a device"):
        Tree(run).open("odd", os.O_RDONLY)


def test_the_folder_itself_may_be_a_link(tmp_path, run):
    (tmp_path / "chosen").symlink_to(run)
    tree = Tree(tmp_path / "chosen")
    assert tree.read("metrics.jsonl", 10) == b"{}\n"
    tree.write("reports/x", [b"1", b"2"], sync=True)
    assert (run / "reports" / "x").read_bytes() == b"12"
    assert tree.names("reports") == ["x"]
    assert list(tree.odd()) == []


def test_a_file_is_read_up_to_its_bound(run):
    assert Tree(run).read("metrics.jsonl", 3) == b"{}\n"
    with pytest.raises(OddFileError, match=r"metrics\.jsonl has more than 2 bytes"):
        Tree(run).read("metrics.jsonl", 2)


def test_a_link_is_replaced_and_removed_and_what_it_leads_to_stays(run, victim):
    name = link(run, victim)
    Tree(run).write(name, [b"new"])
    assert (run / name).read_bytes() == b"new"
    assert not (run / name).is_symlink()
    (run / name).unlink()
    link(run, victim)
    Tree(run).remove(name)
    assert not os.path.lexists(run / name)
    assert victim.read_bytes() == SECRET


def test_no_folder_is_made_or_removed_through_a_link(run, victim):
    folder_link(run, victim)
    for attempt in (Tree(run).make, Tree(run).remove_folder):
        with pytest.raises(OddFileError, match="samples is a symbolic link"):
            attempt("samples")
    assert victim.read_bytes() == SECRET


def test_folders_are_made_listed_and_removed(run):
    tree = Tree(run)
    tree.make("reports")
    tree.make("reports/p")
    tree.write("reports/p/x", [b""])
    assert tree.names("reports/p") == ["x"]
    tree.remove_folder("reports")
    tree.remove_folder("reports")
    assert tree.names("reports") == []
    assert tree.names() == ["metrics.jsonl"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(run):
    def chunks():
        yield b"half"
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        Tree(run).write("metrics.jsonl", chunks())
    assert Tree(run).read("metrics.jsonl", 10) == b"{}\n"
    assert Tree(run).names() == ["metrics.jsonl", "reports"]


def test_whatever_is_odd_is_told(run, victim):
    names = [link(run, victim), folder_link(run, victim), hard_link(run, victim)]
    os.mkfifo(run / "reports" / "fifo")
    told = sorted(Tree(run).odd())
    assert [sentence.partition(" ")[0] for sentence in told] == sorted(
        [names[0], "samples", names[2], "reports/fifo"]
    )


def test_files_of_folders_that_share_them_may_have_several_names(run, victim):
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "model").hardlink_to(victim)
    assert [sentence.partition(" ")[0] for sentence in Tree(run).odd()] == ["checkpoints/model"]
    assert list(Tree(run).odd(several_names=["checkpoints"])) == []


def test_a_look_around_ends(run, monkeypatch):
    monkeypatch.setattr(module, "MAX_ENTRIES", 20)
    deep = run.joinpath(*"d" * 30)
    deep.mkdir(parents=True)
    assert "deep" in next(Tree(run).odd())
    for n in range(21):
        (run / f"f{n}").touch()
    assert list(Tree(run).odd())[-1] == "it holds more than 20 files"


def test_no_descriptor_is_left(run, victim):
    before = descriptors()
    for way in LEADS_AWAY:
        name = way(run, victim)
        with pytest.raises(OddFileError):
            Tree(run).read(name, 10)
    Tree(run).write("x", [b""])
    list(Tree(run).odd())
    assert descriptors() == before
