"""A plugin of any role returns and logs the same in a sandbox as in the trainer's process, bit for bit."""

import copy
import sys

import pytest

from ringfence.hooks.role import METHODS
from ringfence.hooks.specs import ROLES
from ringfence.hooks.types import StepInfo
from ringfence.plugins.local_plugin import LocalPlugin
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
