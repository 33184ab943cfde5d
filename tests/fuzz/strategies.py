"""What an attacker may send: messages of every type, with everything in them that does not belong."""

import struct
from typing import get_args

import msgspec
from hypothesis import strategies as st

from ringfence.plugins.result_kinds import Form

_NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
_EXTREME = (0, -1, 1, 3, 513, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, 0.0, -0.0, 1e308, -1e308, 5e-324)
NUMBERS = st.sampled_from([*_EXTREME, *_NOT_FINITE]) | st.integers(-(2**63), 2**64 - 1) | st.floats()
SIZES = st.sampled_from([0, 1, 2, 63, 4096, 4097, 10_000])
NAMES = st.one_of(
    st.sampled_from(["norm", "a/b", "layer.0-weight_1", "", ".", "..", "../../etc/passwd", "/", "a" * 200])
    | st.sampled_from(
        ["a" * 201, "\x1b[2J", "\x00", "\u202eok", "<script>", "{{7*7}}", "é", "\U0010ffff", "a\n"]
    ),
    st.text(max_size=8),
)


def _nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


ODD = st.one_of(
    st.none() | st.booleans() | NUMBERS | NAMES | st.binary(max_size=8),
    st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=12)),
    st.lists(NUMBERS, max_size=3) | st.dictionaries(NAMES, NUMBERS, max_size=3),
    # Deeper than a parser's stack, once it is encoded.
    st.integers(1, 600).map(_nested),
)


def _many(count):
    return {f"n{number}": number for number in range(count)}


def _often(valid, odd=ODD):
    """Mostly ``valid``, so that what comes after it is reached too."""
    return st.integers(0, 24).flatmap(lambda pick: odd if pick == 24 else valid)


GOOD_NAMES = st.from_regex(r"[a-z./]{1,6}", fullmatch=True)
SCALARS = st.one_of(st.dictionaries(GOOD_NAMES | NAMES, NUMBERS, max_size=4), SIZES.map(_many))
COUNTS = st.one_of(st.lists(NUMBERS, max_size=4), SIZES.map(lambda n: [1] * n))
EDGES = st.one_of(st.lists(NUMBERS, max_size=5), SIZES.map(lambda n: list(range(n + 1))))
GOOD_HISTOGRAMS = st.integers(1, 512).map(
    lambda n: ["WireHistogram", [1.0] * n, [float(i) for i in range(n + 1)]]
)
HISTOGRAMS = _often(
    GOOD_HISTOGRAMS | st.tuples(st.just("WireHistogram"), _often(COUNTS), _often(EDGES)).map(list)
)
SIDES = st.sampled_from([0, 1, 2, 16, 1024, 1025, -1, 2**31, 2**62, 2**63 - 1, 2**64 - 1])


def _picture(height, width, channels):
    size = height * width * max(channels, 1)
    return ["WireImage", height, width, channels, bytes(size if 0 <= size <= 2**20 else 5)]


