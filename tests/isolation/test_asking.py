"""What becomes of a run does not depend on how long a monitor takes that may ask for it."""

import pytest
import torch
from torch import nn

from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks
from ringfence.plugins.observer import Observer

OPTIONS = {"algorithm": "sgd", "lr": 0.1}


class Tape(Observer):
    def __init__(self):
        self.evaluated_at, self.logged = [], []

    def evaluated(self, step, epoch, metrics, *, best):
        self.evaluated_at.append((step, metrics["loss"]))

    def reported(self, plugin, step, scalars, report):
        if plugin == "asking":
            self.logged.append((step.global_step, dict(scalars)))


@pytest.fixture
def outcome(start, spec, one_thread):
    """Train with the monitor; return what came of it, and how often it was skipped."""

    def run(*, isolated=True, allow=("stop", "evaluate"), delay_s=0.0):
        settings = {
            "role": "monitor",
            "allow": allow,
            "on_failure": "disable",
            "options": {"delay_s": delay_s},
        }
        where = "asking:Asking"
        monitor = start(where, **settings) if isolated else LocalPlugin(spec(where, **settings))
        tape = Tape()
        hooks = Hooks(0, tape)
        named = ("optim", "ringfence", "0", "ringfence.builtin.optim", "Optim", "optimizer")
        hooks.register(LocalPlugin(PluginSpec(*named, options=OPTIONS)))
        hooks.register(monitor)
        generator = torch.Generator().manual_seed(1)
        torch.manual_seed(2)
        data = [
            Dataset(torch.rand(n, 6, generator=generator), torch.randint(3, (n,), generator=generator), 3)
            for n in (64, 16)
        ]
        config = TrainConfig(batch_size=4, steps=12, device="cpu")
        setup = try_together(nn.Linear(6, 3), Data(*data), config)
        result = train(setup, hooks, observer=tape)
        skipped = monitor.usage.skipped
        hooks.close()
        return (result.status, result.steps, result.weights_sha256, tape.evaluated_at, tape.logged), skipped

    return run


@pytest.mark.room
def test_a_slow_monitor_in_a_sandbox_ends_a_run_where_a_quick_one_does(outcome):
    quick, _ = outcome()
    slow, skipped = outcome(delay_s=0.05)
    trusted, _ = outcome(isolated=False)
    assert quick == slow == trusted
    assert skipped == 0
    assert quick[:2] == ("stopped_early", 6)
    ((at, loss), (last, _)), logged = quick[3], quick[4]
    assert (at, last) == (3, 6)
    assert logged == [
        (2, {"ask/evaluate": 1}),
        (3, {"loss": loss, "evaluated": 3}),
        (5, {"ask/stop": 1}),
    ]


def test_one_that_may_not_ask_is_not_waited_for(outcome):
    """The control: the loop runs on, and what the monitor was too busy to take is counted."""
    found, skipped = outcome(allow=(), delay_s=0.2)
    assert found[:2] == ("completed", 12)
    assert skipped > 0
