"""``checkpoints/best`` has the files of the best checkpoint, and costs no second copy of them."""

import errno
import json
import os
import shutil

import pytest
import torch

from ringfence.engine.checkpoints import best_checkpoint
from ringfence.engine.checkpoints.checkpoint import (
    CheckpointContents,
    Limits,
    read_checkpoint,
    read_latest,
    write_checkpoint,
)
from ringfence.engine.checkpoints.manifest import read_manifest
from ringfence.engine.checkpoints.retention import list_checkpoints
from ringfence.tensors import pytree

LIMITS = Limits(1 << 20, {}, 1 << 20)


def write(folder, step, metric=None, *, keep=1, higher=True, told=None, judged_by="accuracy"):
    contents = CheckpointContents(
        step, {"w": torch.full((3,), float(step))}, pytree.encode(step), {}, metric, higher
    )
    note = pytest.fail if told is None else told.append
    return write_checkpoint(folder, contents, {"metric": judged_by}, keep=keep, note=note)


def best(folder) -> int:
    """Return the step of the best checkpoint, read whole."""
    return int(read_checkpoint(folder / "best", LIMITS).tensors["w"][0])


def files(folder):
    return {path.name: path.stat() for path in folder.iterdir()}


@pytest.mark.parametrize(("higher", "expected"), [(True, [0, 1, 1, 3, 3]), (False, [0, 0, 2, 2, 2])])
def test_it_is_the_best_after_each_checkpoint_and_stays_after_those_that_were_later(
    tmp_path, higher, expected
):
    found = []
    for step, metric in enumerate([0.5, 0.9, 0.1, 0.95, 0.4]):
        write(tmp_path, step, metric, higher=higher)
        found.append(best(tmp_path))
    assert found == expected
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        f"step-{step:08d}" for step in sorted({expected[-1], 4})
    ]


def test_files_have_a_second_name_and_are_not_written_again(tmp_path):
    write(tmp_path, 0, 0.9)
    first = files(tmp_path / "best")
    original = files(tmp_path / "step-00000000")
    assert first.keys() == original.keys()
    assert {name: found.st_ino for name, found in first.items()} == {
        name: found.st_ino for name, found in original.items()
    }
    folder = (tmp_path / "best").stat().st_ino
    write(tmp_path, 1, 0.5)
    assert (tmp_path / "best").stat().st_ino == folder


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV])
def test_where_a_file_can_have_but_one_name_it_is_copied(tmp_path, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path, 0, 0.9)
    write(tmp_path, 1, 0.5)
    assert best(tmp_path) == 0
    assert all(found.st_nlink == 1 for found in files(tmp_path / "best").values())
    # That it is a copy does not make it another one.
    folder = (tmp_path / "best").stat().st_ino
    write(tmp_path, 2, 0.6)
    assert (tmp_path / "best").stat().st_ino == folder


def test_what_cannot_be_made_is_told_and_ends_no_run(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        write(tmp_path, 0, 0.9, told=told)
    (said,) = told
    assert said == f"{tmp_path}/best could not be made of step-00000000: No space left on device"
    write(tmp_path, 1, 0.5)
    assert (best(tmp_path), sorted(path.name for path in tmp_path.iterdir())) == (
        0,
        ["best", "step-00000000", "step-00000001"],
    )


def test_without_an_evaluation_there_is_none_and_with_another_metric_it_is_that_ones(tmp_path):
    write(tmp_path, 0)
    assert not (tmp_path / "best").exists()
    write(tmp_path, 1, 0.9)
    write(tmp_path, 2, judged_by="f1")
    assert not (tmp_path / "best").exists()
    write(tmp_path, 3, 0.2, judged_by="f1")
    assert best(tmp_path) == 3


@pytest.mark.parametrize("what", ["file", "link", "damaged"])
def test_whatever_has_its_name_gives_way(tmp_path_factory, tmp_path, what):
    write(tmp_path, 0, 0.9)
    shutil.rmtree(tmp_path / "best")
    victim = tmp_path_factory.mktemp("victim")
    if what == "file":
        (tmp_path / "best").write_text("mine")
    elif what == "link":
        (tmp_path / "best").symlink_to(victim)
    else:
        (tmp_path / "best").mkdir()
        (tmp_path / "best" / "state.json").write_text("{}")
    write(tmp_path, 1, 0.5)
    assert best(tmp_path) == 0
    assert list(victim.iterdir()) == []


def test_whoever_goes_on_reads_checkpoints_by_their_steps_alone(tmp_path):
    write(tmp_path, 0, 0.9)
    write(tmp_path, 1, 0.5)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000000", "step-00000001"]
    path, contents = read_latest(tmp_path, lambda *_: None, note=pytest.fail)
    assert (path.name, contents.step) == ("step-00000001", 1)
    # Its manifest is that of its step, under another name; no other name will do.
    assert read_manifest(tmp_path / "best")["step"] == 0
    (tmp_path / "best").rename(tmp_path / "step-00000009")
    assert json.loads((tmp_path / "step-00000009" / "state.json").read_text())["step"] == 0
    path, _ = read_latest(tmp_path, lambda *_: None, note=lambda _: None)
    assert path.name == "step-00000001"


def test_a_second_name_that_fails_for_another_reason_is_no_reason_to_copy(tmp_path, monkeypatch):
    copied = []
    monkeypatch.setattr(best_checkpoint.shutil, "copyfile", lambda *a, **_: copied.append(a))
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "fault")))
    told = []
    write(tmp_path, 0, 0.9, told=told)
    assert (len(told), copied) == (1, [])
