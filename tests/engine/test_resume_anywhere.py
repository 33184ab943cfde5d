"""A run may end at any step, batch or evaluation, again and again, and comes to the same, bit for bit."""

import contextlib
import functools
import json
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from engine_helpers import (
    Jitter,
    Killed,
    Momentum,
    StopAt,
    TapeRecorder,
    Watcher,
    adamw,
    asking,
    config,
    drawing_convnet,
    hooks_of,
    image_data,
    plugin,
    run,
)
from torch import nn

from ringfence.engine.config import EarlyStopping
from ringfence.engine.schedules import Cosine
from ringfence.hooks.errors import CheckpointError
from ringfence.tracking.metrics_log import MetricsLog

from ..watching import BESIDE

pytestmark = pytest.mark.usefixtures("one_thread")

#: Three steps an epoch: of two batches twice, then of one.
DATA = {"train": 18, "test": 8}
SETTINGS = {
    "batch_size": 4,
    "grad_accum_steps": 2,
    "epochs": 4,
    "schedule": Cosine(warmup_steps=2),
    "eval_every": 2,
    "eval_batch_size": 4,
    "checkpoint_every": 2,
    "snapshot_every": 5,
    "early_stopping": EarlyStopping(patience=4),
}
STEPS = 12


@pytest.fixture
def folder(tmp_path):
    """A folder in memory where there is one: hundreds of checkpoints are synced here."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
    with tempfile.TemporaryDirectory(prefix=BESIDE, dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@dataclass
class Fuse:
    """Counts the batches that go through the model, and kills before the one after ``left``."""

    left: int
    burnt: int = 0
    during: list[bool] = field(default_factory=list)

    def __call__(self, module, inputs):
        if self.burnt == self.left:
            raise Killed
        self.burnt += 1
        self.during.append(module.training)


def all_plugins():
    return hooks_of(plugin(Jitter), plugin(Momentum), adamw(), plugin(Watcher))


def settings(**changes):
    return config(**(SETTINGS | changes))


def train(observer, checkpoints=None, fuse=None, **more):
    changes = more.pop("changes", {})
    model: nn.Module = drawing_convnet()
    if fuse is not None:
        model.register_forward_pre_hook(fuse)
    stop = {"stop": asking(observer.stop)} if isinstance(observer, StopAt) else {}
    return run(
        model, image_data(**DATA), all_plugins(), settings(**changes),
        observer=observer, checkpoints=checkpoints, **stop, **more,
    )  # fmt: skip


@functools.cache
def straight():
    observer = TapeRecorder()
    return train(observer), observer.tape


def assert_same_as_straight(result, observer):
    expected, tape = straight()
    assert expected.steps == STEPS
    assert result.weights_sha256 == expected.weights_sha256
    assert (result.status, result.steps, result.epochs) == (expected.status, expected.steps, expected.epochs)
    assert result.final_metrics == expected.final_metrics
    assert (result.best_metric, result.best_step) == (expected.best_metric, expected.best_step)
    assert observer.tape == tape


def stopped_at(folder, *steps):
    """Stop after each of ``steps`` in turn, then go on to the end."""
    tape, resume = [], False
    for step in steps:
        result = train(StopAt(step, tape), folder, resume=resume)
        assert (result.status, result.steps) == ("interrupted", step)
        resume = True
    observer = TapeRecorder(tape)
    return train(observer, folder, resume=True), observer


@pytest.mark.parametrize("step", range(STEPS - 1))
def test_a_run_stopped_after_any_step_and_once_more_equals_one_that_was_not(folder, step):
    assert_same_as_straight(*stopped_at(folder, step, min(step + 4, STEPS - 1)))


def test_a_run_stopped_after_every_step_equals_one_that_was_not(folder):
    assert_same_as_straight(*stopped_at(folder, *range(STEPS)))


def killed(folder, *fuses):
    """Kill before the given count of batches in each process in turn, then go on to the end."""
    tape, resume, where = [], False, []
    for left in fuses:
        fuse = Fuse(left)
        try:
            result = train(TapeRecorder(tape), folder, fuse, resume=resume)
        except Killed:
            where.append(fuse)
            resume = any(folder.glob("step-*"))
            if not resume:
                tape.clear()
        else:
            return result, TapeRecorder(tape), where
    observer = TapeRecorder(tape)
    return train(observer, folder, resume=resume), observer, where


def batches_of_a_run():
    fuse = Fuse(10**9)
    train(TapeRecorder(), fuse=fuse)
    return fuse.burnt


@pytest.mark.parametrize("part", range(4))
def test_a_run_killed_before_any_batch_equals_one_that_was_not(folder, part):
    """Between the batches of an accumulation, in an evaluation, in the first step, in the last."""
    total = batches_of_a_run()
    assert total > 30
    seen = set()
    for left in range(part, total, 4):
        result, observer, where = killed(folder / str(left), left)
        assert_same_as_straight(result, observer)
        seen |= {(len(fuse.during) > 1, *fuse.during[-2:]) for fuse in where}
    assert {True, False} <= {mode for modes in seen for mode in modes[1:]}


def test_a_run_killed_again_and_again_at_random_equals_one_that_was_not(folder):
    draw = random.Random(4)  # noqa: S311 - repeatable, not secret
    for trial in range(6):
        fuses = [draw.randrange(1, 18) for _ in range(6)]
        result, observer, where = killed(folder / str(trial), *fuses)
        assert_same_as_straight(result, observer)
        assert len(where) > 1


def written(folder):
    """Return what was measured: all lines but those about processes, without the time of day."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line | {"time": None} for line in lines if line["kind"] != "run"]


