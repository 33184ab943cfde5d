"""What a command prints may be lost; what it does goes on."""

import contextlib
import errno
import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.cli.standard_streams import LastingOutput

from ..watching import is_running, until
from .conftest import TRUSTED_JOB

pytestmark = pytest.mark.room

LIMIT_S = 120
#: Runs its arguments after closing the descriptors that the first one names; the shell's ``>&-``.
CLOSING = (
    "import os, sys\n"
    "for fd in map(int, sys.argv[1].split(',')): os.close(fd)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


@contextlib.contextmanager
def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextlib.contextmanager
def full_disk():
    fd = os.open("/dev/full", os.O_WRONLY)
    yield fd
    os.close(fd)


@contextlib.contextmanager
def closed_terminal():
    ours, theirs = pty.openpty()
    os.close(ours)
    yield theirs
    os.close(theirs)


@pytest.mark.parametrize(
    ("lost", "error"),
    [(broken_pipe, errno.EPIPE), (full_disk, errno.ENOSPC), (closed_terminal, errno.EIO)],
)
def test_what_is_written_to_an_output_that_is_lost_goes_nowhere(lost, error):
    with lost() as fd:
        with pytest.raises(OSError, match=os.strerror(error)):
            os.write(fd, b"first")

        assert LastingOutput(fd, "w", closefd=False).write(b"first") == 5

        assert os.fstat(fd).st_rdev == Path(os.devnull).stat().st_rdev
        assert os.write(fd, b"what native code writes") == 23


def test_an_output_that_does_not_wait_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    if (child := os.fork()) == 0:
        os.close(writer)
        while os.read(reader, 2**16):
            pass
        os._exit(0)
    os.close(reader)

    assert LastingOutput(writer, "w", closefd=False).write(b"last") == 4

    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0


def command(*arguments, closed=""):
    run = [sys.executable, "-m", "ringfence", *arguments]
    return [sys.executable, "-c", CLOSING, closed, *run] if closed else run


def ended_well(folder):
    record = json.loads((folder / "run.json").read_text())
    kept = (folder / record["checkpoint"]).is_dir() and (folder / "report.html").exists()
    return record["status"] == "completed" and kept


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "job.yaml").write_text(TRUSTED_JOB)
    return tmp_path


@pytest.mark.parametrize("closed", ["0,1,2", "2"])
def test_a_run_with_closed_descriptors_ends_as_any_other(folder, closed):
    done = subprocess.run(
        command("train", "job.yaml", "--out", "run", closed=closed),
        cwd=folder,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert ended_well(folder / "run")
    assert (b"completed after 6 steps" in done.stdout) is ("1" not in closed)


def test_a_run_whose_reader_leaves_after_a_line_ends_as_any_other(folder):
    with subprocess.Popen(
        command("train", "job.yaml", "--out", "run"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:
        try:
            assert run.stdout.readline()
            run.stdout.close()
            assert run.wait(LIMIT_S) == 0
            assert run.stderr.read() == b""
        finally:
            run.kill()

    assert ended_well(folder / "run")


def test_a_terminal_that_closes_ends_a_run_in_order(folder):
    """No descriptor may hold it open, so the run is a session of its own, as under a real terminal."""
    job = TRUSTED_JOB.replace("steps: 6", "steps: 100000")
    (folder / "job.yaml").write_text(job)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execv(sys.executable, command("train", "job.yaml", "--out", "run"))  # noqa: S606 - no shell is wanted
    try:
        seen = b""
        while b"step " not in seen:
            assert select.select([terminal], [], [], LIMIT_S)[0], seen
            seen += os.read(terminal, 4096)
        os.close(terminal)
        assert until(lambda: not is_running(pid), LIMIT_S)
    finally:
        os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    record = json.loads((folder / "run" / "run.json").read_text())
    assert (status, record["status"]) == (130, "interrupted")
    assert (folder / "run" / record["checkpoint"]).is_dir()
    assert (folder / "run" / "report.html").exists()


def test_a_run_that_may_write_ascii_only_says_the_rest_with_question_marks(folder):
    done = subprocess.run(
        command("train", "job.yaml", "--out", "run"),
        cwd=folder,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?  " in done.stdout  # the digest of the weights is cut, with an ellipsis
    assert ended_well(folder / "run")


def test_a_file_that_is_cut_short_by_a_full_disk_is_told_of():
    code = "from ringfence.cli.standard_streams import secure_streams; secure_streams(); print('text')"
    with full_disk() as fd:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=fd, stderr=subprocess.PIPE, check=True, timeout=LIMIT_S
        )
    assert done.stderr == b"error: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_is_printed_waits_in_a_buffer_only_where_python_would_have_it_wait(unbuffered):
    code = (
        "import os, sys; from ringfence.cli.standard_streams import secure_streams; secure_streams(); "
        "sys.stdout.write('out'); sys.stderr.write('err\\n'); os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        timeout=LIMIT_S,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert done.stderr == b"err\n"
    assert done.stdout == (b"out" if unbuffered else b"")
