"""A layer is called active only when its probes were refused."""

import pytest

from ringfence.hooks.errors import SandboxUnavailableError
from ringfence.isolation.host.processes.layer_report import (
    combine,
    grade,
    merge_worst,
    refuse_if_missing,
    table,
)
from ringfence.isolation.policy.layer_status import (
    CONSEQUENCES,
    LAYER_PROBES,
    LAYERS,
    REQUIRED,
    active,
    lacking,
)
from ringfence.isolation.worker.probes.run_probes import PROBES

IN_CHILD = tuple(LAYER_PROBES)
ALL_ACTIVE = [active(name, "on") for name in IN_CHILD]
HELD = [*ALL_ACTIVE, active("watchdog", "on")]
ALL_BLOCKED = dict.fromkeys(PROBES, True)


def names(statuses, *wanted):
    return {status.name for status in statuses if status.status in wanted}


def test_layers_whose_probes_were_refused_are_active_and_say_by_which():
    judged = combine(ALL_ACTIVE, ALL_BLOCKED)
    assert {status.name: status.verified_by for status in judged} == LAYER_PROBES
    assert names(judged, "active") == set(IN_CHILD)


@pytest.mark.parametrize("probe", ["read_canary", "fork", "data_limit", "inherited_fd", "capabilities"])
def test_a_probe_that_got_through_fails_each_layer_that_should_have_held_it(probe):
    judged = combine(ALL_ACTIVE, {**ALL_BLOCKED, probe: False})
    assert names(judged, "failed") == {layer for layer, probes in LAYER_PROBES.items() if probe in probes}
    (status, *_) = [status for status in judged if status.status == "failed"]
    assert probe in status.detail
    assert status.consequence == CONSEQUENCES[status.name]


def test_a_layer_whose_probes_did_not_run_is_not_active():
    assert names(combine(ALL_ACTIVE, {}), "failed") == set(IN_CHILD)


def test_a_layer_that_is_off_stays_off_whatever_its_probes_say():
    judged = combine([lacking("landlock", "disabled", "switched off")], ALL_BLOCKED)
    assert names(judged, "disabled") == {"landlock"}
    assert judged[0].verified_by == ()


def test_layers_of_the_host_stand_where_they_are_applied():
    judged = combine(
        ALL_ACTIVE, ALL_BLOCKED, active("messages", ""), active("cgroup", ""), active("watchdog", "")
    )
    assert tuple(status.name for status in judged) == LAYERS


@pytest.mark.parametrize("layer", REQUIRED)
def test_a_plugin_is_refused_without_a_required_layer(layer):
    statuses = [lacking(layer, "failed", "no such thing") if s.name == layer else s for s in HELD]
    with pytest.raises(SandboxUnavailableError) as caught:
        refuse_if_missing(statuses, "augment")
    message = str(caught.value)
    assert "plugin 'augment'" in message
    assert f"{layer}: failed: no such thing" in message
    assert CONSEQUENCES[layer] in message
    assert "isolation: trusted" in message


def test_a_plugin_is_refused_when_nothing_is_known_of_a_required_layer():
    with pytest.raises(SandboxUnavailableError, match="seccomp"):
        refuse_if_missing([status for status in HELD if status.name != "seccomp"], "augment")


def test_a_plugin_runs_without_the_layers_that_are_extras():
    refuse_if_missing([status for status in HELD if status.name in REQUIRED], "augment")


@pytest.mark.parametrize(
    ("missing", "letter"),
    [
        ((), "A"),
        (("namespaces",), "A"),
        (("watchdog",), "B"),
        (("landlock",), "B"),
        (("seccomp",), "B"),
        (("landlock", "seccomp"), "C"),
    ],
)
def test_the_grade_says_what_the_layers_are_good_for(missing, letter):
    assert grade([status for status in HELD if status.name not in missing]).startswith(f"{letter}:")


@pytest.mark.parametrize("order", [1, -1])
def test_a_layer_stands_as_in_the_process_where_it_stands_worst(order):
    first = combine(ALL_ACTIVE, ALL_BLOCKED)
    second = combine(ALL_ACTIVE, {**ALL_BLOCKED, "read_canary": False})
    assert names(merge_worst([first, second][::order]), "failed") == {"landlock"}
    assert merge_worst([first, first]) == first


def test_a_layer_that_one_process_says_nothing_of_is_not_active():
    without = [status for status in ALL_ACTIVE if status.name != "seccomp"]
    judged = merge_worst([combine(ALL_ACTIVE, ALL_BLOCKED), combine(without, ALL_BLOCKED)])
    assert names(judged, "unavailable") == {"seccomp"}


def test_the_table_tells_each_layer_with_its_consequence():
    rows = table(combine([active("fds", "1 open"), lacking("cgroup", "unavailable", "none")], ALL_BLOCKED))
    assert rows == [
        ("fds", "active", "1 open (verified by 1 probes)", ""),
        ("cgroup", "unavailable", "none", CONSEQUENCES["cgroup"]),
    ]


def test_every_layer_has_a_consequence():
    assert set(CONSEQUENCES) == set(LAYERS)
