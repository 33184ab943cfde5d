"""What an attacker found to send, one by one, and what became of it."""

import socket

import msgspec
import pytest
import torch
from other_end import LOCKED, Attacked, ready
from verdict import Bounds

from ringfence.hooks.errors import PluginCrashedError, PluginProtocolError, PluginRaisedError
from ringfence.hooks.types import Batch
from ringfence.isolation.policy.layer_status import LayerStatus
from ringfence.isolation.transport.messages import MAX_TEXT, Done, Fault, Locked, Ready, encoder
from ringfence.plugins import result_checks
from ringfence.tensors import pytree


@pytest.fixture
def gradient():
    with Attacked("gradient") as plugin:
        yield plugin


def rejected(outcome, words):
    kind, error = outcome
    return kind == PluginProtocolError.__name__ and words in str(error)


def test_an_empty_message_is_told_from_a_worker_that_is_gone(gradient):
    assert rejected(gradient.call("backward", b""), "sent an empty message")
    gradient.ground.theirs.shutdown(socket.SHUT_RDWR)
    assert gradient.call("backward")[0] == PluginCrashedError.__name__


def test_a_reply_before_the_call_that_it_would_answer_is_rejected_if_it_has_another_number(gradient):
    early = msgspec.msgpack.encode(["Done", 7, "none", 0.0, 0.0, {}, None])
    assert rejected(gradient.call("backward", early), "answered request 7 when 1 was asked")


@pytest.mark.parametrize(
    ("accepts", "words"),
    [
        ({"__class__": ()}, "a method '__class__'"),
        ({"state_dict": ()}, "a method 'state_dict'"),
        ({"forward": ("batch", "batch")}, "an argument of forward() twice"),
        ({"forward": ("a\x1b[2J",)}, "that is no name"),
        ({"forward": ("",)}, "that is no name"),
        ({"forward": tuple(f"a{n}" for n in range(65))}, "65 arguments"),
    ],
)
def test_methods_and_arguments_that_no_plugin_has_are_refused(accepts, words):
    first = (encoder.encode(LOCKED), encoder.encode(Ready(accepts, keeps_state=True)))
    with pytest.raises(PluginProtocolError) as caught:
        Attacked("gradient", first)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "locked",
    [
        Locked([*LOCKED.layers, LayerStatus("watchdog", "active")], LOCKED.probes),
        Locked([*LOCKED.layers, LayerStatus("\x1b[2J", "active")], LOCKED.probes),
        Locked(LOCKED.layers, {**LOCKED.probes, "another": True}),
        Locked([*LOCKED.layers, LOCKED.layers[0]], LOCKED.probes),
    ],
    ids=["a layer of the host's", "no layer", "no probe", "one layer twice"],
)
def test_layers_and_probes_that_there_are_not_are_refused(locked):
    with pytest.raises(PluginProtocolError, match=r"sent|named"):
        Attacked("gradient", (encoder.encode(locked), encoder.encode(ready("gradient"))))


def test_a_fault_of_more_text_than_the_inside_ever_sends_is_refused(gradient):
    long = encoder.encode(Fault(0, "raised", "x" * (MAX_TEXT + 17), "", 0))
    assert rejected(gradient.call("backward", long), "length <=")


def test_bytes_that_are_no_booleans_become_booleans():
    with Attacked("augment") as plugin:
        batch = plugin.arguments["batch"]
        masks = Batch(torch.ones(4, 8, dtype=torch.bool), batch.targets, batch.indices, 3)
        plugin.arguments["batch"] = masks
        reply = encoder.encode(Done(0, "batch", 0.0, 0.0, {}, None))
        # Inputs, and 64 bytes on the targets: class 0.
        kind, changed = plugin.call("forward", reply, fill=bytes([0, 7, 255, 1]).ljust(128, b"\0"))
    assert kind == "accepted"
    assert changed.inputs.view(torch.uint8).tolist()[0] == [0, 1, 1, 1, 0, 0, 0, 0]


def test_a_plugin_that_never_uses_a_name_twice_is_stopped_before_it_fills_the_host(gradient):
    names = 0
    while names <= result_checks.MAX_NAMES + result_checks.MAX_SCALARS:
        scalars = {f"n{names + n}": 1.0 for n in range(result_checks.MAX_SCALARS)}
        data = encoder.encode(Done(0, "none", 0.0, 0.0, scalars, None))
        outcome = gradient.call("forward", encoder.encode(["Large", 0, len(data)]), outbox=data)
        names += result_checks.MAX_SCALARS
        if outcome[0] != "accepted":
            break
    assert names == result_checks.MAX_NAMES + result_checks.MAX_SCALARS
    assert rejected(outcome, f"over {result_checks.MAX_NAMES} different names")


def test_keys_chosen_to_lie_in_each_others_way_are_refused_before_they_are_hashed():
    bounds, structure = Bounds(), {n << 40: None for n in range(pytree.MAX_NUMBER_KEYS)}
    assert bounds(lambda: ("accepted", pytree.loads(pytree.dumps(structure))))[1] == structure
    with pytest.raises(pytree.PlainDataError, match="keys that are no str"):
        pytree.dumps({**structure, -1: None})


def test_an_error_of_wide_characters_and_halves_of_pairs_arrives_as_what_was_raised(start, gradients, step):
    plugin = start("faulty:Faulty", options={"fault": "raise_wide", "at": step.global_step})
    with pytest.raises(PluginRaisedError, match="raised ValueError") as caught:
        plugin.call("backward", {"gradients": gradients}, step)
    assert "\\ud800" in str(caught.value)
