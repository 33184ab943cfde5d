"""How a run ends when the user wants it to: with real signals, in real processes."""

import json
import os
import random
import re
import signal
import tempfile
import time
from pathlib import Path

import pytest

from ringfence.cli.signals import LAST_S, STARTING_S
from ringfence.isolation.host.limits.cgroup import own_groups

from ..watching import children, is_running
from .conftest import SMALL_JOB
from .forking import Runs

# They judge processes by the time that they take to end.
pytestmark = [pytest.mark.alone, pytest.mark.room]

#: One sandboxed plugin, which the tests stop, so that the host waits for it.
JOB = SMALL_JOB.replace("steps: 6", "steps: 3000") + "    deadline_s: 600\n"
#: What no busy machine takes beyond the second that is promised; `make soak` allows these less.
SLACK_S = float(os.environ.get("SLACK_S", "60"))


class Trainer:
    """One run, its plugins, and what it prints."""

    def __init__(self, runs, folder, *flags, resume=False):
        self.out = folder / "run"
        self.output = folder / "output"
        self.runs = runs
        where = ("--resume", "run") if resume else ("job.yaml", "--out", "run")
        self.pid = runs.start("train", *where, "--quiet", *flags, cwd=folder, output=self.output)

    def until_step(self, step):
        journal = self.out / "metrics.jsonl"
        wait_for(lambda: journal.exists() and f'"step":{step},' in journal.read_text(), 90, self.pid)
        return self

    def steps_taken(self):
        lines = map(json.loads, (self.out / "metrics.jsonl").read_text().splitlines())
        return [line["step"] + 1 for line in lines if line["kind"] == "train"]

    def until_zygote(self):
        wait_for(self.zygotes, 60, self.pid)
        return self

    def until_sandbox(self):
        wait_for(lambda: left_of(self.pid), 60, self.pid)
        return self

    def zygotes(self):
        """Return the process that plugins are forked from, in a list; others come and go."""
        return [
            pid for pid in children(self.pid) if b"ringfence.isolation.worker.zygote" in read(pid, "cmdline")
        ]

    def stop_plugin(self):
        """Stop its plugin's worker: whatever it has in hand is never answered."""
        for worker in children(self.zygotes()[0]):
            os.kill(worker, signal.SIGSTOP)
        time.sleep(0.3)  # until the host waits for it

    def family(self):
        zygotes = self.zygotes()
        return [*zygotes, *(worker for zygote in zygotes for worker in children(zygote))]

    def signal(self, *numbers):
        """Send signals, wait for the end, and return the status and how long that took after the last."""
        for number in numbers:
            sent = time.monotonic()
            os.kill(self.pid, number)
            time.sleep(0.1)
        return self.runs.wait(), time.monotonic() - sent

    def record(self):
        return json.loads((self.out / "run.json").read_text())


@pytest.fixture(scope="module")
def server():
    with Runs() as running:
        yield running


@pytest.fixture
def runs(server):
    yield server
    server.end()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def wait_for(condition, limit_s, pid=None):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        assert pid is None or is_running(pid), "it ended"
        time.sleep(0.005)


def left_of(pid):
    """Return the scratch folders and control groups of a process."""
    folders = list(Path(tempfile.gettempdir()).glob(f"ringfence-{pid}-*"))
    groups = {group for parent in own_groups().values() for group in parent.glob(f"ringfence-{pid}-*")}
    return [*folders, *groups]


def test_a_plugin_that_hangs_is_cut_off_in_the_stated_time_and_the_run_resumes_to_the_same_weights(
    runs, folder, tell_time
):
    few = (
        "--set",
        "steps=600",  # as many as a busy machine's test is late by
        "--set",
        "snapshot_every=20",
        "--set",
        "checkpoint_every=99",
        "--set",
        "stop_within_s=1",
    )
    trainer = Trainer(runs, folder, *few)
    trainer.until_step(25)
    family = trainer.family()
    assert len(family) == 2
    trainer.stop_plugin()
    reached = trainer.steps_taken()[-1]
    status, seconds = trainer.signal(signal.SIGTERM)
    tell_time(f"a hanging plugin, stop_within_s=1: {seconds:.2f} s")
    assert status == 130
    assert seconds < 1 + 4 * SLACK_S  # with the checkpoint and the report
    # What ends with its parent ends after it.
    wait_for(lambda: not any(map(is_running, family)), 1 + SLACK_S)
    assert left_of(trainer.pid) == []
    record = trainer.record()
    assert record["status"] == "interrupted"
    assert record["steps"] % 20 == 0
    assert record["steps"] >= 20
    output = trainer.output.read_text()
    assert "stopping after this step, with a checkpoint, within 1 s; once more ends at once" in output
    # None were, if it was stopped right after a snapshot.
    assert ("after that given up" in output) == (reached > record["steps"])
    assert "continue with: ringfence train --resume run" in output
    assert "Traceback" not in output
    [event] = [line for line in (trainer.out / "events.jsonl").read_text().splitlines() if "cut off" in line]
    # In whichever call it was when it was stopped.
    assert re.search(r"plugin 'optim' in 'optimizer\.(forward|backward|state_dict)'", event)
    assert record["plugins"][0]["restarts"] == 0
    assert runs_on(runs, folder) == straight(runs, folder, *few)


