"""Every probe succeeds outside the sandbox, or it would prove nothing inside; each layer blocks its own."""

import pytest

from ringfence.isolation.policy.layer_status import LAYER_PROBES
from ringfence.isolation.worker.probes.run_probes import PROBES

IN_CHILD = ("process", "fds", "environment", "rlimits", "namespaces", "privileges", "landlock", "seccomp")

#: What this machine itself refuses, sandbox or not: its kernel may lack the feature, the tests may
#: run without a terminal or inside a container.
MACHINE_REFUSES = {
    *("terminal", "stdin", "session", "crypto_socket", "vm_socket", "secret_memory", "userfaultfd"),
    *("io_uring", "bpf", "perf_events", "kernel_keys", "message_queue", "kernel_log"),
}
#: What an ordinary user may not do, sandbox or not.
USER_REFUSED = {
    *("mount", "chroot", "file_by_handle", "capabilities", "raw_socket", "packet_socket", "read_accounts"),
    *("userfaultfd", "bpf", "perf_events", "no_new_privs", "kernel_log", "host_memory"),
}

#: Layer to probes that nothing but it blocks, as root: left out, they succeed.
HELD_BY_ONE = {
    "process": ("parent_death",),
    "fds": ("inherited_fd",),
    "environment": ("env_canary", "scratch_is_own"),
    "rlimits": ("data_limit", "core_dump"),
    "privileges": ("capabilities",),
    "landlock": ("read_canary", "write_canary", "list_root", "own_network_table", "shared_zero_device"),
    "seccomp": ("fork", "socketpair", "anonymous_file", "shared_mapping", "chmod_canary", "outlive_parent"),
}


def blocked(result):
    return {name for name, was_blocked in result["probes"].items() if was_blocked}


def test_all_layers_together_block_every_probe(confined):
    result = confined("probes")
    assert set(PROBES) - blocked(result) == set()
    assert {result["judged"][name] for name in IN_CHILD if name != "namespaces"} <= {"active", "degraded"}
    assert result["judged"]["namespaces"] in ("active", "unavailable")
    assert result["victim_state"] == "S"
    assert result["body_ms"] < 500  # 3 ms on a machine at rest


def test_all_layers_together_block_every_probe_of_a_user_without_rights(confined_nobody):
    result = confined_nobody("probes")
    assert set(PROBES) - blocked(result) == set()
    assert result["judged"]["namespaces"] in ("active", "unavailable")


def test_without_layers_every_probe_gets_through(confined):
    result = confined("probes", skip=IN_CHILD)
    assert blocked(result) <= MACHINE_REFUSES | USER_REFUSED
    assert len(blocked(result)) < 20
    # What the probes got away with did the victim no harm.
    assert result["victim_state"] == "S"
    assert result["exit"] == 0


def test_without_layers_a_user_without_rights_gets_through_as_well(confined_nobody):
    result = confined_nobody("probes", skip=IN_CHILD)
    assert blocked(result) <= MACHINE_REFUSES | USER_REFUSED
    assert {"read_canary", "host_environment", "tcp_bind", "fork", "signal_host"} <= PROBES.keys() - blocked(
        result
    )


@pytest.mark.parametrize("layer", IN_CHILD)
def test_a_layer_blocks_its_probes_all_by_itself(confined, layer):
    result = confined("probes", skip=[name for name in IN_CHILD if name != layer])
    if result["layers"][layer] == "unavailable":
        pytest.skip(f"{layer}: {result['details'][layer]}")
    assert set(LAYER_PROBES[layer]) - blocked(result) == set()
    assert result["judged"][layer] == "active"


@pytest.mark.parametrize("layer", HELD_BY_ONE)
def test_what_only_one_layer_holds_gets_through_without_it(confined, layer):
    result = confined("probes", skip=[layer])
    assert blocked(result).isdisjoint(HELD_BY_ONE[layer])


def test_every_probe_verifies_a_layer():
    verified = {name for names in LAYER_PROBES.values() for name in names}
    assert verified == PROBES.keys()
