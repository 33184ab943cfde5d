"""A plugin of any role returns and logs the same in a sandbox as in the trainer's process, bit for bit."""

import copy
import sys
from dataclasses import replace

import pytest
import torch

from ringfence.hooks.role import METHODS
from ringfence.hooks.specs import ROLES
from ringfence.hooks.types import AnotherPass, StepInfo, TensorMap
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks
from ringfence.plugins.result_kinds import kinds_of
from ringfence.testing import samples
from ringfence.testing.drive import digest
from ringfence.testing.plugin_host import Called


def called(plugin, method, given, number):
    """Call once; return what came of it, of the caller's own."""
    own = StepInfo(number, steps_total=10).for_plugin(3, plugin.spec.name)
    result = plugin.call(method, given, own)
    return Called(copy.deepcopy(result), dict(own.scalars))


@pytest.mark.parametrize("role", ROLES)
def test_a_plugin_does_the_same_sandboxed_and_trusted(start, spec, role, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])  # a trusted plugin's code is put there
    where = f"every_role:{role.title()}"
    sandboxed, trusted = start(where, role), LocalPlugin(spec(where, role))

    assert sandboxed.accepts == trusted.accepts
    for method in METHODS:
        kind, results = kinds_of(ROLES[role])[method], []
        for number in range(len(kind.forms) + 1):
            given = samples.arguments(4, seed=number)
            inside, outside = (called(plugin, method, given, number) for plugin in (sandboxed, trusted))

            assert digest(inside) == digest(outside)
            assert inside.logged["seen"]
            results.append(inside.result)
        assert [result is None for result in results].count(True) <= 1


def fired(plugin, moment, of):
    """Fire a plugin twice as a step does; return whether it asked for a pass, and what it came to."""
    hooks = Hooks()
    hooks.register(plugin)
    tensors = TensorMap.like({"w": torch.zeros(3), "v": torch.zeros(2)})
    given = {"parameters": tensors, "gradients": TensorMap.like(tensors), "loss": 0.0}
    for number in range(2):
        changes = hooks.fire(getattr(hooks.at, moment), given, StepInfo(number))
    asked = bool(changes) and isinstance(changes[-1], AnotherPass)
    found = changes[-1].parameters if asked else given[of]
    assert not any(tensor.requires_grad for tensor in [*found.values(), *tensors.values()])
    return asked, {name: tensor.tolist() for name, tensor in found.items()}


RETURNED = [
    *(("drafting:Updates", "optimizer", returned) for returned in ("draft", "argument", "nothing")),
    *(("drafting:Updates", "optimizer", returned) for returned in ("pass draft", "pass argument")),
    *(("drafting:Limits", "gradient", returned) for returned in ("draft", "argument", "nothing")),
]


@pytest.mark.parametrize(("where", "role", "returned"), RETURNED)
def test_a_draft_counts_the_same_sandboxed_and_trusted(start, spec, where, role, returned, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    moment, of = ("update", "parameters") if role == "optimizer" else ("gradients", "gradients")
    options = {"options": {"returned": returned}}

    inside = fired(start(where, role, **options), moment, of)
    assert inside == fired(LocalPlugin(spec(where, role, isolation="trusted", **options)), moment, of)
    # What an optimizer does is done where its parameters are; of gradients what is returned is all.
    count = 2.0 if role == "optimizer" or returned == "draft" else 0.0
    assert inside == ("pass" in returned, {"w": [count] * 3, "v": [count] * 2})


@pytest.mark.parametrize("returned", ["draft", "new"])
def test_a_graph_of_a_trusted_plugin_ends_with_the_call_that_made_it(spec, returned, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(ROLES, "optimizer", replace(ROLES["optimizer"], autograd=True))
    described = spec("drafting:Learns", "optimizer", isolation="trusted", options={"returned": returned})

    assert fired(LocalPlugin(described), "update", "parameters") == (False, {"w": [2.0] * 3, "v": [2.0] * 2})
