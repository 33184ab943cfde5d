"""Checkpoints survive crashes, and damage is noticed and named."""

import contextlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ringfence.engine import Contents, list_checkpoints, read_latest, read_manifest, write_checkpoint
from ringfence.hooks import plain
from ringfence.hooks.errors import CheckpointError


def contents(step=1, metric=None, *, higher=True, size=4):
    return Contents(
        step=step,
        tensors={"weight": torch.arange(float(size)), "tied.count": torch.tensor(step)},
        engine=plain.dumps({"step": step}),
        plugins={"../odd name": plain.dumps([1, torch.ones(2)]), "b": plain.dumps({})},
        metric=metric,
        higher_is_better=higher,
    )


def read(folder, **fingerprint):
    return read_latest(folder, fingerprint, note=pytest.fail)


def steps(folder):
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]


def test_what_was_written_is_read(tmp_path):
    folder = tmp_path / "new" / "checkpoints"
    path = write_checkpoint(folder, contents(12, 0.5), {"seed": 1}, keep=3)
    assert path == folder / "step-00000012"
    assert sorted(entry.name for entry in path.iterdir()) == [
        "engine.safetensors", "model.safetensors",
        "plugin-000.safetensors", "plugin-001.safetensors", "state.json",
    ]  # fmt: skip
    found, loaded = read(folder, seed=1)
    assert found == path
    assert (loaded.step, loaded.metric, loaded.higher_is_better) == (12, 0.5, True)
    assert torch.equal(loaded.tensors["weight"], torch.arange(4.0))
    assert loaded.plugins == contents(12).plugins
    assert list(folder.iterdir()) == [path]
    assert safetensors.torch.load_file(path / "model.safetensors").keys() == {"weight", "tied.count"}


def test_latest_and_best_are_kept(tmp_path):
    for step, metric in enumerate([0.1, 0.9, 0.3, None, 0.9, 0.2, 0.5]):
        write_checkpoint(tmp_path, contents(step, metric), {}, keep=2)
    assert steps(tmp_path) == [1, 5, 6]


def test_best_is_the_lowest_where_lower_is_better(tmp_path):
    for step, metric in enumerate([3.0, 1.0, 2.0, 5.0]):
        write_checkpoint(tmp_path, contents(step, metric, higher=False), {}, keep=1)
    assert steps(tmp_path) == [1, 3]


def test_same_step_is_replaced(tmp_path):
    write_checkpoint(tmp_path, contents(5, size=4), {}, keep=3)
    write_checkpoint(tmp_path, contents(5, size=9), {}, keep=3)
    assert read(tmp_path)[1].tensors["weight"].numel() == 9
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_writer_left_is_ignored_and_removed(tmp_path):
    write_checkpoint(tmp_path, contents(1), {}, keep=3)
    leftover = tmp_path / ".writing-00000002"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert read(tmp_path)[1].step == 1
    write_checkpoint(tmp_path, contents(2), {}, keep=3)
    assert not leftover.exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "engine.safetensors", "plugin-001.safetensors", "state.json"]
)
def test_damage_is_named_and_the_one_before_is_taken(tmp_path, name, damage):
    write_checkpoint(tmp_path, contents(1), {}, keep=3)
    damage(write_checkpoint(tmp_path, contents(2), {}, keep=3) / name)
    told = []
    path, loaded = read_latest(tmp_path, {}, note=told.append)
    assert (path.name, loaded.step) == ("step-00000001", 1)
    (message,) = told
    assert f"checkpoint {tmp_path}/step-00000002 is damaged: {name}" in message
    assert "going back to step-00000001" in message


def test_nothing_intact_is_an_error_that_names_all(tmp_path):
    for step in (1, 2):
        flip(write_checkpoint(tmp_path, contents(step), {}, keep=3) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be used.*step-00000002.*step-00000001"):
        read(tmp_path)


def test_every_byte_of_the_manifest_counts(tmp_path):
    path = write_checkpoint(tmp_path, contents(3, 0.25), {"seed": 1}, keep=3)
    manifest = json.loads((path / "state.json").read_text())
    for key in manifest:
        changed = {**manifest, key: "other"}
        (path / "state.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match="does not match its digest"):
            read_manifest(path)


def test_format_of_a_later_version_is_told_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr("ringfence.engine.checkpoint.FORMAT", 2)
    write_checkpoint(tmp_path, contents(1), {}, keep=3)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has format 2; this version of ringfence reads 1"):
        read(tmp_path)


def test_metric_that_is_not_finite_survives(tmp_path):
    write_checkpoint(tmp_path, contents(1, float("inf")), {}, keep=1)
    assert read(tmp_path)[1].metric == float("inf")


def test_path_below_a_file_is_told_with_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "checkpoints"
    with pytest.raises(CheckpointError, match=f"{folder} cannot be used: .*a file, not a folder"):
        write_checkpoint(folder, contents(), {}, keep=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="you may not write there"):
        write_checkpoint(tmp_path / "checkpoints", contents(), {}, keep=1)


@contextlib.contextmanager
def small_disk(path):
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs"]
    mounted = subprocess.run(["mount", *options, path], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def test_full_disk_is_told_and_leaves_the_old_checkpoint(tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk):
        write_checkpoint(disk, contents(1), {}, keep=3)
        with pytest.raises(CheckpointError, match=f"{disk} cannot be used: .*the disk is full"):
            write_checkpoint(disk, contents(2, size=100_000), {}, keep=3)
        assert [entry.name for entry in disk.iterdir()] == ["step-00000001"]
        assert read(disk)[1].step == 1


def test_kill_while_writing_never_leaves_half_a_checkpoint(tmp_path):
    """A child that only writes checkpoints is killed again and again; what it leaves is always readable."""
    code = (
        "import itertools, sys, torch; from pathlib import Path;"
        "from ringfence.engine import Contents, write_checkpoint;"
        "from ringfence.hooks import plain;"
        "torch.set_num_threads(1);"
        "print(flush=True);"
        "[write_checkpoint(Path(sys.argv[1]), Contents(i, {'w': torch.full((50_000,), float(i))},"
        " plain.dumps(i), {}), {}, keep=2) for i in itertools.count()]"
    )
    import sys
    import time

    for delay in (0.05, 0.113, 0.171):
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.kill()
        child.wait()
        child.stdout.close()
        found = list_checkpoints(tmp_path)
        if found:
            _, loaded = read(tmp_path)
            assert (loaded.tensors["w"] == loaded.step).all()
