"""The documented timeline, the declared hooks and what a run really calls are one and the same."""

import inspect
import re

import torch

from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.hooks import specs
from ringfence.hooks.role import METHODS
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks

#: The lines of the timeline that are calls of hooks, as the module's documentation has them.
DOCUMENTED = re.findall(r"^    (\w+\.(?:forward|backward)\(.*\))$", specs.__doc__ or "", re.MULTILINE)


def declared(hook):
    """Return a hook as the timeline writes it."""
    return f"{hook.__name__.replace('_', '.')}({', '.join(inspect.signature(hook).parameters)})"


def recording(role, calls):
    """Return a started plugin of ``role`` that takes every argument, notes each call and changes nothing."""

    def noting(method):
        (hook,) = [hook for hook in specs.HOOKS if hook.__name__ == f"{role}_{method}"]
        this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)

        def note(_self, **given):
            calls.append(f"{role}.{method}({', '.join(given)})")

        note.__signature__ = inspect.Signature([this, *inspect.signature(hook).parameters.values()])
        return note

    members = {"role": role, **{method: noting(method) for method in METHODS}}
    spec = PluginSpec(f"my-{role}", "tests", "0", "tests", "Recording", role, isolation="trusted")
    return LocalPlugin(spec, type("Recording", (), members)())


def recorded_run():
    """Return the calls of two steps with one plugin of each role, registered against the firing order."""
    calls, hooks = [], Hooks()
    for role in reversed([name for name, role in specs.ROLES.items() if "train" in role.fires_in]):
        hooks.register(recording(role, calls))
    samples = Dataset(torch.rand(16, 4), torch.arange(16) % 3, 3)
    data = Data(samples, samples, None, None)
    config = TrainConfig(epochs=1, batch_size=8, device="cpu")
    train(try_together(torch.nn.Linear(4, 3), data, config), hooks)
    return calls


def test_the_documentation_tells_the_hooks_that_are_declared():
    assert [declared(hook) for hook in specs.HOOKS] == DOCUMENTED


def test_a_recorded_run_calls_the_hooks_in_the_documented_order():
    assert recorded_run() == DOCUMENTED * 2
