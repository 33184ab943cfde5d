"""The host changes modes for a worker: of regular files below its scratch folder, and of nothing else."""

import ctypes
import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence.isolation.host.grants.denials import MAX_MODES, MAX_TOLD
from ringfence.isolation.host.grants.file_modes import change_mode
from ringfence.isolation.policy.syscalls import BY_HOST
from ringfence.tensors import pytree

from .test_denials import told

AT_FDCWD, NOFOLLOW, EMPTY_PATH = -100 & 0xFFFFFFFF, 0x100, 0x1000
HIGH = 1 << 32


class Scene:
    """A worker, played by this process, its scratch folder, and what lies outside."""

    def __init__(self, folder):
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        (self.scratch / "folder").mkdir()
        self.own = self.scratch / "folder" / "own"
        self.outside = folder / "outside"
        for path in (self.own, self.outside):
            path.write_text("x")
            path.chmod(0o600)
        (self.scratch / "link").symlink_to(self.outside)
        (self.scratch / "link-in").symlink_to(self.own)
        (self.scratch / "folder-out").symlink_to(folder)
        self.is_asked = lambda: True

    def change(self, call, *arguments):
        """Ask for it as a worker would; returns the error, or 0."""
        kept = [ctypes.create_string_buffer(os.fsencode(each)) for each in arguments if isinstance(each, str)]
        texts = iter(kept)
        numbers = [ctypes.addressof(next(texts)) if isinstance(each, str) else each for each in arguments]
        numbers += [0] * (6 - len(numbers))
        return change_mode(str(self.scratch), threading.get_native_id(), call, numbers, self.is_asked)


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path.resolve())
    before = {path: path.lstat().st_mode for path in (made.outside, made.scratch, made.scratch / "folder")}
    yield made
    assert {path: path.lstat().st_mode for path in before} == before


@pytest.fixture
def opened():
    """Open what is to be closed with the test."""
    kept = []

    def open_(path, flags=os.O_RDONLY):
        kept.append(os.open(path, flags))
        return kept[-1]

    yield open_
    for each in kept:
        os.close(each)


def modes(*files):
    return [os.stat(each).st_mode for each in files]  # noqa: PTH116 - descriptors too


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_mode_of_an_own_file_is_changed_as_far_as_its_owner_goes(scene, opened):
    assert scene.change("fchmod", opened(scene.own), 0o100500) == 0
    assert mode_of(scene.own) == 0o500
    assert scene.change("fchmod", opened(scene.own, os.O_PATH) | HIGH, 0o777) == 0
    assert mode_of(scene.own) == 0o700


def test_a_file_that_may_not_be_opened_any_more_is_opened_up_again(scene, opened):
    """Libraries that copy make one that may only be written, and open it up when it is full."""
    new = os.open(scene.scratch / "new", os.O_WRONLY | os.O_CREAT, 0o200)
    assert scene.change("fchmod", new, 0o100600) == 0
    os.close(new)
    assert mode_of(scene.scratch / "new") == 0o600


@pytest.mark.parametrize("how", ["absolute", "relative", "of a folder", "without following"])
def test_it_may_be_named_in_every_way(scene, opened, monkeypatch, how):
    monkeypatch.chdir(scene.scratch)
    folder = opened("folder")
    arguments = {
        "absolute": ("chmod", str(scene.own), 0o400),
        "relative": ("chmod", "folder/../folder/own", 0o400),
        "of a folder": ("fchmodat", folder, "own", 0o400),
        "without following": ("fchmodat2", AT_FDCWD, "folder/own", 0o400, NOFOLLOW),
    }[how]
    assert scene.change(*arguments) == 0
    assert mode_of(scene.own) == 0o400


@pytest.mark.parametrize("mode", [0o4700, 0o2700, 0o1700, 0o106600, 0o4700 | HIGH])
def test_no_file_is_made_set_uid_set_gid_or_sticky(scene, opened, mode):
    assert scene.change("fchmod", opened(scene.own), mode) == errno.EPERM
    assert scene.change("chmod", str(scene.own), mode) == errno.EPERM
    assert mode_of(scene.own) == 0o600


def test_nothing_outside_is_changed_however_it_is_named(scene, opened, monkeypatch):
    monkeypatch.chdir(scene.scratch)
    outside = opened(scene.outside)
    tries = [
        ("fchmod", outside, 0o777),
        ("fchmod", opened("link"), 0o777),
        ("chmod", str(scene.outside), 0o777),
        ("chmod", f"{scene.scratch}/../outside", 0o777),
        ("chmod", "../outside", 0o777),
        ("chmod", "folder-out/outside", 0o777),
        ("chmod", "link", 0o777),
        ("chmod", f"/proc/self/fd/{outside}", 0o777),
        ("chmod", f"/proc/{os.getpid()}/fd/{outside}", 0o777),
        ("fchmodat", opened(scene.outside.parent), "outside", 0o777),
        ("fchmodat", opened("folder"), "../../outside", 0o777),
        ("fchmodat2", AT_FDCWD, "link", 0o777, 0),
        ("fchmodat2", outside, "", 0o777, EMPTY_PATH),
    ]
    assert [each for each in tries if scene.change(*each) != errno.EPERM] == []


