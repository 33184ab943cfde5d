"""Bytes from a worker are a message of the schema, or a clear error; never code, never a large allocation."""

import pickle
import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringfence.isolation.transport import messages
from ringfence.isolation.transport.messages import Done, Fault, Large, MessageError, Ready, Size

from ..watching import descriptors

MESSAGES = [
    Ready({"forward": ("batch", "step")}, keeps_state=True),
    Done(3, "map", 0.5, 0.01, {"norm": 1.0}, None),
    Large(1, 70_000),
    Size(2, 0),
    Fault(1, "raised", "ValueError: x", "Traceback", 0),
]


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(1)
    yield ours, theirs
    ours.close()
    theirs.close()


def receive(sock):
    return messages.receive(sock, messages.from_worker, bytearray(messages.MAX_MESSAGE_BYTES))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(pair, message):
    messages.send(pair[1], message)
    assert receive(pair[0]) == message


def test_messages_keep_their_borders(pair):
    for number in range(10):
        messages.send(pair[1], Size(number, number))
    assert [receive(pair[0]).seq for _ in range(10)] == list(range(10))


def test_a_message_past_the_limit_is_refused_on_both_sides(pair):
    with pytest.raises(MessageError, match="at most 65536"):
        messages.send(pair[1], Fault(1, "raised", "x" * 70_000, "", 0))
    pair[1].send(b"x" * 70_000)
    with pytest.raises(MessageError, match="a message of 70000 bytes"):
        receive(pair[0])


def test_file_descriptors_from_a_worker_are_dropped_by_the_kernel(pair):
    with Path("/dev/null").open("rb") as null:
        socket.send_fds(pair[1], [messages.encoder.encode(Size(1, 0))], [null.fileno()] * 8)
        before = descriptors()
        receive(pair[0])
        assert descriptors() == before


def test_a_closed_socket_is_the_end(pair):
    pair[1].close()
    with pytest.raises(EOFError):
        receive(pair[0])


def test_no_reply_in_time_is_an_error(pair):
    pair[0].settimeout(0.05)
    with pytest.raises(TimeoutError):
        receive(pair[0])


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


JUNK = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=10)
        | st.binary(max_size=10),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=15,
    ).map(msgspec.msgpack.encode),
    st.tuples(st.sampled_from(MESSAGES), st.integers(0, 60), st.integers(0, 255)).map(
        lambda pick: _flip(messages.encoder.encode(pick[0]), pick[1], pick[2])
    ),
)


def _flip(data, at, value):
    changed = bytearray(data)
    changed[at % len(changed)] = value
    return bytes(changed)


@pytest.mark.room
@given(JUNK)
@example(pickle.dumps(Bomb()))
@example(b"\x91" * 60_000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
@settings(max_examples=2000, deadline=None)
def test_any_bytes_are_a_message_or_a_message_error(data):
    try:
        message = messages.decode(messages.from_worker, data)
    except MessageError:
        return
    assert type(message).__name__ in {"Locked", "Ready", "Done", "Large", "Size", "Fault"}
