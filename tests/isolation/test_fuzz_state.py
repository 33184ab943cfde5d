"""Whatever a worker says its state is, the host has plain data or an error that names the plugin."""

import json
import struct

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from other_end import Attacked
from strategies import BYTES, NAMES, NUMBERS
from verdict import Bounds, assert_contained

from ringfence.hooks.errors import PluginProtocolError
from ringfence.tensors import pytree

pytestmark = pytest.mark.room

EXAMPLES = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
DONE = ["Done", 0, "none", 0.0, 0.0, {}, None]
LEAVES = st.none() | st.booleans() | NUMBERS | NAMES
KEYS = NAMES | st.integers(-(2**64), 2**64) | st.floats() | st.none() | st.booleans()
#: Nodes of a state's structure, right and wrong: {"t": name} is a tensor, {"d": [[key, value], …]} a dict.
NODES = st.recursive(
    LEAVES | st.sampled_from([{"t": "0"}, {"t": "1"}, {"t": "x"}, {"t": 0}, {}, {"t": "0", "d": []}]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(st.tuples(KEYS | inner, inner), max_size=4).map(lambda items: {"d": items})
        | st.dictionaries(NAMES, inner, max_size=3)
        | st.integers(0, 40).flatmap(lambda depth: inner.map(lambda node: nested(node, depth)))
    ),
    max_leaves=12,
)
TYPES = "F32 F64 F16 BF16 I64 U8 BOOL F8_E4M3 F8_E8M0 F4 F6_E2M3 U64 C64 C128 X"
DTYPES = st.sampled_from([*TYPES.split(), "", 3])
DIMS = st.sampled_from([0, 1, 2, 2**31, 2**62, 2**63, 2**64 - 1, 2**64, -1, 1.5])
ENTRIES = st.fixed_dictionaries(
    {"dtype": DTYPES, "shape": st.lists(DIMS, max_size=4) | st.just([1] * 70)},
    optional={"data_offsets": st.lists(st.sampled_from([0, 4, 8, 16, 2**40, 2**64 - 1, -1]), max_size=3)},
)


def nested(node, depth):
    for _ in range(depth):
        node = [node]
    return node


def state_of(structure, entries, body, claimed=None):
    """Lay out a safetensors file as an attacker would."""
    header = {"__metadata__": {"ringfence": json.dumps(structure)}, **entries}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + body


def many(entry, count):
    return {str(n): {**entry, "data_offsets": [0, 0]} for n in range(count)}


STATES = st.one_of(
    st.builds(
        state_of,
        NODES,
        st.dictionaries(st.sampled_from(["0", "1", "x", "", "__metadata__"]), ENTRIES, max_size=3),
        st.binary(max_size=32) | st.just(bytes(16)),
        st.none() | st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1]),
    ),
    st.binary(max_size=64),
)
VALID = pytree.dumps(
    {"a": [1, 2.5, "x", None], 3: torch.arange(4.0), "b": {"c": torch.ones(2, dtype=torch.bool)}}
)
FLIPPED = st.builds(
    lambda at, value, cut: (VALID[: at % len(VALID)] + bytes([value]) + VALID[at % len(VALID) + 1 :])[
        : cut or None
    ],
    st.integers(0, 1000),
    st.integers(0, 255),
    st.sampled_from([0, 0, 0, 20, -1]),
)


@pytest.fixture(scope="module")
def attacked():
    with Attacked("optimizer") as plugin:
        yield plugin


@pytest.fixture(scope="module")
def bounds(tell_fuzzed):
    measured = Bounds()
    yield measured
    tell_fuzzed(f"state: {measured}")


@given(STATES | FLIPPED)
@settings(EXAMPLES, max_examples=2500)
def test_any_bytes_in_place_of_a_state_are_plain_data_or_a_protocol_error(attacked, bounds, state):
    kind, result = bounds(lambda: attacked.honest_save(state))
    if kind == "accepted":
        # What was believed can be handed to a checkpoint and back.
        assert result is None or pytree.loads(pytree.encode(pytree.decode(result)).to_bytes()) is not ...
    else:
        assert_contained(kind, result, attacked.arguments)


LARGE = {
    "tensors": lambda: state_of([], many({"dtype": "F32", "shape": [0]}, 20_000), b""),
    "lists": lambda: state_of([[]] * 200_000, {}, b""),
    "numbers as keys": lambda: state_of({"d": [[n, None] for n in range(150_000)]}, {}, b""),
    "keys": lambda: state_of({"d": [[str(n), None] for n in range(150_000)]}, {}, b""),
    "backslashes": lambda: state_of("\\" * 10_000, {}, b""),
    "a long number": lambda: state_of(10**4000, {}, b""),
    "spaces": lambda: state_of([], {}, b"", 1 << 19) + b" " * (1 << 19),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_state_as_large_as_may_be_is_decided_on_within_bounds(attacked, bounds, name):
    state = LARGE[name]()
    kind, result = bounds(lambda: attacked.honest_save(state))
    if kind != "accepted":
        assert_contained(kind, result, attacked.arguments)


@given(st.lists(BYTES, min_size=2, max_size=3))
@settings(EXAMPLES, max_examples=500)
def test_any_bytes_in_answer_to_a_save_are_a_state_or_a_protocol_error(attacked, bounds, replies):
    kind, result = bounds(lambda: attacked.save(*replies, state=VALID))
    if kind != "accepted":
        assert_contained(kind, result, attacked.arguments)


@pytest.mark.parametrize("answer", [["Size", 0, 8], ["Large", 0, 8]])
def test_a_fetch_is_answered_by_done_and_nothing_else(attacked, answer):
    replies = [["Size", 0, len(VALID)], answer]
    kind, error = attacked.save(*map(msgspec.msgpack.encode, replies), state=VALID)
    assert (kind, "where a Done is due" in str(error)) == (PluginProtocolError.__name__, True)


def test_a_state_that_the_budget_cannot_have_held_is_refused_before_memory_is_taken_for_it(attacked, bounds):
    budget = attacked.plugin.usage.budget_bytes
    for nbytes in (budget, budget // 4 + 1, 2**63 - 1, -1):
        kind, error = bounds(lambda nbytes=nbytes: attacked.save(msgspec.msgpack.encode(["Size", 0, nbytes])))
        assert kind == PluginProtocolError.__name__
        assert "copies" in str(error) or nbytes < 0
