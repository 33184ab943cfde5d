"""What coverage-guided fuzzing is pointed at: one class for each way of a worker's bytes into the host.

A target is called with bytes. It returns if what came of them is right, and
raises whatever else came.
"""

from typing import get_args

import torch
from other_end import HOOKS, LOCKED, Attacked, Ground, ready
from verdict import assert_contained

from ringfence.hooks.errors import PluginError, SandboxUnavailableError
from ringfence.isolation.transport.messages import (
    Done,
    Fault,
    Large,
    Ready,
    Size,
    WireHistogram,
    WireImage,
    WireReport,
    encoder,
)
from ringfence.plugins.manager import Hooks
from ringfence.plugins.result_kinds import Form
from ringfence.tensors import pytree

_HOOKS = list(HOOKS)
_REPORT = WireReport(
    {"norm": 1.5, "layer/0": float("nan")},
    {"h": WireHistogram([1.0, 2.0], [0.0, 0.5, 1.0])},
    {"picture": WireImage(2, 2, 3, bytes(12)), "grey": WireImage(1, 2, 0, bytes(2))},
)


def _done(kind, report=None):
    return encoder.encode(Done(0, kind, 0.5, 0.001, {"norm": 1.0}, report))


_MESSAGES = (
    *(_done(kind, _REPORT if kind == "report" else None) for kind in get_args(Form)),
    encoder.encode(Large(0, 100)),
    encoder.encode(Size(0, 0)),
    encoder.encode(Fault(0, "raised", "ValueError: x", 'File "a.py", line 3', 0)),
    encoder.encode(Fault(0, "memory", "MemoryError", "", 10**9)),
)


class Replies:
    """Answers to a call: the first byte chooses the hook, the second what lies in the result region."""

    _FILLS = (b"\x00", b"\xff", b"\x01", b"\x00\x00\x80\x3f", b"\x00\x00\xc0\x7f")

    def __init__(self):
        self._plugins = {role: Attacked(role) for role, _ in _HOOKS}

    def seeds(self):
        """Every kind of message, for every hook."""
        return [bytes([hook, hook % 5]) + data for hook in range(len(_HOOKS)) for data in _MESSAGES]

    def __call__(self, data):
        if len(data) < 2:
            return
        role, method = _HOOKS[data[0] % len(_HOOKS)]
        plugin = self._plugins[role]
        kind, result = plugin.call(method, data[2:], fill=self._FILLS[data[1] % len(self._FILLS)])
        assert_contained(kind, result, plugin.arguments)


class Outbox:
    """A reply that lies in a monitor's outbox."""

    def __init__(self):
        self._plugin = Attacked("monitor")

    def seeds(self):
        """Reports, and what is none."""
        return [_done("report", _REPORT), *_MESSAGES]

    def __call__(self, data):
        large = encoder.encode(Large(0, len(data)))
        kind, result = self._plugin.call("backward", large, outbox=data)
        assert_contained(kind, result, self._plugin.arguments)


class State:
    """A state that an optimizer saves."""

    def __init__(self):
        self._plugin = Attacked("optimizer")

    def seeds(self):
        """States of several shapes."""
        values = (
            {"a": [1, 2.5, "x", None, True], 3: torch.arange(4.0)},
            {"b": {"c": torch.ones(2, dtype=torch.bool)}, "d": torch.zeros(0)},
            [[], {}, "", float("inf"), -(2**63)],
        )
        return [pytree.dumps(value) for value in values]

    def __call__(self, data):
        kind, result = self._plugin.honest_save(data)
        if kind == "accepted":
            assert result is None or pytree.loads(pytree.encode(pytree.decode(result)).to_bytes()) is not ...
        else:
            assert_contained(kind, result, self._plugin.arguments)


class Starts:
    """What a worker says of its layers and of its plugin: the first byte chooses which of both."""

    def __init__(self):
        self._ground = Ground()
        self._locked, self._ready = encoder.encode(LOCKED), encoder.encode(ready("gradient"))

    def seeds(self):
        """Honest ones, and one with less."""
        return [
            b"\x00" + self._locked,
            b"\x01" + self._ready,
            b"\x01" + encoder.encode(Ready({}, keeps_state=False)),
            *(b"\x01" + message for message in _MESSAGES),
        ]

    def __call__(self, data):
        odd = data[1:]
        first = (self._locked, odd) if data[:1] == b"\x01" else (odd, self._ready)
        try:
            with Attacked("gradient", first, self._ground) as plugin:
                Hooks().register(plugin.plugin)
        except SandboxUnavailableError:
            return
        except PluginError as error:
            assert_contained(type(error).__name__, error, {})


#: Name to target.
TARGETS = {"replies": Replies, "outbox": Outbox, "state": State, "starts": Starts}
