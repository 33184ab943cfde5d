"""A run of the kit that does not come to its end, and what is told of it."""

import json

import pytest

from ringfence import JobError, RingfenceError
from ringfence.testing import JobRun, SmallJob, run_job, run_jobs


def test_what_is_wrong_with_a_job_is_told_as_the_command_tells_it(tmp_path):
    jobs = [
        SmallJob("gradclip", {"max_norm": -1}),
        SmallJob("gradclip", job={"model": "cnm"}),
    ]

    option, model = run_jobs(jobs, tmp_path)

    assert not option.completed
    assert not model.completed
    assert "gradclip.max_norm" in option.error
    assert "did you mean 'cnn'?" in model.error
    assert option.folder != model.folder
    with pytest.raises(RingfenceError, match="'gradclip' was not started: "):
        _ = option.usage


def test_a_run_that_takes_too_long_is_killed_and_told(ringfence_job):
    with pytest.raises(RingfenceError, match=r"had not ended after 0\.2 s and was killed; it had printed"):
        ringfence_job("gradclip", timeout_s=0.2)


def test_a_trainer_that_fails_in_a_way_nobody_foresaw_shows_what_it_printed(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/sh")

    with pytest.raises(RingfenceError, match=r"(?s)the trainer ended with status \d+; it had printed:\n.+"):
        run_job("gradclip", folder=tmp_path)


def test_a_plugin_that_is_not_installed_is_told_before_anything_starts(tmp_path):
    with pytest.raises(JobError, match="plugin 'gradclop' is not installed; did you mean 'gradclip'"):
        run_job("gradclop", folder=tmp_path)

    assert not list(tmp_path.rglob("trainer.log"))


def test_an_optimizer_stands_alone_and_others_get_one():
    alone = SmallJob("optim", {"algorithm": "sgd", "lr": 0.1}).document()["plugins"]
    helped = SmallJob("gradclip", settings={"isolation": "trusted"}, job={"epochs": 1}).document()

    assert alone == [{"optim": {"algorithm": "sgd", "lr": 0.1}}]
    assert [plugin["isolation"] for plugin in helped["plugins"]] == ["trusted", "trusted"]
    assert helped["epochs"] == 1
    assert "steps" not in helped


def test_what_was_logged_is_read_by_step(tmp_path):
    lines = [
        {"kind": "train", "step": 0, "loss": 1.0},
        {"kind": "plugin", "step": 0, "plugin": "watch", "watch/norm": 2.0, "watch/spike": "NaN"},
        {"kind": "plugin", "step": 1, "plugin": "other", "other/norm": 3.0},
        {"kind": "plugin", "step": 1, "plugin": "watch", "watch/norm": 4.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    run = JobRun("watch", tmp_path, "")

    assert run.logged("norm") == {0: 2.0, 1: 4.0}
    assert run.logged("spike")[0] != run.logged("spike")[0]
    assert run.everything_logged() == {(0, "norm"): 2.0, (0, "spike"): "NaN", (1, "norm"): 4.0}
