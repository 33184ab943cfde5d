"""Two processes never run in one folder, and a dead one keeps nobody out."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.api.launched_run import run_in_a_free_one
from ringfence.hooks.errors import JobError
from ringfence.tracking import run_folder
from ringfence.tracking.folder_lock import FolderTakenError, check_free, hold_lock
from ringfence.tracking.run_folder import LOCK

NOBODY = 65534
HOLDER = """\
import sys, time
from pathlib import Path
from ringfence.tracking.folder_lock import hold_lock
with hold_lock(Path(sys.argv[1]), "--out"):
    {more}
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(folder, more="pass"):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(more=more), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def end(holder):
    holder.kill()
    holder.wait()
    holder.stdout.close()


def test_a_folder_is_one_process_s_and_free_as_soon_as_that_is_killed(tmp_path):
    holder = start_holder(tmp_path)
    for attempt in (
        lambda: hold_lock(tmp_path, "--resume").__enter__(),
        lambda: check_free(tmp_path, "--resume"),
    ):
        with pytest.raises(FolderTakenError) as caught:
            attempt()
        message = str(caught.value)
        assert message.startswith(f"--resume {tmp_path}: a run is going on in it (process {holder.pid} on ")
        assert message.endswith("wait until it has ended, or end it with Ctrl-C or SIGTERM")
    end(holder)
    with hold_lock(tmp_path, "--resume") as locked:
        assert locked
    check_free(tmp_path, "--resume")
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_process_that_is_stopped_still_holds_its_folder(tmp_path):
    holder = start_holder(tmp_path)
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(FolderTakenError):
        check_free(tmp_path, "--out")
    end(holder)


def test_what_a_holder_leaves_running_does_not_hold_its_folder(tmp_path):
    """A child that was started by an exec, as the zygote is, has no part in the lock."""
    more = (
        "import subprocess; child = subprocess.Popen(['sleep', '60']); "
        "Path(sys.argv[1], 'child').write_text(str(child.pid))"
    )
    holder = start_holder(tmp_path, more)
    child = int((tmp_path / "child").read_text())
    end(holder)
    try:
        os.kill(child, 0)
        with hold_lock(tmp_path, "--resume") as locked:
            assert locked
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_copy_of_a_folder_is_free_while_the_first_is_not(tmp_path):
    first, copy = tmp_path / "first", tmp_path / "copy"
    first.mkdir()
    copy.mkdir()
    with hold_lock(first, "--out"):
        (copy / LOCK).write_bytes((first / LOCK).read_bytes())
        with hold_lock(copy, "--resume") as locked:
            assert locked


def test_looking_does_not_keep_others_out(tmp_path):
    with hold_lock(tmp_path, "--out"):
        pass
    with (tmp_path / LOCK).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        check_free(tmp_path, "--resume")


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).symlink_to(target)
    with pytest.raises(JobError, match="cannot be written"), hold_lock(run, "--out"):
        pass
    check_free(run, "--out")
    assert target.read_text() == "precious"


RACER = """\
import sys
from pathlib import Path
from ringfence.tracking.folder_lock import FolderTakenError, hold_lock
print("ready", flush=True)
sys.stdin.readline()
try:
    with hold_lock(Path(sys.argv[1]), "--out"):
        print("had it", flush=True)
        sys.stdin.readline()
except FolderTakenError:
    print("taken", flush=True)
"""


def test_of_processes_that_want_a_folder_at_once_one_has_it(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    racers = [subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path)], **pipes) for _ in range(4)]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
    for racer in racers:
        racer.stdin.write("go\n")
    said = sorted(racer.stdout.readline().strip() for racer in racers)
    for racer in racers:
        racer.communicate(timeout=30)
    assert said == ["had it", "taken", "taken", "taken"]


def test_a_run_that_was_too_slow_for_a_default_folder_takes_the_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried = []

    def run_in(folder):
        tried.append(str(folder))
        folder.mkdir(parents=True)
        if len(tried) > 1:
            return folder
        with hold_lock(folder, "--out"), hold_lock(folder, "--out"):
            raise AssertionError("two have it")

    assert run_in_a_free_one(Path("job.yaml"), run_in) == Path("runs/job-2")
    assert tried == ["runs/job-1", "runs/job-2"]


# folders that nobody can go on in


@pytest.fixture
def as_nobody():
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


@pytest.fixture
def run_of_another(tmp_path):
    """A folder that looks like a run's, below one that everybody may enter."""
    for path in (tmp_path, *list(tmp_path.parents)[:3]):
        if path.stat().st_uid == os.geteuid() and path != Path("/tmp"):  # noqa: S108 - as pytest makes them
            path.chmod(0o755)
    folder = tmp_path / "run"
    (folder / "checkpoints" / "step-00000003").mkdir(parents=True)
    (folder / "job.yaml").write_text("model: mlp\n")
    return folder


def test_a_folder_that_may_not_be_read_is_told(run_of_another, as_nobody):
    os.seteuid(0)
    run_of_another.chmod(0o700)
    os.seteuid(NOBODY)
    with pytest.raises(JobError, match=r"cannot be read \(Permission denied\); change its permissions"):
        run_folder.check_old(run_of_another)


def test_checkpoints_that_may_not_be_read_are_told(run_of_another, as_nobody):
    os.seteuid(0)
    (run_of_another / "checkpoints").chmod(0o700)
    os.seteuid(NOBODY)
    with pytest.raises(JobError, match=r"checkpoints cannot be read \(Permission denied\)"):
        run_folder.check_old(run_of_another)


def test_a_folder_that_may_not_be_written_is_told(run_of_another, as_nobody):
    run_folder.check_old(run_of_another)
    with pytest.raises(
        JobError, match=r"may not write there; make room, .* or resume a copy of it elsewhere"
    ):
        run_folder.claim(run_of_another, "--resume")
    with pytest.raises(JobError, match="cannot be written: you may not write there"):
        hold_lock(run_of_another, "--resume").__enter__()