def test_the_record_on_disk_of_a_run_killed_twice_is_that_of_one_that_was_not(folder):
    """Lines of steps that are taken again do not come twice, nor are any lost."""

    def start(name, left=10**9, *, resume=False):
        place = folder / name
        place.mkdir(exist_ok=True)
        with contextlib.closing(MetricsLog(place, resumed=resume)) as observer:
            return train(observer, place / "checkpoints", Fuse(left), resume=resume)

    expected = start("straight")
    for first, second in ((4, 9), (7, 8), (21, 15)):
        name = f"killed-{first}-{second}"
        with pytest.raises(Killed):
            start(name, first)
        with pytest.raises(Killed):
            start(name, second, resume=True)
        assert start(name, resume=True).weights_sha256 == expected.weights_sha256
        assert written(folder / name) == written(folder / "straight")


def test_a_run_killed_before_its_first_checkpoint_has_nothing_to_go_on_from(folder):
    with pytest.raises(Killed):
        train(TapeRecorder(), folder, Fuse(0))
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        train(TapeRecorder(), folder, resume=True)
    # A new run may have the folder: nothing in it would be lost.
    observer = TapeRecorder()
    assert_same_as_straight(train(observer, folder), observer)


@pytest.mark.parametrize("step", [1, 5, 9])
def test_another_cadence_of_snapshots_and_checkpoints_changes_nothing(folder, step):
    tape = []
    train(StopAt(step, tape), folder, changes={"checkpoint_every": 5, "snapshot_every": 1})
    train(StopAt(step + 1, tape), folder, resume=True, changes={"checkpoint_every": 1})
    observer = TapeRecorder(tape)
    result = train(observer, folder, resume=True, changes={"keep_checkpoints": 1, "snapshot_every": 2})
    assert_same_as_straight(result, observer)


def test_a_run_that_early_stopping_ended_goes_on_once_it_is_more_patient(folder):
    early = {"early_stopping": EarlyStopping(patience=1, min_delta=1.0)}
    observer = TapeRecorder()
    ended = train(observer, folder, changes=early)
    assert (ended.status, ended.steps) == ("stopped_early", 4)
    again = train(TapeRecorder(observer.tape), folder, resume=True, changes=early)
    assert (again.status, again.steps) == ("stopped_early", 4)
    last = TapeRecorder(observer.tape)
    result = train(last, folder, resume=True, changes={"early_stopping": None})
    expected, tape = straight()
    assert (result.status, result.steps) == ("completed", STEPS)
    assert result.weights_sha256 == expected.weights_sha256
    assert last.tape == tape
