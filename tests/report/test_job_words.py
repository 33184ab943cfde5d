"""The job in words, and the commands that go on with it."""

from __future__ import annotations

import json
import shlex

import pytest

from ringfence.job.job_file import Job
from ringfence.job.job_values import MAX_JOB_CHARACTERS, read_job
from ringfence.report.job_words import commands, job_words
from ringfence.report.page import write_report
from ringfence.report.run_data import read_run

from .test_page import EVIL, Page

JOB = {
    "model": {"name": "cnn", "width": 24},
    "data": "mnist10k",
    "epochs": 8,
    "batch_size": 64,
    "grad_accum_steps": 2,
    "schedule": {"name": "cosine", "warmup_steps": 50},
    "averaging": {"ema": {"decay": 0.99}},
    "early_stopping": {"patience": 3},
    "plugins": [
        {"gradclip": {"max_norm": 1.0}},
        {"optim": {"algorithm": "lamb", "lr": 0.01, "amsgrad": False}},
    ],
}
FIRST = (
    "Trains cnn (width 24) on mnist10k (9,000 training, 1,000 validation, 2,000 test samples) for 8 epochs "
    "in batches of 64, 2 of them a step."
)
INFO = {"kind": "run", "step": 0, "train_samples": 9000, "validation_samples": 1000, "test_samples": 2000}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "job.yaml").write_text(Job.model_validate(JOB).to_yaml())
    (tmp_path / "metrics.jsonl").write_text(json.dumps(INFO) + "\n")
    (tmp_path / "run.json").write_text(json.dumps({"status": "completed"}))
    return tmp_path


def test_a_job_is_told_in_sentences(folder):
    assert job_words(read_run(folder)) == [
        FIRST,
        "Minimises cross entropy, judged by accuracy.",
        "Schedule of the learning rate: cosine (warmup steps 50).",
        "Averages the weights: ema (decay 0.99, every 1, warmup on).",
        "Stops after 3 evaluations without a gain.",
        "Plugins, in this order: gradclip (max norm 1.0), optim (algorithm lamb, lr 0.01, amsgrad off).",
    ]


def test_several_losses_and_metrics_are_told_by_name(folder):
    several = {
        "loss": ["mse", {"name": "my.losses:Edge", "weight": 0.5}],
        "metrics": [{"name": "f1", "average": "micro"}],
    }
    (folder / "job.yaml").write_text(Job.model_validate({**JOB, **several}).to_yaml())

    sentence = job_words(read_run(folder))[1]

    assert sentence == "Minimises mse, my.losses:Edge (weight 0.5), judged by f1 (average micro)."


@pytest.mark.parametrize(
    ("status", "checkpoint", "goes_on"),
    [
        ("completed", "checkpoints/step-00000008", False),
        ("interrupted", "checkpoints/step-00000004", True),
        ("running", "checkpoints/step-00000004", True),
        ("aborted", None, False),
    ],
)
def test_the_command_is_the_one_that_fits(folder, status, checkpoint, goes_on):
    (folder / "run.json").write_text(json.dumps({"status": status, "checkpoint": checkpoint}))

    found = dict(commands(read_run(folder)))

    assert shlex.split(found["Run it again"]) == ["ringfence", "train", str(folder / "job.yaml")]
    assert ("Go on with it" in found) == goes_on
    if goes_on:
        assert shlex.split(found["Go on with it"]) == ["ringfence", "train", "--resume", str(folder)]
    assert "Run it again" in Page(write_report(folder).read_text()).text


def test_a_folder_with_an_odd_name_is_quoted(tmp_path):
    odd = tmp_path / "it's; rm -rf $HOME"
    odd.mkdir()
    (odd / "job.yaml").write_text("model: cnn\n")

    assert shlex.split(dict(commands(read_run(odd)))["Run it again"])[2:] == [str(odd / "job.yaml")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "{",
        "a: &a [*a]",
        "model: cnn\nplugins: 7",
        "model: {}\nplugins: [[], {}, null, 3, {x: 4}, {name: [1], options: 7}]",
        "model: {name: [1, {a: b}]}\nepochs: many\nbatch_size: {x: 1}\nearly_stopping: [1]\nschedule: 3",
        f"model: '{EVIL}'\ndata: {{name: '{EVIL}', '{EVIL}': '{EVIL}'}}",
        "[" * 2000,
        "model: " + "x" * MAX_JOB_CHARACTERS,
    ],
)
def test_any_job_of_a_strangers_gives_a_page(folder, text):
    (folder / "job.yaml").write_text(text)

    found = Page(write_report(folder).read_text())

    assert "completed" in found.text
    assert not found.all("script")


def test_a_long_job_is_not_put_into_words():
    assert read_job("model: cnn\n") == {"model": "cnn"}
    assert read_job("model: cnn\n" + "#" * MAX_JOB_CHARACTERS) == {}
