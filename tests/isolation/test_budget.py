"""Total memory is the least of what the machine and every control group above us give."""

import os
import subprocess
import sys

import psutil
import pytest

from ringfence.isolation.host.limits import cgroup, memory_budget
from ringfence.isolation.policy import procfs

KIB = 1024
MIB = 1 << 20
#: What psutil reads of /proc/meminfo, in KiB.
MEMINFO = dict.fromkeys(("MemFree", "Buffers", "Cached", "Shmem", "Active", "Inactive"), 1)
LEAK = """
import sys
sys.stdin.readline()
kept = bytearray(b"x") * (64 << 20)
print("kept", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Lay out a /proc and control groups as some machine has them; memory is 1000 MiB."""

    def lay(mounts, memberships, limits):
        own = tmp_path / "proc/self"
        own.mkdir(parents=True)
        told = {"MemTotal": 1000 * KIB} | MEMINFO
        (tmp_path / "proc/meminfo").write_text("\n".join(f"{name}: {told[name]} kB" for name in told))
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
        lines = [
            f"{number} 1 0:{number} {root} {tmp_path / where} rw,relatime - {kind} {kind} rw,{options}"
            for number, (root, where, kind, options) in enumerate(mounts)
        ]
        (own / "mountinfo").write_text("\n".join(lines).replace(" with space", "\\040with\\040space"))
        (own / "cgroup").write_text("\n".join(memberships))
        for name, text in limits.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "proc"

    return lay


V1 = [("/", "v1/cpu", "cgroup", "cpu,cpuacct"), ("/", "v1/memory", "cgroup", "memory")]
V2 = [("/", "v2", "cgroup2", "nsdelegate")]
NONE_V1 = "9223372036854771712\n"


@pytest.mark.parametrize(
    ("mounts", "memberships", "limits", "total_mib"),
    [
        ([], [], {}, 1000),
        (V1, ["2:memory:/a/b", "1:cpu,cpuacct:/"], {"v1/memory/a/b/memory.limit_in_bytes": NONE_V1}, 1000),
        (V1, ["2:memory:/a"], {"v1/memory/a/memory.limit_in_bytes": str(300 * MIB)}, 300),
        (
            V1,
            ["2:memory:/a/b"],
            {
                "v1/memory/a/b/memory.limit_in_bytes": NONE_V1,
                "v1/memory/a/memory.limit_in_bytes": str(200 * MIB),
                "v1/memory/memory.limit_in_bytes": NONE_V1,
            },
            200,
        ),
        (V2, ["0::/user/job"], {"v2/user/job/memory.max": "max", "v2/user/memory.max": str(400 * MIB)}, 400),
        (V2, ["0::/user/job"], {"v2/user/job/memory.max": str(2000 * MIB)}, 1000),
        # Both versions are mounted at once: each may limit.
        (
            [*V1, *V2],
            ["2:memory:/a", "0::/b"],
            {"v1/memory/a/memory.limit_in_bytes": str(600 * MIB), "v2/b/memory.max": str(500 * MIB)},
            500,
        ),
        # A container mounts its own group as the root, and may be told its path as seen from outside.
        (
            [("/docker/x", "v2", "cgroup2", "")],
            ["0::/docker/x/job"],
            {"v2/job/memory.max": str(70 * MIB)},
            70,
        ),
        ([("/docker/x", "v2", "cgroup2", "")], ["0::/elsewhere"], {"v2/memory.max": str(80 * MIB)}, 80),
        ([("/", "v2 with space", "cgroup2", "")], ["0::/"], {"v2 with space/memory.max": str(90 * MIB)}, 90),
    ],
)
def test_total_is_the_least_of_all_limits(machine, mounts, memberships, limits, total_mib):
    assert memory_budget.total_bytes(machine(mounts, memberships, limits)) == total_mib * MIB


def test_a_machine_that_tells_no_memory_is_an_error(machine):
    proc = machine([], [], {})
    (proc / "meminfo").write_text("MemFree: 1 kB\n")
    with pytest.raises(ValueError, match="MemTotal"):
        memory_budget.total_bytes(proc)


def test_total_of_this_machine_is_at_most_its_physical_memory():
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory_budget.total_bytes() <= physical


def test_the_budget_is_the_floor_of_the_share():
    share = memory_budget.budget_bytes(0.15)
    assert share == int(0.15 * memory_budget.total_bytes())
    assert isinstance(share, int)
    assert memory_budget.budget_bytes(0.01) < share


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.1501, 1.0, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"at most 0\.15"):
        memory_budget.budget_bytes(fraction)


def test_memory_that_a_process_takes_is_seen():
    with subprocess.Popen(
        [sys.executable, "-c", LEAK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        before = procfs.used_bytes(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        grown = procfs.used_bytes(process.pid) - before
        process.stdin.close()
    assert 64 * MIB <= grown < 76 * MIB


def test_memory_of_a_process_that_has_ended_is_none():
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.used_bytes(process.pid) is None  # a zombie still
    assert procfs.used_bytes(process.pid) is None


def test_the_groups_that_count_are_ours_and_all_above(machine, tmp_path):
    proc = machine(V1, ["2:memory:/a/b"], {"v1/memory/a/b/memory.limit_in_bytes": NONE_V1})
    root = tmp_path / "v1/memory"
    assert cgroup.memory_groups(proc) == [root / "a/b", root / "a", root]
