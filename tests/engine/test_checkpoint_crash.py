"""Killed, or cut off from power, after each single operation: the old checkpoint or the new one is there."""

import random
import shutil

import pytest
import torch
from crashing import Disk, killed_at, watched

from ringfence.engine.checkpoints.checkpoint import CheckpointContents, read_latest, write_checkpoint
from ringfence.engine.checkpoints.manifest import read_manifest
from ringfence.engine.checkpoints.retention import list_checkpoints
from ringfence.tensors import pytree

KEEP = 2


def contents(step, metric=None, *, value=None, size=4):
    return CheckpointContents(
        step=step,
        tensors={"weight": torch.full((size,), float(step if value is None else value))},
        engine=pytree.encode({"step": step}),
        plugins={"optim": pytree.encode({"step": torch.tensor(step)})},
        metric=metric,
    )


def write(folder, what):
    return write_checkpoint(folder, what, {"seed": 1}, keep=KEEP, environment={})


def held(folder):
    """Return step and value of what a resumed run would go on from."""
    _, loaded = read_latest(folder, lambda *_: None, note=lambda _: None)
    return loaded.step, loaded.tensors["weight"][0].item()


def steps(folder):
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]


def three(folder):
    """The first of three is the best."""
    for step, metric in ((1, 0.9), (2, 0.5), (3, 0.6)):
        write(folder, contents(step, metric))


def first(folder):
    """Nothing is there, not even the folder."""


def leftovers(folder):
    """What earlier kills have left: a checkpoint that was set aside, and two that are worthless."""
    three(folder)
    (folder / "step-00000003").rename(folder / ".replaced-step-00000003")
    shutil.copytree(folder / "step-00000002", folder / ".removing-step-00000002")
    (folder / ".removing-step-00000002" / "state.json").unlink()
    (folder / ".writing-00000004").mkdir()
    (folder / ".writing-00000004" / "model.safetensors").write_bytes(b"half")


#: What is there, what is written, what a resumed run finds before and after, and the steps that stay.
CASES = {
    "first": (first, contents(0), None, (0, 0.0), [0]),
    "next": (three, contents(4, 0.7), (3, 3.0), (4, 4.0), [1, 3, 4]),
    "same step again": (three, contents(3, 0.6, value=33), (3, 3.0), (3, 33.0), [1, 2, 3]),
    "leftovers": (leftovers, contents(4, 0.95), (3, 3.0), (4, 4.0), [3, 4]),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    prepare, what, before, after, stay = CASES[request.param]
    prepare(tmp_path / "start")
    count = 0

    def fresh():
        nonlocal count
        count += 1
        target = tmp_path / f"{count}"
        if (tmp_path / "start").exists():
            shutil.copytree(tmp_path / "start", target)
        return target

    return fresh, what, before, after, stay


def check_whole(folder, what, before, after, stay, *, killed):
    """Check what a kill has left, and that the next write leaves nothing of it."""
    found = held(folder) if before or list_checkpoints(folder) else None
    assert found in ({before, after} if killed else {after})
    best = [path for path in list_checkpoints(folder) if read_manifest(path)["metric"] in {0.9, 0.95}]
    assert best or before is None
    write(folder, what)
    assert held(folder) == after
    assert steps(folder) == stay
    assert sorted(path.name for path in folder.iterdir()) == [
        *(["best"] if before or best else []),
        *(f"step-{step:08d}" for step in stay),
    ]
    if before or best:
        assert read_manifest(folder / "best")["metric"] == max(
            metric for path in list_checkpoints(folder) if (metric := read_manifest(path)["metric"])
        )


def test_killed_after_every_operation_the_old_or_the_new_one_is_there(case):
    fresh, what, before, after, stay = case
    count, killed = 0, True
    while killed:
        count += 1
        folder = fresh()
        killed = killed_at(count, lambda folder=folder: write(folder, what))
        check_whole(folder, what, before, after, stay, killed=killed)
        shutil.rmtree(folder)
    assert count > 20
    print(f"{count - 1} operations")


def test_killed_in_the_middle_of_every_write(tmp_path):
    """Of a state that is large enough to be written in pieces."""
    what, count, killed = contents(4, 0.7, size=300_000), 0, True
    three(tmp_path / "start")
    while killed:
        count += 1
        folder = tmp_path / f"{count}"
        shutil.copytree(tmp_path / "start", folder)
        killed = killed_at(count, lambda folder=folder: write(folder, what), half=True)
        assert held(folder) in ({(3, 3.0), (4, 4.0)} if killed else {(4, 4.0)})
        shutil.rmtree(folder)


def test_a_power_cut_after_every_operation_leaves_the_old_or_the_new_one(case, tmp_path):
    fresh, what, before, after, _ = case
    folder = fresh()
    root = tmp_path / "root"
    root.mkdir()
    if folder.exists():
        folder.rename(root / "checkpoints")
    folder, disk = root / "checkpoints", Disk(root)
    seen, source, busy = set(), random.Random(3), False  # noqa: S311 - the same cuts on every run

    def check(allowed):
        for state in disk.states(3, source):
            if (key := (repr(state), len(allowed))) not in seen:
                seen.add(key)
                disk.lay_out(state, target := tmp_path / "cut")
                there = target / "checkpoints"
                found = held(there) if before or list_checkpoints(there) else None
                assert found in allowed
                shutil.rmtree(target)

    def before_each(*args, **kwargs):
        if not busy:
            disk.before(*args, **kwargs)

    def after_each(*args, **kwargs):
        nonlocal busy
        if not busy:
            disk.after(*args, **kwargs)
            busy = True
            check({before, after})
            busy = False

    with watched(before_each, after_each):
        write(folder, what)
    # Once it is said to be written, no cut can undo that.
    check({after})
    print(f"{len(seen)} states")
