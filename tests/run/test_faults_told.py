"""Each decision about a plugin that fails is told once in the log, the events, the record and the report."""

from __future__ import annotations

import html
import json
import os
import re
import signal

import pytest
import torch

from ringfence import RunAbortedError
from ringfence.api.run_display import PlainView, RunDisplay
from ringfence.job.job_file import read_job
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

from ..journals import read_journal
from ..watching import until

JOB = """\
model: {name: mlp, hidden: [8]}
data: {name: mnist10k, limit: 128}
steps: 12
batch_size: 16
threads: 1
checkpoint_every: 5
snapshot_every: 5
plugins:
  - gradclip: {max_norm: 1.0}
  - monitor: {bins: 8}
  - optim: {algorithm: adamw, lr: 1e-3}
    on_failure: abort
"""


class Killer(RunDisplay):
    """Shows the run as a plain log does, and kills a plugin's worker after the steps that it is told."""

    def __init__(self, lines, victims):
        super().__init__(PlainView(lines.append))
        self._victims = dict(victims)
        self._workers = {}

    def plugins_started(self, plugins, order):
        super().plugins_started(plugins, order)
        self._workers = {plugin.spec.name: plugin._workers[0].channel.process for plugin in plugins}

    def step(self, step, loss, samples):
        super().step(step, loss, samples)
        victim = self._victims.pop(step.global_step, None)
        if victim is not None:
            os.kill(self._workers[victim].pid, signal.SIGKILL)
            # Its end of the socket is closed before anything else is asked of it.
            assert until(self._workers[victim].has_ended)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Train until a plugin was restarted, one disabled, and one has ended the run."""
    folder, lines = tmp_path_factory.mktemp("told"), []
    (folder / "job.yaml").write_text(JOB)
    killer = Killer(lines, {2: "gradclip", 6: "monitor", 8: "optim"})
    threads = torch.get_num_threads()
    with pytest.raises(RunAbortedError) as caught:
        execute(
            prepare(read_job(folder / "job.yaml"), folder), folder / "run", RunOptions(observers=[killer])
        )
    torch.set_num_threads(threads)
    return folder / "run", lines, str(caught.value)


@pytest.fixture(scope="module")
def record(ended):
    return json.loads((ended[0] / "run.json").read_text())


def test_each_decision_is_one_entry_of_the_record(record):
    told = [(fault["plugin"], fault["decision"], fault["steps_lost"]) for fault in record["faults"]]
    assert told == [("gradclip", "restarted", 3), ("monitor", "disabled", 0), ("optim", "aborted", 4)]
    first, watched, last = [fault["step"] for fault in record["faults"]]
    # Nobody waits for a monitor: that it is gone may be noticed a step later, or in a call that it has had
    # in hand since an earlier one.
    assert (first, last) == (3, 9)
    assert watched in range(4, 9)
    assert {fault["error"] for fault in record["faults"]} == {"PluginCrashedError"}
    roles = [fault["hook"].partition(".")[0] for fault in record["faults"]]
    assert roles == ["gradient", "monitor", "optimizer"]
    assert (record["steps_lost"], record["faults_left_out"]) == (7, 0)
    assert record["faults"][0]["recovery_s"] > 0
    assert {plugin["name"]: (plugin["restarts"], plugin["state"]) for plugin in record["plugins"]} == {
        "gradclip": (1, "closed"),
        "monitor": (0, "disabled"),
        "optim": (0, "failed"),
    }
    assert (record["status"], record["checkpoint"]) == ("aborted", "checkpoints/step-00000005")


def test_each_decision_is_one_line_of_the_log_and_one_event(ended, record):
    folder, lines, error = ended
    events = [str(event["message"]) for event in read_journal(folder / "events.jsonl")]
    *told, aborted = record["faults"]
    for fault in told:
        assert lines.count(fault["message"]) == 1
        assert events.count(fault["message"]) == 1
    # What ends the run is told by the error that it ends with, which the command shows.
    assert error.startswith(aborted["message"])
    assert not [line for line in lines if "the run was ended" in line]
    assert [event for event in events if "the run was ended" in event] == [f"ended: {error}"]
    assert len([event for event in events if "SIGKILL" in event]) == 3


def test_each_decision_is_shown_once_by_the_report(ended, record):
    page = re.sub(r"\s+", " ", html.unescape((ended[0] / "report.html").read_text()))
    for fault in record["faults"]:
        assert page.count(re.sub(r"\s+", " ", fault["message"])) == 1
    assert page.count("ended the run, as told above") == 1


@pytest.mark.soak
def test_recovery_takes_no_longer_than_it_may(record):
    print("recovery", record["faults"][0]["recovery_s"])
    assert record["faults"][0]["recovery_s"] < 2


@pytest.mark.soak
def test_a_run_that_was_ended_counts_on_when_it_is_resumed(ended, record):
    folder, lines = ended[0], []
    execute(
        prepare(read_job(folder.parent / "job.yaml"), folder.parent),
        folder,
        RunOptions(resume=True, observers=[RunDisplay(PlainView(lines.append))]),
    )
    again = json.loads((folder / "run.json").read_text())
    assert (again["status"], again["resumed"], again["steps"]) == ("completed", 1, 12)
    assert again["faults"] == record["faults"]
    assert again["steps_lost"] == 7
    assert again["started"] == record["started"]
    assert again["seconds"] > record["seconds"] > 0
    before = {plugin["name"]: plugin for plugin in record["plugins"]}
    for plugin in again["plugins"]:
        assert plugin["state"] == "closed"
        assert plugin["calls"] >= before[plugin["name"]]["calls"] + 7 * (plugin["name"] != "monitor")
        assert plugin["restarts"] == before[plugin["name"]]["restarts"]
        assert plugin["peak_bytes"] >= before[plugin["name"]]["peak_bytes"]
