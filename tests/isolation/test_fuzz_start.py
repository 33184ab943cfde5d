"""Whatever a worker says of its layers and its plugin, it is started as such or refused with an error."""

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from other_end import LOCKED, Attacked, Ground, ready
from strategies import ACCEPTS, BYTES, READY, encoded
from strategies import LOCKED as LOCKS
from verdict import Bounds, assert_contained

from ringfence.hooks.errors import PluginError, SandboxUnavailableError
from ringfence.isolation.transport.messages import encoder
from ringfence.plugins.manager import Hooks

pytestmark = pytest.mark.room

EXAMPLES = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def ground():
    shared = Ground()
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def bounds(tell_fuzzed):
    measured = Bounds()
    yield measured
    tell_fuzzed(f"starts: {measured}")


def start(ground, locked, ready):
    """Start a plugin whose worker answers so, and register it as a run does."""
    try:
        with Attacked("gradient", (locked, ready), ground) as plugin:
            Hooks().register(plugin.plugin)
            return "accepted", plugin.plugin.accepts
    except SandboxUnavailableError as error:
        return "SandboxUnavailableError", error
    except PluginError as error:
        return type(error).__name__, error


@given(LOCKS.map(encoded) | BYTES)
@settings(EXAMPLES, max_examples=250)
def test_any_bytes_in_answer_to_open_are_layers_or_an_error(ground, bounds, locked):
    kind, result = bounds(lambda: start(ground, locked, encoder.encode(ready("gradient"))))
    if kind not in ("accepted", "SandboxUnavailableError"):
        assert_contained(kind, result, {})


@given(READY.map(encoded) | ACCEPTS.map(lambda a: msgspec.msgpack.encode(["Ready", a, True])) | BYTES)
@example(msgspec.msgpack.encode(["Ready", {"forward": ["batch", "batch"]}, True]))
@example(msgspec.msgpack.encode(["Ready", {"__class__": []}, True]))
@example(msgspec.msgpack.encode(["Ready", {"forward": ["self", "step"]}, True]))
@settings(EXAMPLES, max_examples=250)
def test_any_bytes_in_answer_to_start_are_methods_or_an_error(ground, bounds, readied):
    kind, result = bounds(lambda: start(ground, encoder.encode(LOCKED), readied))
    if kind != "accepted":
        assert_contained(kind, result, {})
