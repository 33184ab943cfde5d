"""What a confined process can still do, and that a layer which fails is never called active.

Each test forks and confines a real process; see ``confined_child.py``.
"""

import json
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.isolation.policy.layer_status import REQUIRED
from ringfence.isolation.worker.layers import seccomp

from ..watching import NOWHERE, is_running, until

CHILD = Path(__file__).parent / "confined_child.py"
IN_CHILD = ("process", "fds", "environment", "rlimits", "namespaces", "privileges", "landlock", "seccomp")
WORKLOAD = {
    "losses_fall": True,
    "threads": 2,
    "same_in_thread": True,
    "fft": True,
    "svd": True,
    "inverse": True,
    "files": ["folder", "note.txt"],
    "local_time": True,
}
only_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction is x86's")


@pytest.mark.room
def test_torch_numpy_and_threads_work_in_full_confinement(confined):
    result = confined("workload", preload=["torch", "torch._dynamo"])
    assert result["exit"] == 0
    assert result.items() >= {**WORKLOAD, "lazy_import": "wave"}.items()
    assert all(result["layers"][name] in ("active", "degraded") for name in REQUIRED if name in IN_CHILD)


def test_torch_works_in_full_confinement_for_a_user_without_rights(confined_nobody):
    result = confined_nobody("workload", preload=["torch", "torch._dynamo"])
    assert result.items() >= WORKLOAD.items()


@pytest.mark.parametrize("skip", [[], ["landlock", "seccomp"]])
def test_what_is_said_to_be_open_is_all_that_is_open(confined, skip):
    result = confined("open_files", skip=skip)
    told = re.fullmatch(
        r"(\d+) open besides 0, 1 and 2, and (\d+) names in /proc, .*", result["details"]["fds"]
    )
    assert int(told[1]) + int(told[2]) + len((0, 1, 2)) == result["open"]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("torch", "RuntimeError"),
        ("numpy", "MemoryError"),
        ("bytearray", "MemoryError"),
        ("objects", "MemoryError"),
    ],
)
def test_a_leak_ends_in_an_error_below_the_limit(confined, kind, error):
    limit = 300 << 20
    preload = [kind] if kind in ("torch", "numpy") else []
    result = confined("leak", kind=kind, preload=preload, data_limit=limit)
    assert result["error"].endswith(error)
    # What libraries have mapped and not touched counts too: 32 MiB for each thread of OpenBLAS.
    assert 0.65 * limit < result["peak"] <= limit


def test_without_limits_the_same_leak_goes_past_it(confined):
    # 100 000 times 8 MiB would take the machine down: the child stops by itself soon after.
    result = confined("leak", kind="bytearray", data_limit=400 << 20, skip=["rlimits"], stop_at=500 << 20)
    assert result["error"] is None
    assert result["peak"] > 500 << 20


def test_the_control_socket_still_sends_and_receives(confined):
    result = confined("talk")
    assert result["received"] == "hello"
    assert result["reply"] == "reply to hello"


def test_a_process_can_abort_itself(confined):
    assert confined("abort")["exit"] == -signal.SIGABRT


@only_x86
def test_a_system_call_of_another_architecture_kills(confined):
    assert confined("foreign_architecture")["exit"] == -signal.SIGSYS


@only_x86
def test_outside_the_same_instruction_does_not_kill(confined):
    assert confined("foreign_architecture", skip=["seccomp"])["exit"] != -signal.SIGSYS


def test_calls_that_no_probe_may_try_are_refused(confined):
    tried = confined("system_calls")
    assert {name: tried[name] for name in ("newer", "unheard_of", "x32_getpid")} == dict.fromkeys(
        ("newer", "unheard_of", "x32_getpid"), "ENOSYS"
    )
    refused = (
        *("fcntl_high_bits", "clone_new_net", "huge_pages", "empty_by_reading", "kill_group", "kill_all"),
    )
    assert {name: tried[name] for name in refused} == dict.fromkeys(refused, "EPERM")
    assert tried["kept"] == "kept"
    assert tried["kill_self"] is None
    assert tried["get_xattr"] == "ENOTSUP"
    assert tried["fallocate_by_writing"] == 8192
    assert tried["victim_state"] == "S"


def test_threads_are_limited_where_the_kernel_counts_them(confined_nobody):
    result = confined_nobody("threads", most=100, max_threads=24)
    if result["layers"]["namespaces"] != "active":
        pytest.skip("this machine gives ordinary users no namespaces")
    assert 10 <= result["started"] <= 24


def test_a_confined_process_dies_with_its_parent(tmp_path):
    job = json.dumps({"body": "wait", "folder": str(tmp_path)})
    with subprocess.Popen([sys.executable, CHILD, job], stdout=subprocess.PIPE) as parent:
        confined_pid = json.loads(parent.stdout.readline())["pid"]
        assert is_running(confined_pid)
        parent.kill()
    assert until(lambda: not is_running(confined_pid))


@pytest.mark.parametrize(
    ("fault", "layer", "reason"),
    [
        ({"data_limit": 1 << 20}, "rlimits", "a budget of 1 MiB is less than"),
        ({"scratch": NOWHERE}, "environment", NOWHERE),
        ({"scratch": NOWHERE, "skip": ["environment"]}, "landlock", NOWHERE),
        ({"parent_pid": 1}, "process", "is gone"),
        ({"second_thread": True}, "process", "2 threads"),
    ],
)
def test_a_required_layer_that_fails_stops_everything(confined, fault, layer, reason):
    result = confined("probes", **fault)
    assert result["layer_error"] == layer
    assert reason in result["reason"]


@pytest.mark.parametrize("layer", IN_CHILD)
def test_a_layer_left_out_is_reported_as_disabled(confined, layer):
    result = confined("probes", skip=[layer])
    assert result["judged"][layer] == "disabled"
    assert set(result["layers"]) == set(IN_CHILD)


def test_the_filter_is_built_once_and_is_short():
    assert seccomp.build(told=True) is seccomp.build(told=True)
    assert len(seccomp.build(told=True)) // 8 < 2000
