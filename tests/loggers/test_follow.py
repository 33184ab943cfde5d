"""The numbers of a run, read as they are written."""

from __future__ import annotations

import json
import math

import pytest

from ringfence import StepInfo
from ringfence.loggers import follow as follow_module
from ringfence.loggers.follow import Follower, follow
from ringfence.plugins.observer import RunInfo
from ringfence.tracking.folder_lock import hold_lock
from ringfence.tracking.json_lines import LongJournalError
from ringfence.tracking.metrics_log import MetricsLog

METRICS = "metrics.jsonl"


@pytest.fixture
def log(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.started(RunInfo(0, 9, 9, 64, 8, 10, "cpu", "accuracy", higher_is_better=True))
        yield log


def handed(follower):
    return [(one.step, dict(one.values)) for one in follower.new()]


def train(log, *steps, scale=1.0):
    for step in steps:
        log.step(StepInfo(step), scale * step, 16)


def test_each_number_is_handed_on_once_under_the_name_of_what_wrote_it(log, tmp_path):
    follower = Follower(tmp_path)
    assert handed(follower) == []
    train(log, 0)
    log.reported("watch", StepInfo(1), {"norm": 2.0, "norm/l0": 3.0}, None)
    log.reported("train", StepInfo(1), {"loss": 7.0}, None)
    train(log, 1)
    log.evaluated(2, 0, {"loss": 0.5, "accuracy": math.nan}, best=True)

    found = handed(follower)

    assert found[:2] == [
        (0, {"train/loss": 0.0, "train/lr_factor": 1.0}),
        (1, {"train/loss": 1.0, "train/lr_factor": 1.0}),
    ]
    assert (1, {"watch/norm": 2.0, "watch/norm/l0": 3.0}) in found
    assert (1, {"plugin:train/loss": 7.0}) in found
    (kind,) = {name.partition("/")[0] for name in found[-1][1]}
    assert kind in ("test", "validation")
    assert math.isnan(found[-1][1][f"{kind}/accuracy"])
    assert handed(follower) == []
    train(log, 2)
    assert handed(follower) == [(2, {"train/loss": 2.0, "train/lr_factor": 1.0})]


@pytest.mark.parametrize("again", [(), (2,), (2, 3), (2, 3, 4, 5)])
def test_what_a_run_does_again_is_not_handed_on_again(log, tmp_path, again):
    """Cut back, the file is shorter, as long or longer when it is looked at next."""
    follower = Follower(tmp_path)
    train(log, 0, 1)
    position = log.position()
    train(log, 2, 3)
    assert len(handed(follower)) == 4

    log.rolled_back(2, position)
    train(log, *again)
    found = handed(follower) + (train(log, *range(2 + len(again), 8)) or handed(follower))

    assert [step for step, _ in found] == [4, 5, 6, 7]


def test_a_file_cut_back_and_grown_beyond_another_line_is_read_anew(log, tmp_path):
    follower = Follower(tmp_path)
    position = log.position()
    train(log, 0, 1, 2)
    handed(follower)

    log.rolled_back(0, position)
    log.reported("late", StepInfo(0), {"long" * 40: 1.0}, None)
    train(log, 0, 1, 2, 3)

    assert handed(follower) == [
        (0, {f"late/{'long' * 40}": 1.0}),
        (3, {"train/loss": 3.0, "train/lr_factor": 1.0}),
    ]


def test_a_line_that_is_half_written_is_read_when_it_is_whole(tmp_path):
    line = json.dumps({"kind": "train", "step": 0, "loss": 0.5}) + "\n"
    (tmp_path / METRICS).write_text("not json\n" + line[:20])
    follower = Follower(tmp_path)
    assert handed(follower) == []

    (tmp_path / METRICS).write_text("not json\n" + line + line.replace("0,", "1,", 1)[:9])
    assert handed(follower) == [(0, {"train/loss": 0.5})]


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "train", "step": -5, "loss": 1}',
        '{"kind": "train", "step": "1", "loss": 1}',
        '{"kind": "train", "step": ' + "9" * 400 + ', "loss": 1}',
        '{"kind": ["train"], "step": 1, "loss": 1}',
        '{"kind": "plugin", "step": 1, "plugin": 7, "loss": [1]}',
        '{"kind": "train", "step": 1, "loss": true, "x": null, "y": {"z": 1}}',
        '{"kind": "train", "step": 1, "loss": 1' + "0" * 400 + "}",
        "[" * 100_000,
        "\x00\xff",
    ],
)
def test_no_line_of_a_strangers_does_harm(tmp_path, line):
    whole = '{"kind": "train", "step": 3, "loss": 1.0}'
    (tmp_path / METRICS).write_text(f"{line}\n{whole}\n", encoding="latin-1")

    assert handed(Follower(tmp_path))[-1] == (3, {"train/loss": 1.0})


@pytest.mark.parametrize("time", ["1e306", '"NaN"', "-1", '"Infinity"', "true"])
def test_a_time_that_no_logger_can_count_is_none(tmp_path, time):
    line = '{"kind": "train", "step": 3, "loss": 1.0, "time": TIME}\n'
    (tmp_path / METRICS).write_text(
        line.replace("TIME", time) + line.replace("3", "4").replace("TIME", "1.5")
    )

    assert [one.time for one in Follower(tmp_path).new()] == [None, 1.5]


def test_halves_of_characters_are_no_part_of_a_name(tmp_path):
    (tmp_path / METRICS).write_text('{"kind": "train", "step": 3, "a\\ud800": 1.0}\n')

    assert handed(Follower(tmp_path)) == [(3, {"train/a?": 1.0})]


def test_names_and_length_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(follow_module, "MAX_NAMES", 10)
    lines = [json.dumps({"kind": "plugin", "step": n, "plugin": "p", f"p/{n}": 1.0}) for n in range(50)]
    (tmp_path / METRICS).write_text("\n".join(lines) + "\n")
    assert len(handed(Follower(tmp_path))) == 10

    monkeypatch.setattr(follow_module, "MAX_METRICS_BYTES", 1000)
    with pytest.raises(LongJournalError):
        handed(Follower(tmp_path))


def test_no_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").write_text('{"kind": "train", "step": 3, "loss": 1.0}\n')
    (tmp_path / METRICS).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic link"):
        handed(Follower(tmp_path))


def test_a_run_is_followed_to_its_end_and_not_beyond(log, tmp_path):
    lock = hold_lock(tmp_path, "--out")
    lock.__enter__()
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        assert len(waited) < 9
        train(log, len(waited))
        if len(waited) == 3:
            lock.__exit__(None, None, None)

    found = [one.step for some in follow(tmp_path, until_end=True, sleep=sleep) for one in some]

    assert found == [1, 2, 3]
    assert waited == [follow_module.WAIT_S] * 3
    assert [one for some in follow(tmp_path, until_end=False, sleep=sleep) for one in some]
    assert len(waited) == 3


def test_many_numbers_come_some_at_a_time(log, tmp_path, monkeypatch):
    monkeypatch.setattr(follow_module, "AT_ONCE", 3)
    train(log, *range(8))

    assert [len(some) for some in follow(tmp_path, until_end=False)] == [3, 3, 2]
