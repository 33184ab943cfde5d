"""A new run that is stopped before its first step is done leaves nothing, whenever the signal comes."""

import os
import signal
import time
from pathlib import Path

import pytest

from ringfence.api.run_display import RunDisplay
from ringfence.engine.checkpoints.retention import list_checkpoints
from ringfence.plugins.manager import Hooks
from ringfence.tracking.metrics_log import MetricsLog
from ringfence.tracking.run_record import RunRecord

from .conftest import SMALL_JOB, TRUSTED_JOB, start
from .test_signals import wait_for

pytestmark = pytest.mark.room

#: In the order of a run: files are there, the record says that it runs, the user is shown it, the snapshot
#: of the start is taken, and is on disk, the first step begins.
MOMENTS = [
    (MetricsLog, "started"),
    (RunRecord, "started"),
    (RunDisplay, "started"),
    (Hooks, "state_dict"),
    (RunRecord, "checkpointed"),
]


def signalled(monkeypatch, owner, name, *numbers):
    """Have the process send itself signals when a method has been called for the first time."""
    real, left = getattr(owner, name), list(numbers)

    def call(*arguments, **named):
        result = real(*arguments, **named)
        while left:
            os.kill(os.getpid(), left.pop())
        return result

    monkeypatch.setattr(owner, name, call)


@pytest.fixture(params=["new", "empty"])
def out(request, tmp_path):
    """Return the folder of a run, which is there already or is not."""
    folder = tmp_path / "run"
    if request.param == "empty":
        folder.mkdir()
    return folder


def has_left_nothing(out, before):
    return out.exists() == before and (not before or {path.name for path in out.iterdir()} <= {".lock"})


@pytest.mark.parametrize(("owner", "name"), MOMENTS, ids=[f"{o.__name__}.{n}" for o, n in MOMENTS])
def test_one_signal_leaves_no_folder_and_blames_nobody(job, ringfence, monkeypatch, out, owner, name):
    before = out.exists()
    signalled(monkeypatch, owner, name, signal.SIGINT)
    done = ringfence("train", job(TRUSTED_JOB), "--out", out)
    assert done.status == 130
    assert "interrupted before the first step; no step was kept" in done.err
    assert "plugin 'optim' in" not in done.out + done.err
    assert "continue with" not in done.out
    assert has_left_nothing(out, before)
    assert ringfence("train", job(TRUSTED_JOB), "--out", out).status == 0


def test_a_signal_in_the_first_step_lets_it_finish(job, ringfence, monkeypatch, out):
    signalled(monkeypatch, Hooks, "fire", signal.SIGINT)
    done = ringfence("train", job(TRUSTED_JOB), "--out", out)
    assert (done.status, "interrupted after 1 step\n" in done.out) == (130, True)
    assert ringfence("train", "--resume", out).status == 0


def test_one_that_was_being_resumed_can_be_resumed_as_before(job, ringfence, monkeypatch, out):
    assert ringfence("train", job(TRUSTED_JOB), "--out", out, "--set", "steps=3").status == 0
    kept = [path.name for path in list_checkpoints(out / "checkpoints")]
    signalled(monkeypatch, MetricsLog, "started", signal.SIGINT)
    done = ringfence("train", job(TRUSTED_JOB), "--resume", out)
    assert done.status == 130
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == kept
    assert ringfence("train", job(TRUSTED_JOB), "--resume", out).status == 0


@pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.05, 0.2])
def test_a_signal_as_the_first_file_appears_ends_in_one_of_two_ways(tmp_path, pause_s):
    """Either no step was done and nothing is left, or the folder says how to go on."""
    (tmp_path / "job.yaml").write_text(SMALL_JOB.replace("steps: 6", "steps: 3000"))
    running = start("train", "job.yaml", "--out", "run", cwd=tmp_path)
    wait_for((tmp_path / "run/metrics.jsonl").exists, 90, running.pid)
    time.sleep(pause_s)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "in 'optimizer." not in out + err
    if (tmp_path / "run").exists():
        assert "continue with: ringfence train --resume run" in out
        assert "after 0 steps" not in out
        assert list_checkpoints(Path(tmp_path / "run/checkpoints"))
    else:
        assert "interrupted before the first step; no step was kept" in err
