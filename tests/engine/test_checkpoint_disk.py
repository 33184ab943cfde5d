"""Faults of a real disk while a checkpoint is written: told, nothing lost, and the next one works."""

import contextlib
import os
import resource
import shutil
import subprocess
import warnings

import pytest
import torch
from engine_helpers import TapeRecorder, config, hooks_of, image_data, mlp, run, sgd

from ringfence.engine.checkpoints.checkpoint import CheckpointContents, read_latest, write_checkpoint
from ringfence.hooks.errors import CheckpointError
from ringfence.tensors import pytree

NOBODY = 65534
PAGE = 4096
OLD, NEW = "step-00000001", "step-00000002"


def contents(step, size=10_000):
    return CheckpointContents(
        step=step,
        tensors={"weight": torch.full((size,), float(step))},
        engine=pytree.encode({"step": step}),
        plugins={"optim": pytree.encode({"moment": torch.full((2000,), float(step))})},
    )


def write(folder, step, **options):
    return write_checkpoint(folder, contents(step, **options), {"seed": 1}, keep=3)


def latest(folder):
    return read_latest(folder, lambda *_: None, note=pytest.fail)[1].step


@contextlib.contextmanager
def disk(path, options):
    """A small file system of its own."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs with {options}: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fails(folder, says):
    """Check that a checkpoint cannot be written, and that the one before is as it was, alone."""
    with pytest.raises(CheckpointError) as caught:
        write(folder, 2)
    assert str(folder) in str(caught.value)
    assert says in str(caught.value)
    assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == [OLD]
    assert latest(folder) == 1


def test_a_disk_that_is_full_after_any_page(tmp_path):
    with disk(tmp_path / "disk", "size=512k") as folder:
        write(folder, 1)
        filler = folder / "filler"
        full = 0
        for pages in range(40):
            filler.write_bytes(b"")
            space = os.statvfs(folder)
            filler.write_bytes(bytes((space.f_bavail - pages) * PAGE))
            assert os.statvfs(folder).f_bavail == pages
            try:
                write(folder, 2)
            except CheckpointError:
                fails(folder, "the disk is full; free some space")
                full += 1
            else:
                break
        assert full > 10
        assert latest(folder) == 2


def test_a_disk_that_takes_no_more_files_after_any_number(tmp_path):
    with disk(tmp_path / "disk", "size=1m,nr_inodes=40") as folder:
        write(folder, 1)
        full = 0
        for left in range(10):
            fillers = [folder / f"filler{n}" for n in range(os.statvfs(folder).f_favail - left)]
            for filler in fillers:
                filler.touch()
            try:
                write(folder, 2)
            except CheckpointError:
                fails(folder, "the disk is full")
                full += 1
            else:
                break
            finally:
                for filler in fillers:
                    filler.unlink()
        assert full == 5
        assert latest(folder) == 2


def test_a_disk_that_becomes_read_only(tmp_path):
    with disk(tmp_path / "disk", "size=1m") as folder:
        write(folder, 1)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        fails(folder, "the file system is read-only; choose another folder")
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        write(folder, 2)
        assert latest(folder) == 2


def as_nobody(action):
    """Run ``action`` in a child that is an ordinary user."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where there are threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            action()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, "it failed as another user; see above"


@pytest.fixture
def open_to_all(tmp_path):
    """A folder that another user can reach: pytest's own are for their owner."""
    folder = tmp_path
    while folder.stat().st_mode & 0o005 != 0o005 and folder != folder.parent:
        folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    return tmp_path


def test_a_folder_of_another_user(open_to_all):
    folder = open_to_all / "checkpoints"
    write(folder, 1)
    as_nobody(
        lambda: fails(folder, "you may not write there; choose another folder or change its permissions")
    )
    write(folder, 2)


def test_a_checkpoint_that_may_not_be_read(open_to_all):
    folder = open_to_all / "checkpoints"
    write(folder, 1)
    (write(folder, 2) / "model.safetensors").chmod(0o600)

    def look():
        told = []
        assert read_latest(folder, lambda *_: None, note=told.append)[1].step == 1
        assert f"{NEW} is damaged: model.safetensors: Permission denied; going back to {OLD}" in told[0]

    as_nobody(look)


def test_a_quota_that_is_used_up(open_to_all):
    with disk(open_to_all / "disk", f"size=1m,usrquota,usrquota_block_hardlimit={25 * PAGE}") as top:
        folder = top / "checkpoints"
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)

        def use_up():
            write(folder, 1)
            (folder / "filler").write_bytes(bytes(4 * PAGE))
            fails(folder, "your disk quota is used up; free some space")
            (folder / "filler").unlink()
            shutil.rmtree(folder / OLD)
            write(folder, 2)

        as_nobody(use_up)


@contextlib.contextmanager
def limited(which, soft):
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def test_files_that_may_not_be_so_long(tmp_path):
    write(tmp_path, 1)
    with limited(resource.RLIMIT_FSIZE, 20_000):
        fails(tmp_path, "raise that limit")
    write(tmp_path, 2)


def test_no_more_files_may_be_open(tmp_path):
    write(tmp_path, 1)
    held = []
    with limited(resource.RLIMIT_NOFILE, 400):
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(4):  # none is left, then one, and so on
            with pytest.raises(CheckpointError, match="too many files are open"):
                write(tmp_path, 2)
            os.close(held.pop())
        for descriptor in held:
            os.close(descriptor)
    assert latest(tmp_path) == 1
    write(tmp_path, 2)
    assert latest(tmp_path) == 2


def test_what_cannot_be_removed_is_told_once_and_ends_nothing(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    observer = TapeRecorder()
    with disk(checkpoints / ".removing-step-00000009", "size=64k") as stuck:
        run(mlp(), image_data(), hooks_of(sgd()), config(), observer=observer, checkpoints=checkpoints)
        told = [event for event in observer.events if "cannot be removed" in event]
        assert len(told) == 1
        assert str(stuck) in told[0]
        assert "remove it yourself" in told[0]
    assert sum("checkpoint " in event for event in observer.events) > 2


def test_an_old_one_that_cannot_be_removed_is_told_and_the_new_one_is_there(tmp_path):
    with disk(tmp_path / OLD, "size=64k"):
        told = []
        for step in (2, 3):
            write_checkpoint(tmp_path, contents(step), {}, keep=1, note=told.append)
        assert len(set(told)) == 1  # a run tells it once
        assert (
            f"{tmp_path / OLD} is no longer needed and cannot be removed: Device or resource busy" in told[0]
        )
    assert latest(tmp_path) == 3


def test_something_in_the_way_is_left_alone_and_told(tmp_path):
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(CheckpointError, match="a file of that name is in the way"):
        write(tmp_path / "checkpoints", 1)
    assert (tmp_path / "checkpoints").read_text() == "mine"