IMAGES = _often(
    st.builds(_picture, SIDES, SIDES, st.sampled_from([0, 1, 3, 4, -1, 2**62]))
    | st.tuples(
        st.just("WireImage"), _often(SIDES), _often(SIDES), _often(SIDES), st.binary(max_size=64)
    ).map(list)
)
REPORTS = _often(
    st.tuples(
        st.just("WireReport"),
        _often(SCALARS),
        _often(st.dictionaries(GOOD_NAMES | NAMES, HISTOGRAMS, max_size=3)),
        _often(st.dictionaries(GOOD_NAMES | NAMES, IMAGES, max_size=2)),
    ).map(list)
)
KINDS = st.sampled_from([*get_args(Form), "pickle", ""])
DONE = st.tuples(
    st.just("Done"),
    st.just(0),
    _often(KINDS),
    _often(NUMBERS),
    _often(NUMBERS),
    _often(SCALARS),
    st.none() | REPORTS,
).map(list)
LARGE = st.tuples(st.just("Large"), st.just(0), _often(NUMBERS)).map(list)
SIZE = st.tuples(st.just("Size"), st.just(0), _often(NUMBERS)).map(list)
FAULT = st.tuples(
    st.just("Fault"),
    st.just(0),
    _often(st.sampled_from(["raised", "transient", "memory", "result", "not finite", "load", "refused"])),
    _often(NAMES | st.just("x\x1b]0;y\x07" * 900) | st.just('File "' * 3000)),
    _often(NAMES | st.just('  File "a.py", line 1\n' * 300)),
    _often(NUMBERS),
).map(list)
ACCEPTS = st.dictionaries(
    _often(st.sampled_from(["forward", "backward"]), NAMES),
    _often(st.lists(st.sampled_from(["batch", "step", "loss", "self", "x"]) | NAMES, max_size=5))
    | SIZES.map(lambda n: ["step"] * n)
    | SIZES.map(lambda n: [f"a{i}" for i in range(n)]),
    max_size=3,
)
READY = st.tuples(st.just("Ready"), _often(ACCEPTS), _often(st.booleans())).map(list)
LAYER = st.fixed_dictionaries(
    {"name": _often(st.sampled_from(["landlock", "seccomp", "watchdog", "cgroup"]), NAMES)}
    | {"status": _often(st.sampled_from(["active", "degraded", "failed"]))},
    optional={"detail": _often(NAMES), "verified_by": _often(st.lists(NAMES)), "consequence": _often(NAMES)},
)
LOCKED = st.tuples(
    st.just("Locked"),
    _often(
        st.lists(_often(LAYER), max_size=4)
        | SIZES.map(lambda n: [{"name": "seccomp", "status": "active"}] * n)
    ),
    _often(st.dictionaries(_often(st.just("exec"), NAMES), _often(st.booleans()), max_size=4)),
).map(list)
MESSAGES = st.one_of(DONE, DONE, LARGE, SIZE, FAULT, READY, LOCKED)


def _mutated(message, where, what, how):
    """Change one item of a message, take it away, or put one more in."""
    at = where % max(len(message), 1)
    match how:
        case "replace":
            return [*message[:at], what, *message[at + 1 :]]
        case "drop":
            return [*message[:at], *message[at + 1 :]]
        case "add":
            return [*message[:at], what, *message[at:]]
    return message


def _damaged(data, where, value, how):
    """Change bytes of an encoded message."""
    at = where % max(len(data), 1)
    match how:
        case "flip":
            return data[:at] + bytes([value]) + data[at + 1 :]
        case "cut":
            return data[:at]
        case "repeat":
            return data[:at] + data * 3
        case "length":
            # A header that promises 2**32 - 1 items or bytes: array, map, string, binary.
            return (
                data[:at] + bytes([0xDB + value % 5 if value % 5 else 0xC6]) + b"\xff\xff\xff\xff" + data[at:]
            )
    return data


#: Longer ones are for the tests that make them on the spot: an example must be short enough to be shown.
_LONGEST = 45_000


def encoded(message):
    return msgspec.msgpack.encode(message)[:_LONGEST]


#: Each of its own kind of trouble: nothing, too much, and nests of lists and of dicts.
LONG = {"": b"", "x": b"x" * 65_537, "[": b"\x91" * _LONGEST, "{": b"\x81\xa1" * (_LONGEST // 2)}
HOW = st.sampled_from(["replace", "drop", "add", "keep", "keep", "keep"])
BYTES = st.one_of(
    st.builds(_mutated, MESSAGES, st.integers(0, 20), ODD, HOW).map(encoded),
    st.builds(
        _damaged,
        MESSAGES.map(encoded),
        st.integers(0, 5000),
        st.integers(0, 255),
        st.sampled_from(["flip", "cut", "repeat", "length"]),
    ),
    st.binary(max_size=200),
    st.sampled_from(sorted(LONG)).map(LONG.get),
)
#: What lies in a result region: repeated over it.
FILLS = st.one_of(
    st.sampled_from([b"\x00", b"\xff", b"\x7f", b"\x01"]),
    st.sampled_from([struct.pack("<f", x) for x in (1.0, float("nan"), float("inf"), 3e38)]),
    st.sampled_from([struct.pack("<q", x) for x in (-1, 2, 3, 2**63 - 1)]),
    st.binary(min_size=1, max_size=16),
)
