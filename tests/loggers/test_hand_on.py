"""Numbers of a run handed to a logger; those of others are tested in tests/home."""

from __future__ import annotations

import json

import pytest

from ringfence import JobError
from ringfence.loggers import hand_on as hand_on_module
from ringfence.loggers.faults import explained
from ringfence.loggers.hand_on import LOGGERS, hand_on
from ringfence.loggers.mlflow_logger import _name


class Fake:
    """Keeps what it is given."""

    def __init__(self):
        self.got, self.good, self.left = [], None, None

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.left = kind

    def log(self, numbers):
        self.got += numbers

    def end(self, *, is_good):
        self.good = is_good

    def where(self):
        return "nowhere"


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"status": "completed"}))
    (run / "job.yaml").write_text(
        "model: {name: cnn, width: 8}\nplugins:\n- optim: {lr: 0.1}\n  workers: 1\n"
    )
    lines = [{"kind": "train", "step": n, "epoch": 0, "loss": 1.0} for n in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture
def fake(monkeypatch):
    logger = Fake()

    def opened(name, run, job, project, place, *, online):
        logger.opened = (name, run, dict(job), project, place, online)
        return logger

    monkeypatch.setattr(hand_on_module, "open_logger", opened)
    return logger


@pytest.mark.parametrize(
    ("status", "good"), [("completed", True), ("stopped_early", True), ("aborted", False)]
)
def test_a_logger_is_given_job_numbers_and_how_it_ended(folder, fake, status, good):
    (folder / "run.json").write_text(json.dumps({"status": status}))

    told = hand_on(folder, "wandb", "mine", None, until_end=True, online=False)

    values = {
        "model": "cnn",
        "model.width": "8",
        "plugins": "optim",
        "plugins.optim.workers": "1",
        "plugins.optim.lr": "0.1",
    }
    assert fake.opened == ("wandb", "run", values, "mine", None, False)
    assert [one.step for one in fake.got] == [0, 1, 2]
    assert fake.good is good
    assert told == f"3 lines of numbers, of a run that is {status.replace('_', ' ')}: nowhere"


def test_a_journal_that_cannot_be_read_is_told_and_the_run_there_fails(folder, fake):
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").symlink_to(folder / "run.json")

    with pytest.raises(JobError, match="symbolic link"):
        hand_on(folder, "wandb", "mine", None, until_end=False, online=False)
    assert fake.left is JobError
    assert fake.good is None


def test_what_is_no_run_is_refused_before_a_logger_is_opened(tmp_path, fake):
    with pytest.raises(JobError, match="holds no run"):
        hand_on(tmp_path, "wandb", "mine", None, until_end=False, online=False)
    assert not hasattr(fake, "opened")


@pytest.mark.parametrize("name", LOGGERS)
def test_a_logger_that_is_missing_says_what_to_install(folder, monkeypatch, name):
    monkeypatch.setattr(hand_on_module, "find_spec", lambda module: None)

    with pytest.raises(JobError, match=rf"pip install 'ringfence\[{name}\]'"):
        hand_on(folder, name, "mine", None, until_end=False, online=False)


def test_a_logger_that_there_is_not_is_told(folder):
    with pytest.raises(JobError, match="choose one of mlflow, wandb"):
        hand_on(folder, "comet", "mine", None, until_end=False, online=False)


def test_what_a_logger_raises_of_its_own_is_told_in_a_line():
    with pytest.raises(JobError, match=r"^--to x: no server at all$"), explained("x", LookupError):
        raise LookupError("no server\nat  all")
    with pytest.raises(ArithmeticError), explained("x", LookupError):
        raise ArithmeticError


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("train/loss", "train/loss"),
        ("monitor/grad_norm/conv1.weight", "monitor/grad_norm.conv1.weight"),
        ("../../etc/passwd", "_/etc.passwd"),
        ("a/..", "a/_"),
        ("/etc", "_/etc"),
        ("é\n=", "___"),
        ("", "_"),
    ],
)
def test_names_for_mlflow_lead_nowhere_else(name, safe):
    found = _name(name)

    assert found == safe
    assert ".." not in found.split("/")
