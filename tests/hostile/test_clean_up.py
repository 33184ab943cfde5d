"""What a plugin leaves in its scratch folder, and what the host makes of it."""

import os
import socket

import pytest

from ringfence.isolation.host.limits.scratch_folder import look_into, remove_tree

from .aftermath import assert_unharmed
from .attacks.traps import ODD_NAMES

_DEEP = 1000


def trap(folder, victims):
    """Fill a folder with what leads elsewhere, blocks who opens it, or has a name that no shell survives."""
    secret = victims.home / ".ssh/id_ed25519"
    (folder / "link").symlink_to(secret)
    (folder / "link_to_folder").symlink_to(victims.home)
    (folder / "link_upwards").symlink_to("../..")
    (folder / "link_to_itself").symlink_to("link_to_itself")
    os.link(victims.home / ".netrc", folder / "hard")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket"))
    for name in ODD_NAMES:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(b"left")
    (folder / "closed").mkdir()
    (folder / "closed" / "inside").write_text("inside")
    (folder / "closed" / "link").symlink_to(victims.home)
    (folder / "closed").chmod(0)
    here = os.open(".", os.O_PATH)
    os.chdir(folder)
    for _ in range(_DEEP):
        os.mkdir("deep")
        os.chdir("deep")
    os.fchdir(here)
    os.close(here)


def follow_and_remove(folder):
    """Clean up as who thinks of no links does."""
    for entry in list(os.scandir(folder)):
        if entry.is_dir():
            follow_and_remove(entry.path)
        else:
            os.unlink(entry.path)


@pytest.mark.attack(5)
def test_nothing_that_is_left_survives_and_nothing_else_is_touched(stage):
    stage.victims.rest()
    before = stage.victims.look()

    outcome = stage.run(stage.attacker("traps:leave", "Saboteur"))

    assert outcome.error is None
    assert outcome.codes["left"] == len(ODD_NAMES) + 3
    assert outcome.weights == stage.reference
    assert_unharmed(stage, before)


@pytest.mark.attack(5)
def test_clean_up_follows_no_link_and_opens_no_pipe(stage, tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    stage.victims.rest()
    before = stage.victims.look()
    trap(folder, stage.victims)

    said = look_into(str(folder)).too_much

    assert "nested" in said or "cannot be looked into" in said
    assert remove_tree(folder)
    assert not folder.exists()
    assert_unharmed(stage, before)


@pytest.mark.control(5)
def test_a_clean_up_that_follows_links_removes_what_they_lead_to(tmp_path):
    folder, target = tmp_path / "scratch", tmp_path / "home"
    for each in (folder, target):
        each.mkdir()
    (target / "key").write_text("a secret")
    (folder / "link_to_folder").symlink_to(target)

    follow_and_remove(folder)

    assert not (target / "key").exists()
