"""Frames of a plugin's own making in the place of a reply: malformed, lying, poisoned, or too many.

Each name in ``FRAMES`` is an attack: in a sandbox the bytes go to the host by the worker's socket,
in the control to whoever takes them by ``multiprocessing.connection``.
"""

import functools
import pickle
import struct
import time

import inside
import msgspec

from ringfence.isolation.transport.messages import (
    Done,
    Fault,
    Large,
    Locked,
    MapLayout,
    Ready,
    Size,
    WireImage,
    WireReport,
)

_encode = msgspec.msgpack.encode
_HUGE = 0xFFFFFFFF
_NAN, _INF = float("nan"), float("inf")


class _Bomb:
    """What runs as it is unpickled."""

    def __reduce__(self):
        return open, ("executed", "w")


BOMB = pickle.dumps(_Bomb())
_BOMB_TEXT = BOMB.decode("latin-1")


def done(seq, result="none", value=0.0, seconds=0.0, scalars=None, report=None):
    return Done(seq, result, value, seconds, scalars or {}, report)


def _report(**fields):
    return WireReport(**{"scalars": {}, "histograms": {}, "images": {}, **fields})


def _fault(seq, kind="raised", cause="", trace="", used=0):
    return Fault(seq, kind, cause, trace, used)


#: Name to what makes the bytes; ``n`` is the number of the request that the host waits for.
FRAMES = {
    # malformed
    "empty": lambda n: b"",
    "one_byte": lambda n: b"\x00",
    "bad_magic": lambda n: b"\xc1" * 64,
    "zeros": lambda n: bytes(4096),
    "text": lambda n: b"HTTP/1.1 200 OK\r\n\r\n",
    "truncated": lambda n: _encode(done(n))[:-5],
    "header_alone": lambda n: b"\xdd" + struct.pack(">I", 6),
    "trailing": lambda n: _encode(done(n)) + b"\x00" * 100,
    "twice_in_one": lambda n: _encode(done(n)) * 2,
    "array_of_4_billion": lambda n: b"\xdd" + struct.pack(">I", _HUGE),
    "map_of_4_billion": lambda n: (
        b"\x96\xa4Done" + _encode(n) + b"\xa4none\xcb" + bytes(8) + b"\xdf\xff\xff\xff\xff"
    ),
    "text_of_4_gib": lambda n: b"\x97\xdb" + struct.pack(">I", _HUGE) + b"Done",
    "bytes_of_4_gib": lambda n: b"\x97\xc6" + struct.pack(">I", _HUGE),
    "length_of_2_to_63": lambda n: struct.pack("!iQ", -1, 1 << 63),
    "half_a_length": lambda n: b"\x00\x00",
    "extension": lambda n: b"\xc7\x05\x63" + b"evils",
    "too_large": lambda n: b"x" * 100_000,
    "deep": lambda n: b"\x91" * 60_000,
    "deep_maps": lambda n: b"\x81\xa1a" * 20_000,
    "not_utf8": lambda n: _encode(done(n)).replace(b"none", b"\xff\xfe\xfd\xfc"),
    "no_array": lambda n: _encode({"seq": n}),
    "number": lambda n: _encode(7),
    "unknown_opcode": lambda n: _encode(["Execute", n]),
    "opcode_of_the_host": lambda n: _encode(MapLayout(1, 1, 1)),
    "too_few_fields": lambda n: _encode(["Done", n]),
    "wrong_types": lambda n: _encode(["Done", "one", 1, [], {}, 3, 4]),
    "json": lambda n: msgspec.json.encode(done(n)),
    # out of order
    "reply_to_another": lambda n: _encode(done(n + 1)),
    "reply_to_the_last": lambda n: _encode(done(n - 1)),
    "seq_of_2_to_63": lambda n: _encode(done(1 << 63)),
    "negative_seq": lambda n: _encode(done(-1)),
    "fractional_seq": lambda n: _encode(["Done", n + 0.5, "none", 0.0, 0.0, {}, None]),
    "locked_again": lambda n: _encode(Locked([], {})),
    "ready_again": lambda n: _encode(Ready({"backward": ("gradients",)}, keeps_state=False)),
    "size_for_a_call": lambda n: _encode(Size(n, 1 << 40)),
    # lying
    "other_result": lambda n: _encode(done(n, "batch")),
    "loss_for_gradients": lambda n: _encode(done(n, "loss_scale", _NAN)),
    "unknown_result": lambda n: _encode(["Done", n, "checkpoint", 0.0, 0.0, {}, None]),
    "report_of_no_monitor": lambda n: _encode(done(n, "report", report=_report())),
    "outbox_of_2_to_62": lambda n: _encode(Large(n, 1 << 62)),
    "outbox_of_less_than_nothing": lambda n: _encode(Large(n, -1)),
    "outbox_beyond_the_end": lambda n: _encode(Large(n, 256 * 1024 + 4097)),
    "outbox_of_zeros": lambda n: _encode(Large(n, 4096)),
    # names that reach a terminal, a file, a page
    "escapes_in_a_name": lambda n: _encode(done(n, scalars={"\x1b]0;owned\x07\x1b[2J": 1.0})),
    "lines_in_a_name": lambda n: _encode(done(n, scalars={"loss 0.0\nringfence: all is well": 1.0})),
    "tags_in_a_name": lambda n: _encode(done(n, scalars={"<script>alert(1)</script>": 1.0})),
    "path_in_a_name": lambda n: _encode(done(n, scalars={"a" * 201: 1.0})),
    "too_many_names": lambda n: _encode(done(n, scalars={f"{k:x}": 1.0 for k in range(4100)})),
    "number_that_is_none": lambda n: _encode(["Done", n, "none", 0.0, 0.0, {"a": "b"}, None]),
    # what runs as it is unpickled, in every field
    "bomb": lambda n: BOMB,
    "bomb_in_a_result": lambda n: _encode(["Done", n, BOMB, 0.0, 0.0, {}, None]),
    "bomb_in_a_value": lambda n: _encode(["Done", n, "none", BOMB, 0.0, {}, None]),
    "bomb_in_a_name": lambda n: _encode(done(n, scalars={_BOMB_TEXT: 1.0})),
    "bomb_in_a_report": lambda n: _encode(["Done", n, "report", 0.0, 0.0, {}, BOMB]),
    "bomb_in_a_picture": lambda n: _encode(
        done(n, "report", report=_report(images={"a": WireImage(1, len(BOMB), 0, BOMB)}))
    ),
    "bomb_in_an_extension": lambda n: b"\xc7" + bytes([len(BOMB), 1]) + BOMB,
    "bomb_in_a_cause": lambda n: _encode(_fault(n, cause=_BOMB_TEXT)),
    "bomb_in_a_traceback": lambda n: _encode(_fault(n, trace=_BOMB_TEXT)),
    # faults that say what is not so
    "fault_of_unknown_kind": lambda n: _encode(["Fault", n, "kernel", "", "", 0]),
    "fault_of_much_text": lambda n: _encode(_fault(n, cause="x" * 20_000)),
    "fault_with_escapes": lambda n: _encode(
        _fault(n, cause="\x1b[2J\x1b]52;c;cm0gLXJm\x07\r\nringfence: done")
    ),
    "fault_of_odd_direction": lambda n: _encode(_fault(n, cause="\u202egnp.exe\u2066\u200b")),
    "fault_of_memory": lambda n: _encode(_fault(n, "memory", used=-(1 << 62))),
}


def __getattr__(name):
    if name not in FRAMES:
        raise AttributeError(name)
    return functools.partial(_send, name)


def _send(name, aim, gradients, step):
    """Send it in the place of a reply, and never send another."""
    inside.worker()._sock.send(FRAMES[name](inside.call().seq))
    time.sleep(60)


def send_to(connection, name):
    """Send it to one that unpickles what it is sent."""
    if name in ("length_of_2_to_63", "half_a_length"):
        connection._send(FRAMES[name](1))
    else:
        connection.send_bytes(FRAMES[name](1))
