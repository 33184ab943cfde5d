"""How a job is prepared: with how many threads."""

import json
import os

import pytest
import torch

from ringfence.job import read_job
from ringfence.run import default_threads, prepare, run

from .cli.conftest import TRUSTED_JOB


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

    run(prepare(read_job(tmp_path / "job.yaml"), tmp_path), tmp_path / "run", report=False)

    assert torch.get_num_threads() == threads
    assert json.loads((tmp_path / "run" / "run.json").read_text())["threads"] == threads
    assert read_job(tmp_path / "run" / "job.yaml").job.threads == threads
