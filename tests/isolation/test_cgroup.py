"""A real control group holds real processes, and is gone afterwards."""

import os
import signal
import subprocess
import sys

import pytest

from ringfence.isolation.host.limits import cgroup
from ringfence.isolation.host.limits.cgroup import Cgroup, CgroupUnavailableError

MIB = 1 << 20
TAKE = """
import sys
sys.stdin.readline()
kept = bytearray(b"x") * (int(sys.argv[1]) << 20)
print("kept", flush=True)
sys.stdin.readline()
"""
THREADS = """
import sys, threading
sys.stdin.readline()
threading.stack_size(65536)
hold, started = threading.Event(), []
try:
    for _ in range(2000):
        thread = threading.Thread(target=hold.wait, args=(20,))
        thread.start()
        started.append(thread)
except RuntimeError:
    pass
hold.set()
print(len(started), flush=True)
"""


def used_bytes(group):
    """Return what a group is charged with now, file cache included; 0 once it is closed."""
    return cgroup.read_limit(group._memory / group._files.usage) or 0


@pytest.fixture
def group():
    try:
        made = Cgroup.create("test", 64 * MIB)
    except CgroupUnavailableError as error:
        pytest.skip(f"no control group can be made here: {error.reason}")
    yield made
    made.close()


def inside(group, code, *arguments):
    """Start a program, move it into the group and let it go."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    group.add(process.pid)
    process.stdin.write("\n")
    process.stdin.flush()
    return process


def test_a_group_lies_below_our_own_and_is_named_after_us(group):
    assert group.path.is_dir()
    assert group.path.parent in cgroup.own_groups().values()
    assert f"-{os.getpid()}-" in group.path.name
    assert "test" in group.path.name


def test_memory_past_the_limit_kills_and_is_counted(group):
    with inside(group, TAKE, "200") as process:
        assert process.wait(30) == -signal.SIGKILL
    assert group.oom_kills() == 1
    assert 32 * MIB < group.peak_bytes() <= 64 * MIB


def test_memory_below_the_limit_is_charged_and_lives(group):
    with inside(group, TAKE, "24") as process:
        assert process.stdout.readline() == "kept\n"
        assert 24 * MIB <= used_bytes(group) < 64 * MIB
        process.stdin.close()
    assert process.returncode == 0
    assert group.oom_kills() == 0


def test_threads_past_the_limit_do_not_start(group):
    if "pids" not in cgroup.own_groups() and not (group.path / "pids.max").exists():
        pytest.skip("this machine counts no tasks by group")
    with inside(group, THREADS) as process:
        assert int(process.stdout.readline()) == cgroup.MAX_TASKS - 1


def test_closing_removes_every_folder_and_may_be_repeated(group):
    before = {path for folder in cgroup.own_groups().values() for path in folder.glob("ringfence-*-test-*")}
    assert group.path in before
    group.close()
    group.close()
    assert not any(path.exists() for path in before)
    assert used_bytes(group) == 0
    assert group.oom_kills() == 0


def test_closing_remembers_the_figures(group):
    with inside(group, TAKE, "200") as process:
        process.wait(30)
    group.close()
    assert group.oom_kills() == 1
    assert group.peak_bytes() > 0


def test_closing_a_group_in_use_gives_up_in_time(group):
    with inside(group, TAKE, "1") as process:
        process.stdout.readline()
        group.close()
        assert group.path.exists()
        process.stdin.close()
    group.close()
    assert not group.path.exists()


def test_two_groups_of_one_name_differ(group):
    other = Cgroup.create("test", 64 * MIB)
    assert other.path != group.path
    other.close()


def test_a_label_cannot_lead_out_of_its_folder(group):
    other = Cgroup.create("../../x y", 64 * MIB)
    assert other.path.parent == group.path.parent
    other.close()


def test_groups_of_trainers_that_are_gone_are_swept_and_ours_stay(group):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait(30)
    left = group.path.with_name(f"ringfence-{ended.pid}-12345-left-0")
    reused = group.path.with_name(f"ringfence-{os.getpid()}-1-left-0")  # our number, another's start
    foreign = group.path.with_name(f"ringfence-other-{os.getpid()}")
    for path in (left, reused, foreign):
        path.mkdir()
    try:
        assert cgroup.sweep_stale() >= 2  # more if another trainer was killed here
        assert not left.exists()
        assert not reused.exists()
        assert foreign.exists()
        assert group.path.exists()
    finally:
        foreign.rmdir()


def test_a_limit_that_the_kernel_refuses_leaves_nothing_behind(group):
    siblings = set(group.path.parent.iterdir())
    with pytest.raises(CgroupUnavailableError, match="cannot set a limit"):
        Cgroup.create("test", -5)
    assert set(group.path.parent.iterdir()) == siblings


def test_without_a_cgroup_file_system_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(cgroup, "own_groups", dict)
    with pytest.raises(CgroupUnavailableError, match="no cgroup file system"):
        Cgroup.create("test", MIB)


def test_where_no_group_may_be_made_the_reason_is_told(monkeypatch):
    # /proc admits no folders, whoever asks.
    monkeypatch.setattr(cgroup, "own_groups", lambda: {"memory": cgroup.Path("/proc")})
    with pytest.raises(CgroupUnavailableError, match="cannot make a group in /proc"):
        Cgroup.create("test", MIB)


def test_version_2_without_the_memory_controller_is_no_group(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroup, "own_groups", lambda: {"": tmp_path})
    with pytest.raises(CgroupUnavailableError, match="not handed down"):
        Cgroup.create("test", MIB)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("files", "beside"),
    [
        ({"memory.max": "max", "pids.max": "max"}, True),
        ({}, True),
        ({"memory.max": "1000000"}, False),
        ({"memory.high": "1000000"}, False),
        ({"pids.max": "100"}, False),
    ],
)
def test_in_version_2_a_group_stands_beside_ours_only_if_no_limit_is_left_behind(tmp_path, files, beside):
    own = tmp_path / "session.scope"
    own.mkdir()
    (tmp_path / "cgroup.procs").touch()
    for name, text in files.items():
        (own / name).write_text(text)
    assert cgroup._parents_v2(own) == ([own, tmp_path] if beside else [own])


def test_in_version_2_nothing_stands_beside_the_topmost_group(tmp_path):
    assert cgroup._parents_v2(tmp_path) == [tmp_path]