def test_nothing_but_a_file_is_changed(scene, opened, monkeypatch):
    monkeypatch.chdir(scene.scratch)
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    reader, writer = os.pipe()
    region = os.memfd_create("ringfence")
    tries = [
        ("fchmod", opened("."), 0o777),
        ("fchmod", opened("folder"), 0o777),
        ("chmod", str(scene.scratch), 0o777),
        ("chmod", ".", 0o777),
        ("chmod", "folder", 0o777),
        ("chmod", "pipe", 0o777),
        ("chmod", "socket", 0o777),
        ("chmod", "link-in", 0o777),
        ("fchmod", opened("pipe", os.O_RDONLY | os.O_NONBLOCK), 0o777),
        ("fchmod", reader, 0o777),
        ("fchmod", region, 0o777),
        ("fchmod", opened("/dev/null"), 0o777),
        ("chmod", "/dev/null", 0o777),
    ]
    before = modes("pipe", "socket", region)
    assert [each for each in tries if scene.change(*each) != errno.EPERM] == []
    assert modes("pipe", "socket", region) == before
    for each in (reader, writer, region):
        os.close(each)


def test_what_is_not_there_is_told_and_nonsense_refused(scene, opened):
    deleted = opened(scene.own)
    scene.own.unlink()
    assert scene.change("chmod", str(scene.own), 0o600) == errno.ENOENT
    assert scene.change("fchmod", deleted, 0o600) == errno.ENOENT
    for call in (
        ("fchmod", 4000, 0o600),
        ("fchmod", -1 & 0xFFFFFFFFFFFFFFFF, 0o600),
        ("chmod", 0, 0o600),
        ("chmod", 0xFFFFFFFFFFFFFFFF, 0o600),
        ("chmod", "x" * 5000, 0o600),
        ("chmod", "", 0o600),
        ("fchmodat", 4000, "own", 0o600),
    ):
        assert scene.change(*call) in (errno.EPERM, errno.ENOENT), call


def test_a_file_in_whose_place_another_was_put_is_not_taken_for_it(scene, opened):
    """The descriptor is of a file that has lost its name to another."""
    descriptor = opened(scene.own)
    scene.own.rename(scene.scratch / "moved")
    assert scene.change("fchmod", descriptor, 0o500) == 0  # followed to its new name
    (scene.scratch / "moved").unlink()
    replacement = Path(f"{scene.scratch}/moved (deleted)")
    replacement.write_text("x")
    replacement.chmod(0o600)
    assert scene.change("fchmod", descriptor, 0o500) == errno.EPERM
    assert mode_of(replacement) == 0o600


def test_what_is_exchanged_while_the_host_is_at_it_changes_nothing_else(scene, opened):
    outside, descriptor = opened(scene.outside), opened(scene.own)

    def exchanges():
        os.dup2(outside, descriptor)
        scene.own.rename(scene.scratch / "moved")
        scene.own.symlink_to(scene.outside)
        return True

    scene.is_asked = exchanges
    assert scene.change("fchmod", descriptor, 0o500) == 0
    assert mode_of(scene.scratch / "moved") == 0o500


def test_nothing_is_changed_for_a_thread_that_waits_no_more(scene, opened):
    """Its number may be another's."""
    scene.is_asked = lambda: False
    assert scene.change("fchmod", opened(scene.own), 0o500) == errno.EPERM
    assert mode_of(scene.own) == 0o600


NUMBERS = st.integers(0, 2**64 - 1) | st.integers(0, 300) | st.sampled_from([AT_FDCWD, AT_FDCWD | HIGH])
PATHS = st.text(st.sampled_from("./x\udcff\n "), max_size=20) | st.just("/proc/self/fd/0")


@given(st.sampled_from(BY_HOST), st.lists(NUMBERS | PATHS, min_size=4, max_size=4))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_a_call_is_made_with_it_gets_an_answer(scene, call, arguments):
    """What the host did not expect would end the thread that answers all plugins."""
    numbers = [0 if isinstance(each, str) and call == "fchmod" else each for each in arguments]
    scene.is_asked = lambda: False
    assert scene.change(call, *numbers) in (errno.EPERM, errno.ENOENT)


# in a sandbox


def test_a_plugin_copies_files_with_their_modes(start, gradients, step):
    plugin = told(start("copying:Copies"))
    plugin.call("backward", {"gradients": gradients}, step)
    assert pytree.decode(plugin.state_dict()) == {
        "as the library of C++ does": "copied, 0o600",
        "shutil.copy": "copied, 0o700",
        "a file outside": "EPERM",
        "set-uid": "EPERM",
        "its folder": "EPERM",
    }
    assert plugin.usage.attempts == {}


def test_modes_are_changed_for_a_plugin_so_often_and_attempts_are_counted_after_that(start, gradients, step):
    plugin = told(start("copying:OnAndOn", options={"times": MAX_MODES + 10, "tried": 2}))
    plugin.call("backward", {"gradients": gradients}, step)
    state = pytree.decode(plugin.state_dict())
    # Those that the probes tried count as well.
    assert MAX_MODES - 10 < state["done"] < MAX_MODES
    assert state["errors"] == ["EPERM"] * 4
    assert plugin.usage.attempts == {"become another user (setuid)": 4}
    assert not plugin.usage.attempts_at_least


def test_modes_are_changed_after_more_attempts_than_are_counted(start, gradients, step):
    plugin = told(start("copying:OnAndOn", options={"times": 3, "tried": MAX_TOLD + 10}))
    plugin.call("backward", {"gradients": gradients}, step)
    state = pytree.decode(plugin.state_dict())
    assert state["done"] == 3
    assert state["errors"] == ["EPERM"] * 2 * (MAX_TOLD + 10)
    assert plugin.usage.attempts == {"become another user (setuid)": MAX_TOLD}
    assert plugin.usage.attempts_at_least


def test_where_nobody_listens_modes_stay_what_they_are(confined):
    result = confined("change_mode", listen=True, supervised=True)
    assert result["error"] == "EPERM"
    assert "it cannot change modes of its files" in result["details"]["seccomp"]
