"""A resumed run counts on from what its earlier processes have written, whatever became of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest
import torch

from ringfence.api.run_display import QuietView, RunDisplay
from ringfence.job.job_file import read_job
from ringfence.plugins.failure_policy import FAULTS_KEPT, FaultLog, FaultRecord
from ringfence.plugins.interface import PluginUsage
from ringfence.plugins.stop_request import StopRequest
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare
from ringfence.tracking.run_history import EarlierPlugin, RunHistory, read_earlier

from ..journals import read_journal

JOB = """\
model: {name: mlp, hidden: [8, 8]}
data: {name: mnist10k, limit: 64}
steps: 6
batch_size: 16
threads: 1
checkpoint_every: 2
plugins:
  - optim: {algorithm: adamw, lr: 1e-3}
    isolation: trusted
"""


class Copying(RunDisplay):
    """Copies the folder after a step: that is what a kill would leave there."""

    def __init__(self, folder, *, after, to):
        super().__init__(QuietView())
        self._folder, self._after, self._to = folder, after, to

    def step(self, step, loss, samples):
        super().step(step, loss, samples)
        if step.global_step + 1 == self._after and not self._to.exists():
            shutil.copytree(self._folder, self._to)


def train(folder, *sets, resume=False, watcher=None, stop=None):
    """Run the job and return its record."""
    path = folder.parent / "job.yaml"
    path.write_text(JOB)
    threads = torch.get_num_threads()
    try:
        execute(
            prepare(read_job(path, sets), path.parent),
            folder,
            RunOptions(resume=resume, observers=[watcher] if watcher else [], stop=stop or StopRequest()),
        )
    finally:
        torch.set_num_threads(threads)
    return record(folder)


def record(folder):
    return json.loads((folder / "run.json").read_text())


def events(folder):
    return [str(event["message"]) for event in read_journal(folder / "events.jsonl")]


def test_a_killed_run_counts_on_from_its_last_checkpoint_and_a_stopped_one_from_its_end(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    straight = train(first, watcher=Copying(first, after=5, to=second))
    left = record(second)
    assert (left["status"], left["resumed"], left["plugins"][0]["calls"]) == ("running", 0, 4)
    assert (left["checkpoint"], left["seconds"] > 0) == ("checkpoints/step-00000004", True)

    # Stopped at once, then resumed to the end.
    stop = StopRequest()
    stop.make()
    stopped = train(second, resume=True, stop=stop)
    assert (stopped["status"], stopped["resumed"], stopped["plugins"][0]["calls"]) == ("interrupted", 1, 4)
    assert stopped["checkpoint"] == left["checkpoint"]
    ended = train(second, resume=True)
    assert (ended["status"], ended["resumed"], ended["steps"]) == ("completed", 2, 6)
    assert ended["plugins"][0]["calls"] == 6
    assert ended["plugins"][0]["seconds"] > left["plugins"][0]["seconds"]
    assert ended["seconds"] > stopped["seconds"] >= left["seconds"]
    assert ended["started"] == left["started"]
    assert ended["weights_sha256"] == straight["weights_sha256"]


DAMAGE = {
    "missing": None,
    "empty": b"",
    "cut": b'{"schema": 1, "pl',
    "list": b"[]",
    "not utf-8": b'{"schema": 1, "started": "\xff"}',
    "newer": b'{"schema": 2}',
    "negative": b'{"schema": 1, "seconds": -1}',
    "not finite": b'{"schema": 1, "seconds": 1e999}',
    "no count": b'{"schema": 1, "resumed": "often"}',
    "huge count": b'{"schema": 1, "steps_lost": 1%s}' % (b"0" * 40),
    "no plugin": b'{"schema": 1, "plugins": [{"calls": 1}]}',
    "no fault": b'{"schema": 1, "faults": [{"step": 1}]}',
    "other decision": json.dumps(
        {
            "schema": 1,
            "faults": [asdict(FaultRecord(1, "p", None, "E", "m", "restarted")) | {"decision": "x"}],
        }
    ).encode(),
    "deep": b'{"schema": 1, "faults": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_record_that_is_damaged_counts_as_none_and_says_why(tmp_path, damage):
    if DAMAGE[damage] is not None:
        (tmp_path / "run.json").write_bytes(DAMAGE[damage])
    earlier, told = read_earlier(tmp_path)
    assert earlier == RunHistory()
    (sentence,) = told
    assert sentence.startswith("run.json of this run's earlier processes cannot be used (")
    assert sentence.endswith("are counted anew from here on")


def test_a_run_whose_record_is_damaged_resumes_and_says_so_once(tmp_path):
    folder = tmp_path / "run"
    train(folder, "steps=4")
    (folder / "run.json").write_text("{")
    ended = train(folder, resume=True)
    assert (ended["status"], ended["resumed"], ended["plugins"][0]["calls"]) == ("completed", 1, 2)
    assert len([event for event in events(folder) if "cannot be used" in event]) == 1


def test_a_record_of_an_earlier_version_is_one_without_faults(tmp_path):
    """0.1 wrote neither faults nor how often a run was resumed."""
    old = {"schema": 1, "seconds": None, "started": "2026-01-01T00:00:00+00:00", "plugins": [{"name": "p"}]}
    (tmp_path / "run.json").write_text(json.dumps(old))
    earlier, told = read_earlier(tmp_path)
    assert told == ()
    assert (earlier.resumed, earlier.faults, earlier.seconds) == (0, [], None)
    assert earlier.plugin("p") == EarlierPlugin("p") == EarlierPlugin(name="p")


def test_costs_of_a_plugin_add_up_and_its_peak_is_the_highest():
    earlier = EarlierPlugin(
        "p", 100, 5, 1.5, 2, 3, demoted=True, attempts={"a": 1, "b": 2}, attempts_at_least=False, printed=3
    )
    usage = PluginUsage(
        peak_bytes=70, calls=7, seconds=0.25, restarts=1, skipped=1, attempts={"b": 1, "c": 4}
    )
    usage.output.add(["a", "b"], 2)
    assert earlier.counted_on(usage) == {
        "peak_bytes": 100,
        "calls": 12,
        "seconds": 1.75,
        "restarts": 3,
        "skipped": 4,
        "demoted": True,
        "attempts": {"a": 1, "b": 3, "c": 4},
        "attempts_at_least": False,
        "printed": 5,
    }


@pytest.mark.parametrize(
    ("before", "now", "total"),
    [(None, None, None), (None, {"a": 1}, {"a": 1}), ({"a": 1}, None, {"a": 1}), ({}, {}, {})],
)
def test_what_was_tried_is_unknown_only_if_nobody_ever_knew(before, now, total):
    assert EarlierPlugin("p", attempts=before).counted_on(PluginUsage(attempts=now))["attempts"] == total


def faults(first, count):
    log = FaultLog()
    for step in range(first, first + count):
        log.add(FaultRecord(step, "p", None, "PluginCrashedError", "told", "restarted", steps_lost=1))
    return log


@pytest.mark.parametrize("before", [0, 10, FAULTS_KEPT, 3 * FAULTS_KEPT])
@pytest.mark.parametrize("now", [0, 10, 3 * FAULTS_KEPT])
def test_faults_of_all_processes_are_kept_within_bounds(tmp_path, before, now):
    """As if one process had seen them all."""
    told = {"schema": 1, **RunHistory().faults_with(faults(0, before))}
    (tmp_path / "run.json").write_text(json.dumps(told))
    merged = read_earlier(tmp_path)[0].faults_with(faults(before, now))
    assert merged == RunHistory().faults_with(faults(0, before + now))
    assert merged["steps_lost"] == before + now
    assert len(merged["faults"]) + merged["faults_left_out"] == before + now
