"""What plugins do wrong of themselves: each fault of a plan once, in whichever process its moment comes.

A plugin that is started anew knows nothing of the faults that it has had. So each of them leaves a mark
in a folder that the job grants, before it is made.
"""

import contextlib
import ctypes
import json
import os
import socket
import sys
import time
from pathlib import Path

import msgspec
import torch

from ringfence import LossScale

_MIB = 1 << 20
#: As large as the host's buffer for a message, and some more.
_OVERSIZED = 100_000
#: One more than the watchdog lets a scratch folder have.
_FILES = 10_001


class ChaosError(Exception):
    """What a plugin raises that fails on purpose."""


class Faulty:
    """A plugin that fails where its plan says.

    Args:
        marks: Folder for a mark of each fault that was made, and for the steps that were worked on.
        plan: Faults, each with ``id``, ``kind``, ``method`` and ``step``, the first at which it may come.
    """

    def __init__(self, marks, plan):
        self._marks = Path(marks)
        self._plan = plan or []
        self._step = -1
        self._name = type(self).__name__.lower()
        # Every process but the first of a run is one that was started anew.
        self._is_again = not self._mark(f"began-{self._name}-{self._attempt()}")
        if self._is_again:
            self.fault("start")

    def state_dict(self):
        """Return the state, unless it is time to fail."""
        wrong = self.fault("state_dict")
        return self.state() if wrong is None else wrong(self.state())

    def load_state_dict(self, state):
        """Take the state, unless it is time to fail."""
        wrong = self.fault("load_state_dict")
        self.restore(state if wrong is None else wrong(state))

    def fault(self, method, step=None):
        """Make the fault that is due, if any; returns what makes a wrong result if that is the fault."""
        if step is not None:
            self._step = step.global_step
            if method == "backward":
                self._note(self._step)
        for entry in self._plan:
            if entry["method"] == method and (self._step >= entry["step"] or method in _ANY_STEP):
                about = {"time": time.time(), "step": self._step, **entry}
                if self._mark(f"made-{entry['id']}", json.dumps(about)):
                    return KINDS[entry["kind"]]()
        return None

    def _note(self, step):
        """Add a step to the list of those that were begun, which no roll-back shortens."""
        with (self._marks / f"steps-{self._name}").open("ab", buffering=0) as file:
            file.write(step.to_bytes(4, "little"))

    def _attempt(self):
        return (self._marks / "attempt").read_text()

    def _mark(self, name, text=""):
        """Leave a mark; False if it is there already."""
        try:
            (self._marks / name).open("x").close()
        except FileExistsError:
            return False
        (self._marks / name).write_text(text)
        return True


#: A new process has seen no step yet.
_ANY_STEP = ("start", "load_state_dict")


def _raise():
    raise ChaosError("on purpose")


def _exit():
    os._exit(3)


def _leave():
    sys.exit(0)


def _segfault():
    ctypes.string_at(0)


def _abort():
    os.abort()


def _loop():
    while True:
        pass


def _sleep():
    time.sleep(3600)


def _leak():
    kept = []
    while True:
        kept.append(bytearray(os.urandom(_MIB)) * 8)


def _fill_scratch():
    for n in range(_FILES):
        Path(f"file-{n}").touch()
    time.sleep(3600)


def _print_much():
    with contextlib.suppress(OSError):
        for _ in range(400):
            os.write(1, b"\x1b[2J" + b"x" * 9995 + b"\n")
    os._exit(9)


# messages


def _inside():
    """Return the worker that called, and the number of the request that it works on."""
    frame = sys._getframe()
    while frame is not None:
        here = frame.f_locals
        if type(here.get("self")).__name__ == "Worker":
            request = here.get(frame.f_code.co_name.removeprefix("_"))
            seq = here.get("seq", getattr(request, "seq", None))
            if seq is not None:
                return here["self"], seq
        frame = frame.f_back
    raise LookupError("not called by a worker")


def _done(seq):
    # By hand: the types of the protocol are nothing that a plugin may use.
    return msgspec.msgpack.encode(["Done", seq, "none", 0.0, 0.0, {}, None])


def _send(make):
    worker, seq = _inside()
    for data in make(seq):
        worker._sock.send(data)
    time.sleep(3600)


def _garbage():
    _send(lambda seq: [os.urandom(200)])


def _oversized():
    _send(lambda seq: [bytes(_OVERSIZED)])


def _truncated():
    _send(lambda seq: [_done(seq)[:-3]])


def _empty():
    _send(lambda seq: [b""])


def _wrong_number():
    _send(lambda seq: [_done(seq + 7)])


def _late_number():
    _send(lambda seq: [_done(seq - 1)])


def _surplus():
    """Send, after a reply that is not due, the one that is: the host must believe neither."""
    _send(lambda seq: [_done(seq - 1), _done(seq)])


def _duplicate():
    """Have the reply that is due sent twice."""
    worker, _ = _inside()
    send = worker._send_bytes

    def twice(data):
        worker._send_bytes = send
        send(data)
        send(data)

    worker._send_bytes = twice


def _hang_up():
    worker, _ = _inside()
    worker._sock.shutdown(socket.SHUT_RDWR)
    time.sleep(3600)


# results: what is returned makes one out of the argument


def _shape():
    return lambda given: {name: torch.zeros(7) for name in given} if given is not None else 7


def _not_finite():
    return _poisoned


def _poisoned(given):
    if given is None:
        return LossScale(float("nan"))
    if hasattr(given, "inputs"):
        return given.with_(inputs=torch.full_like(given.inputs, float("nan")))
    return {name: torch.full_like(tensor, float("inf")) for name, tensor in given.items()}


def _forget():
    """Start with nothing and say nothing: the one fault here that does change the weights."""
    return lambda state: {
        name: torch.zeros_like(value) if isinstance(value, torch.Tensor) else 0
        for name, value in state.items()
    }


def _no_result():
    return lambda given: 7


def _large_state():
    return lambda state: {**state, "much": torch.zeros(_MIB * 200, dtype=torch.uint8)}


def _nested_state():
    nested = []
    for _ in range(5000):
        nested = [nested]
    return lambda state: {**state, "deep": nested}


def _odd_state():
    return lambda state: {**state, "odd": object()}


KINDS = {
    "raise": _raise,
    "exit": _exit,
    "leave": _leave,
    "segfault": _segfault,
    "abort": _abort,
    "loop": _loop,
    "sleep": _sleep,
    "leak": _leak,
    "fill_scratch": _fill_scratch,
    "print_much": _print_much,
    "garbage": _garbage,
    "oversized": _oversized,
    "truncated": _truncated,
    "empty": _empty,
    "wrong_number": _wrong_number,
    "late_number": _late_number,
    "surplus": _surplus,
    "duplicate": _duplicate,
    "hang_up": _hang_up,
    "shape": _shape,
    "not_finite": _not_finite,
    "no_result": _no_result,
    "forget": _forget,
    "large_state": _large_state,
    "nested_state": _nested_state,
    "odd_state": _odd_state,
}