def runs_on(runs, folder):
    resumed = Trainer(runs, folder, resume=True)
    assert runs.wait() == 0, resumed.output.read_text()
    return resumed.record()["weights_sha256"]


def straight(runs, folder, *flags):
    (folder / "straight").mkdir()
    (folder / "straight/job.yaml").write_text(
        JOB.replace("adamw, lr: 1e-3}", "adamw, lr: 1e-3}\n    isolation: trusted")
    )
    trainer = Trainer(runs, folder / "straight", *flags)
    assert runs.wait() == 0, trainer.output.read_text()
    return trainer.record()["weights_sha256"]


def test_the_second_signal_ends_at_once_and_leaves_nothing(runs, folder, tell_time):
    trainer = Trainer(runs, folder).until_step(5)
    family = trainer.family()
    trainer.stop_plugin()
    status, seconds = trainer.signal(signal.SIGINT, signal.SIGINT)
    tell_time(f"the second Ctrl-C, while a plugin hangs: {seconds:.2f} s")
    assert status == 130
    assert seconds < 1 + SLACK_S
    # What ends with its parent ends after it.
    wait_for(lambda: not any(map(is_running, family)), 1 + SLACK_S)
    if seconds < LAST_S:  # what an end leaves that is late is for the next run to sweep
        assert left_of(trainer.pid) == []
        assert "interrupted, at once" in trainer.output.read_text()
    assert "Traceback" not in trainer.output.read_text()


@pytest.mark.parametrize(
    ("until", "told"),
    [
        # That may be imported before the job is read, or while plugins start.
        (Trainer.until_zygote, "interrupted before "),
        (Trainer.until_sandbox, "interrupted before the first step"),
    ],
)
def test_a_signal_while_plugins_start_leaves_nothing(runs, folder, tell_time, until, told):
    trainer = until(Trainer(runs, folder))
    time.sleep(0.2)
    family = trainer.family()
    status, seconds = trainer.signal(signal.SIGTERM)
    tell_time(f"SIGTERM, while the zygote starts: {seconds:.2f} s")
    assert status == 130
    assert seconds < 1 + SLACK_S
    # What ends with its parent ends after it.
    wait_for(lambda: not any(map(is_running, family)), 1 + SLACK_S)
    if seconds < STARTING_S:  # as above
        assert left_of(trainer.pid) == []
        assert not trainer.out.exists()
        assert told in trainer.output.read_text()


def test_time_for_which_the_host_is_stopped_is_nobodys_fault(runs, folder):
    flags = ("--set", "steps=200", "--set", "plugins.optim.deadline_s=4")
    trainer = Trainer(runs, folder, *flags).until_step(20)
    # The worker first, so that the host is waiting for it.
    everybody = [*reversed(trainer.family()), trainer.pid]
    for frozen in (everybody[-1:], everybody):  # Ctrl-Z; a container that is paused
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.1)
        time.sleep(5)
        for pid in reversed(frozen):
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
    assert runs.wait() == 0, trainer.output.read_text()
    assert trainer.record()["plugins"][0]["restarts"] == 0


@pytest.mark.parametrize(
    "number", [*range(2), *(pytest.param(n, marks=pytest.mark.soak) for n in range(2, 100))]
)
def test_nothing_outlives_a_host_that_is_killed_at_any_moment(runs, folder, number, tell_time):
    chance = random.Random(number)  # noqa: S311 - a seeded schedule
    trainer = Trainer(runs, folder).until_zygote()
    assert os.getsid(trainer.pid) != os.getsid(trainer.zygotes()[0])
    # A third of them while the zygote starts, before it has imported what takes time.
    time.sleep(chance.choice([0.3, 3.0, 6.0]) * chance.random())
    family, zygotes = trainer.family(), trainer.zygotes()
    for pid in family:
        # One that is stopped before it has asked to be ended with its parent is beyond anybody's reach; it
        # takes its name after that.
        name = b"rf:zygote" if pid in zygotes else b"rf:plugin"
        if is_running(pid) and read(pid, "comm").strip() == name and chance.random() < 0.3:
            os.kill(pid, signal.SIGSTOP)
    assert trainer.signal(signal.SIGKILL)[0] == -signal.SIGKILL
    killed = time.monotonic()
    wait_for(lambda: not any(map(is_running, family)), 1 + SLACK_S)
    tell_time(
        f"{len(family)} processes of a host that is killed: {time.monotonic() - killed + 0.1:.2f} s at most"
    )


@pytest.fixture
def tell_time(record_property):
    return lambda text: (record_property("time", text), print(text))
