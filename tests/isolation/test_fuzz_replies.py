"""Whatever a worker answers to a call, the host has a checked result or an error that names the plugin."""

import struct

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from other_end import HOOKS, METHODS, ROLES, Attacked
from strategies import BYTES, DONE, FILLS, MESSAGES, REPORTS, encoded
from verdict import Bounds, assert_contained

from ringfence.hooks import specs
from ringfence.plugins.result_kinds import (
    BATCH,
    GRADIENTS,
    LOSS,
    NUMBER,
    PARAMETERS,
    REPORT,
    RESULT_KINDS,
    UPDATED,
    kinds_of,
)

ZEROS, ONES = b"\x00", struct.pack("<f", 1.0)
pytestmark = pytest.mark.room

EXAMPLES = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def attacked():
    plugins = {role: Attacked(role) for role in ROLES}
    yield plugins
    for plugin in plugins.values():
        plugin.close()


@pytest.fixture(scope="module")
def bounds(tell_fuzzed):
    measured = Bounds()
    yield measured
    tell_fuzzed(f"replies: {measured}")


@given(st.sampled_from(ROLES), st.sampled_from(METHODS), st.lists(BYTES, min_size=1, max_size=3), FILLS)
@settings(EXAMPLES, max_examples=2500)
def test_any_bytes_in_answer_to_a_call_are_a_checked_result_or_a_protocol_error(
    attacked, bounds, role, method, replies, fill
):
    plugin = attacked[role]
    kind, result = bounds(lambda: plugin.call(method, *replies, fill=fill))
    assert_contained(kind, result, plugin.arguments)


@given(st.sampled_from(ROLES), st.sampled_from(METHODS), DONE, FILLS)
@settings(EXAMPLES, max_examples=1500)
def test_any_well_formed_answer_is_a_checked_result_or_a_protocol_error(
    attacked, bounds, role, method, done, fill
):
    plugin = attacked[role]
    kind, result = bounds(lambda: plugin.call(method, msgspec.msgpack.encode(done), fill=fill))
    assert_contained(kind, result, plugin.arguments)


#: Each kind of result to what a worker says and writes that keeps to it.
HONEST = {
    BATCH: [("batch", 0.0, ZEROS), ("soft_batch", 0.0, ZEROS)],
    LOSS: [("loss_term", 0.5, ZEROS), ("loss_scale", 2.0, ZEROS)],
    GRADIENTS: [("map", 0.0, ONES)],
    PARAMETERS: [("map", 0.0, ONES)],
    UPDATED: [("map", 0.0, ONES), ("another_pass", 0.0, ONES)],
    REPORT: [("report", 0.0, ZEROS)],
    NUMBER: [("number", 0.5, ZEROS)],
}


def test_every_kind_of_result_is_fuzzed():
    """Its forms are among those that are sent, and what is accepted of them is looked at."""
    assert set(HONEST) == set(RESULT_KINDS.values())
    for kind, answers in HONEST.items():
        assert [form for form, _, _ in answers] == list(kind.forms)


@pytest.mark.parametrize(("role", "method"), HOOKS)
def test_an_honest_answer_of_every_form_is_accepted_and_looked_at(attacked, role, method):
    plugin = attacked[role]
    for form, value, fill in HONEST[kinds_of(specs.ROLES[role])[method]]:
        report = ["WireReport", {"norm": 1.0}, {}, {}] if form == "report" else None
        done = msgspec.msgpack.encode(["Done", 0, form, value, 0.0, {}, report])

        kind, result = plugin.call(method, done, fill=fill)

        assert kind == "accepted", result
        assert result not in (None, [])
        assert_contained(kind, result, plugin.arguments)


def lying(nbytes):
    return msgspec.msgpack.encode(["Large", 0, nbytes])


def reporting(report):
    return msgspec.msgpack.encode(["Done", 0, "report", 0.0, 0.0, {}, report])


@given(
    st.sampled_from(METHODS),
    REPORTS.map(reporting) | MESSAGES.map(encoded) | BYTES,
    st.none() | st.sampled_from([0, 1, -1, 12 * 2**20, 12 * 2**20 + 1, 2**63 - 1]),
)
@settings(EXAMPLES, max_examples=800)
def test_any_outbox_of_any_claimed_size_is_a_report_or_a_protocol_error(
    attacked, bounds, method, outbox, claimed
):
    plugin = attacked["monitor"]
    large = lying(len(outbox) if claimed is None else claimed)
    # The request's number is not looked at in an outbox: the message that announces it has one.
    kind, result = bounds(lambda: plugin.call(method, large, outbox=outbox))
    assert_contained(kind, result, plugin.arguments)


LARGE = {
    "a histogram of 12 million counts": lambda: reporting(
        ["WireReport", {}, {"h": ["WireHistogram", [1] * 12_000_000, [0.0]]}, {}]
    ),
    "a million scalars": lambda: reporting(["WireReport", {f"{n}": 1 for n in range(1_000_000)}, {}, {}]),
    "12 million names of arguments": lambda: msgspec.msgpack.encode(
        ["Ready", {"forward": [""] * 12_000_000}, True]
    ),
    "all histograms that a report may have": lambda: reporting(
        ["WireReport", {}, {f"{n}": ["WireHistogram", [1] * 512, list(range(513))] for n in range(1024)}, {}]
    ),
    "all bytes of pictures": lambda: reporting(
        ["WireReport", {}, {}, {f"{n}": ["WireImage", 1024, 1024, 3, bytes(3 << 20)] for n in range(3)}]
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_full_outbox_is_decided_on_within_bounds(attacked, bounds, name):
    plugin, outbox = attacked["monitor"], LARGE[name]()
    kind, result = bounds(lambda: plugin.call("backward", lying(min(len(outbox), 12 << 20)), outbox=outbox))
    assert kind == "PluginProtocolError", result
