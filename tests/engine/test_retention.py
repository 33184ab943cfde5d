"""Which checkpoints stay: the latest that are whole, and the best; never none."""

import pytest
import torch

from ringfence.engine.checkpoints import retention
from ringfence.engine.checkpoints.checkpoint import CheckpointContents, read_latest, write_checkpoint
from ringfence.engine.checkpoints.retention import list_checkpoints
from ringfence.tensors import pytree


def write(folder, step, metric=None, *, keep=2, higher=True, told=None):
    contents = CheckpointContents(
        step, {"w": torch.full((3,), float(step))}, pytree.encode(step), {}, metric, higher
    )
    note = pytest.fail if told is None else told.append
    return write_checkpoint(folder, contents, {}, keep=keep, note=note)


def steps(folder):
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]


def latest(folder):
    return read_latest(folder, lambda *_: None, note=lambda _: None)[1].step


def damage(path, name="model.safetensors"):
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[:-1])


def test_more_stay_when_a_resumed_job_keeps_more_and_fewer_when_fewer(tmp_path):
    for step in range(4):
        write(tmp_path, step, keep=2)
    assert steps(tmp_path) == [2, 3]
    for step in range(4, 7):
        write(tmp_path, step, keep=4)
    assert steps(tmp_path) == [3, 4, 5, 6]
    write(tmp_path, 7, keep=1)
    assert steps(tmp_path) == [7]


def test_the_first_of_equals_is_the_best(tmp_path):
    for step, metric in enumerate([0.5, 0.9, 0.9, 0.9, 0.1]):
        write(tmp_path, step, metric, keep=1)
    assert steps(tmp_path) == [1, 4]


@pytest.mark.parametrize(("metrics", "higher", "best"), [
    ([0.5, None, 0.4, None], True, 0),
    ([None, float("-inf"), None, None], True, 1),
    ([0.5, float("inf"), 0.9, 0.1], True, 1),
    ([0.5, float("inf"), 0.1, 0.9], False, 2),
    ([0.0, -0.0, 0.0, 0.0], True, 0),
])  # fmt: skip
def test_the_best_of_odd_numbers(tmp_path, metrics, higher, best):
    for step, metric in enumerate(metrics):
        write(tmp_path, step, metric, keep=1, higher=higher)
    assert steps(tmp_path) == sorted({best, 3})


def test_the_best_that_is_written_again_as_another_is_judged_anew(tmp_path):
    for step, metric in enumerate([0.5, 0.9]):
        write(tmp_path, step, metric)
    write(tmp_path, 1, 0.1)
    write(tmp_path, 2, 0.2, keep=1)
    assert steps(tmp_path) == [0, 2]


def test_a_damaged_one_is_not_the_best(tmp_path):
    write(tmp_path, 0, 0.5)
    damage(write(tmp_path, 1, 0.9))
    for step in (2, 3):
        write(tmp_path, step, 0.1)
    assert steps(tmp_path) == [0, 2, 3]


@pytest.mark.parametrize("name", ["model.safetensors", "engine.safetensors", "state.json"])
def test_damaged_ones_do_not_take_the_place_of_one_that_is_whole(tmp_path, name):
    write(tmp_path, 1)
    write(tmp_path, 2)
    write(tmp_path, 3, keep=3)
    for step in (2, 3):
        damage(tmp_path / f"step-{step:08d}", name)
    damage(write(tmp_path, 4), name)
    # Those that were damaged meanwhile do not count: the only whole ones are the first and the last.
    write(tmp_path, 5)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    damage(tmp_path / "step-00000005", name)
    assert latest(tmp_path) == 1
    for step in (6, 7):
        write(tmp_path, step)
    assert steps(tmp_path) == [6, 7]


def test_a_later_one_that_was_passed_over_takes_no_place(tmp_path):
    """A run that went back writes earlier steps than that of the damaged one."""
    write(tmp_path, 14)
    damage(write(tmp_path, 16))
    write(tmp_path, 15, keep=1)
    assert steps(tmp_path) == [15, 16]
    assert latest(tmp_path) == 15
    write(tmp_path, 16, keep=1)
    assert steps(tmp_path) == [16]
    assert latest(tmp_path) == 16


def test_one_that_was_set_aside_is_read_and_gets_its_name_back(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2).rename(tmp_path / ".replaced-step-00000002")
    assert latest(tmp_path) == 2
    write(tmp_path, 3, keep=3)
    assert steps(tmp_path) == [1, 2, 3]
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir())


def test_a_new_one_counts_before_the_one_that_was_set_aside_for_it(tmp_path):
    damage(write(tmp_path, 1))
    (tmp_path / "step-00000001").rename(tmp_path / ".replaced-step-00000001")
    write(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert latest(tmp_path) == 1


def test_links_and_files_in_the_place_of_checkpoints_are_not_followed(tmp_path):
    folder, outside = tmp_path / "checkpoints", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    write(folder, 5)
    (folder / "step-00000001").symlink_to(outside)
    (folder / ".writing-00000003").symlink_to(outside)
    (folder / "step-00000002").write_text("a file")
    for step in (6, 7):
        write(folder, step)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000006", "step-00000007"]
    assert (outside / "precious").read_text() == "mine"


def test_which_is_the_best_is_looked_up_among_so_many_bytes_of_manifests_alone(tmp_path, monkeypatch):
    for step, metric in enumerate([0.9, 0.5, 0.1]):
        write(tmp_path, step, metric, keep=9)
    told = []
    assert retention.list_by_metric(tmp_path, told.append)[0].name == "step-00000000"
    assert told == []

    monkeypatch.setattr(
        retention, "MAX_LOOKED_AT_BYTES", 2 * (tmp_path / "step-00000002/state.json").stat().st_size + 9
    )
    found = retention.list_by_metric(tmp_path, told.append)

    assert [path.name for path in found] == ["step-00000001", "step-00000002"]
    assert len(told) == 1
    assert told[0].startswith("step-00000000 and those before are too many to look which is the best")
