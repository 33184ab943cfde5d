"""How a job is prepared, with how many threads; and what a full disk at its end does to a run."""

import errno
import json
import os
from dataclasses import replace

import pytest
import torch

from ringfence.api.run_display import QuietView, RunDisplay
from ringfence.engine.data import Dataset
from ringfence.hooks.errors import RunAbortedError
from ringfence.job.job_file import read_job
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.run import job_fingerprint, long_waits
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import default_threads, prepare
from ringfence.tracking.json_lines import Journal

from ..cli.conftest import TRUSTED_JOB
from ..watching import until


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("asked", "threads"),
    [
        *(("3", 3), (" 2 ", 2), ("4,2", 4)),
        *((text, None) for text in ("", "0", "-1", "many", "²", "1e3", "9" * 5000)),
    ],
)
def test_the_environment_says_how_many_threads_there_are(monkeypatch, asked, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert default_threads() == (threads or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("written", "threads"), [("threads: 1\n", 1), ("", 3)])
def test_the_job_comes_before_the_environment_and_the_folder_says_what_it_was(
    tmp_path, monkeypatch, written, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (tmp_path / "job.yaml").write_text(TRUSTED_JOB.replace("threads: 1\n", written))

    execute(prepare(read_job(tmp_path / "job.yaml"), tmp_path), tmp_path / "run", RunOptions(report=False))

    assert torch.get_num_threads() == threads
    assert json.loads((tmp_path / "run" / "run.json").read_text())["threads"] == threads
    assert read_job(tmp_path / "run" / "job.yaml").job.threads == threads


class Told(RunDisplay):
    """Keeps the events, as a terminal would show them."""

    def __init__(self):
        super().__init__(QuietView())
        self.events = []

    def event(self, message):
        self.events.append(message)


@pytest.fixture
def full_at_the_end(monkeypatch):
    """A plugin that prints as it is closed, onto a disk that is full by then."""
    is_full = []

    def close(plugin):
        is_full.append(True)
        plugin.usage.output.add(["goodbye 0", "goodbye 1"], 2)

    def append(journal, record, append=Journal.append):
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(journal, record)

    monkeypatch.setattr(LocalPlugin, "close", close)
    monkeypatch.setattr(Journal, "append", append)


@pytest.mark.usefixtures("full_at_the_end")
def test_a_run_that_is_done_stays_so_where_the_news_of_its_end_cannot_be_kept(tmp_path):
    (tmp_path / "job.yaml").write_text(TRUSTED_JOB)
    watcher = Told()

    outcome = execute(
        prepare(read_job(tmp_path / "job.yaml"), tmp_path),
        tmp_path / "run",
        RunOptions(observers=[watcher], report=False),
    )

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (outcome.result.status, record["status"], record["error"]) == ("completed", "completed", None)
    assert record["weights_sha256"] == outcome.result.weights_sha256
    (lost,) = [event for event in watcher.events if "could not be written" in event]
    assert lost == (
        "the run's folder could not be written at its end (the disk is full): "
        "the last events or curves are missing in it"
    )
    printed = [event.partition(": ")[2] for event in watcher.events if " printed: " in event]
    assert printed == ["goodbye 0", "goodbye 1"]


@pytest.mark.usefixtures("full_at_the_end")
def test_what_ended_a_run_is_told_where_the_news_of_its_end_cannot_be_kept(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no such loss")

    monkeypatch.setattr("ringfence.engine.train.take_step", fail)
    (tmp_path / "job.yaml").write_text(TRUSTED_JOB)
    with pytest.raises(RunAbortedError, match="no such loss"):
        execute(
            prepare(read_job(tmp_path / "job.yaml"), tmp_path), tmp_path / "run", RunOptions(report=False)
        )
    assert "no such loss" in json.loads((tmp_path / "run" / "run.json").read_text())["error"]


@pytest.mark.parametrize("is_slow", [True, False])
def test_a_pass_over_all_data_before_the_start_is_told_if_it_takes_long(tmp_path, monkeypatch, is_slow):
    told = []

    def taking_long(function):
        """Return ``function`` as with data of many gigabytes: it has not ended when somebody is told."""

        def waiting(*arguments):
            before = len(told)
            assert not is_slow or until(lambda: len(told) > before)
            return function(*arguments)

        return waiting

    monkeypatch.setattr(long_waits, "TOLD_AFTER_S", 0.05 if is_slow else 60.0)
    monkeypatch.setattr(Dataset, "input_range", taking_long(Dataset.input_range))
    monkeypatch.setattr(job_fingerprint, "digest_data", taking_long(job_fingerprint.digest_data))
    augment = "plugins:\n  - augment: {ops: [{flip: {}}]}\n    isolation: trusted\n"
    (tmp_path / "job.yaml").write_text(TRUSTED_JOB.replace("plugins:\n", augment))
    prepare(read_job(tmp_path / "job.yaml"), tmp_path, tell=told.append)
    expected = [
        "reading the training data, to know between which numbers they lie …",
        "reading the data, to know them again when the run is resumed …",
    ]
    assert told == (expected if is_slow else [])


def test_the_range_of_the_data_is_not_asked_for_where_nobody_wants_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Dataset, "input_range", lambda _: pytest.fail("it was read"))
    (tmp_path / "job.yaml").write_text(TRUSTED_JOB)
    prepare(read_job(tmp_path / "job.yaml"), tmp_path)


class Counter:
    """A driver that counts, in this process and those before."""

    name = "counter"

    def __init__(self):
        self.steps, self.ended = 0, False

    def between_steps(self, run):
        self.steps += 1

    def beside(self):
        return None

    def trained(self, run):
        self.ended = True

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def test_the_drivers_of_a_job_are_handed_to_its_run(tmp_path):
    (tmp_path / "job.yaml").write_text(TRUSTED_JOB)
    folder, counters = tmp_path / "run", (Counter(), Counter())
    for counter, steps in zip(counters, (4, 6), strict=True):
        prepared = prepare(read_job(tmp_path / "job.yaml", [f"steps={steps}"]), tmp_path)
        assert not prepared.drivers
        execute(replace(prepared, drivers=[counter]), folder, RunOptions(resume=steps == 6, report=False))
    assert [(counter.steps, counter.ended) for counter in counters] == [(4, True), (6, True)]
