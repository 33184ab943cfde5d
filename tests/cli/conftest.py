"""The command line, called in this process or as a process of its own."""

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ringfence.cli.app import main
from ringfence.run import long_waits

SMALL_JOB = """\
model: {name: mlp, hidden: [8]}
data: {name: mnist10k, limit: 256}
steps: 6
batch_size: 32
threads: 1
plugins:
  - optim: {algorithm: adamw, lr: 1e-3}
"""


#: The same without a sandbox, which takes seconds to start; for tests of something else.
TRUSTED_JOB = SMALL_JOB + "    isolation: trusted\n"


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Write a job into an empty folder, which becomes the working directory; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text=SMALL_JOB, name="job.yaml"):
        (tmp_path / name).write_text(text)
        return name

    return write


@pytest.fixture
def ringfence(monkeypatch, capfd):
    """Call the command line in this process, through its real entry point."""
    threads = torch.get_num_threads()
    # A busy machine is told nothing between the lines that are compared.
    monkeypatch.setattr(long_waits, "TOLD_AFTER_S", 600.0)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ringfence", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capfd.readouterr()
        return Done(int(end.value.code or 0), captured.out, captured.err)

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def refused(job, ringfence, monkeypatch):
    """Run a job that must be refused before a process starts or a folder is made; returns the message."""

    def no_sandbox():
        raise AssertionError("a sandbox was started")

    monkeypatch.setattr("ringfence.run.plugin_sandbox.Sandbox", no_sandbox)

    def refuse(text, *flags):
        done = ringfence("train", job(textwrap.dedent(text)), *flags)
        assert done.status == 2
        assert "Traceback" not in done.err
        assert done.out == ""
        assert not Path("runs").exists()
        return done.err

    return refuse


def start(*arguments, cwd=None):
    """Start the command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ringfence", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def process():
    """Run the command line as a process of its own."""

    def run(*arguments, cwd=None):
        started = start(*arguments, cwd=cwd)
        out, err = started.communicate(timeout=120)
        return Done(started.returncode, out, err)

    return run
