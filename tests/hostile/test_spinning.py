"""A plugin that spins on many threads slows the trainer by a bounded factor."""

import subprocess
import sys
import time

import pytest
import torch

from ringfence import StepInfo, TensorMap

from .aftermath import assert_unharmed
from .stage import ATTACKS

pytestmark = [pytest.mark.soak, pytest.mark.alone]

#: The trainer's work may take this much longer beside a plugin that spins.
_BOUND = 1.5
_WORK_S = 0.3


def stretch():
    """Return how much longer some work of this thread takes than it has processor time; the best of three."""
    return min(_stretch_once() for _ in range(3))


def _stretch_once():
    wall, own = time.monotonic(), time.thread_time()
    while time.thread_time() - own < _WORK_S:
        sum(range(10_000))
    return (time.monotonic() - wall) / (time.thread_time() - own)


@pytest.mark.attack(41)
def test_a_plugin_that_spins_slows_the_trainer_by_little(stage):
    before = stage.victims.look()
    alone = stretch()
    plugin = stage.sandbox.start(stage.attacker("spinning:in_the_background", "Saboteur"))
    gradients = TensorMap.like({"weight": torch.ones(4)})
    plugin.call("backward", {"gradients": gradients}, StepInfo(1))
    time.sleep(1.0)  # until it is known to take more than it may
    beside = stretch()
    plugin.close()
    print(f"the trainer's work takes {alone:.2f} of its time alone, {beside:.2f} beside a plugin that spins")
    assert beside <= _BOUND * alone
    assert_unharmed(stage, before)


@pytest.mark.control(41)
def test_a_child_of_the_trainer_that_spins_slows_it_by_much():
    alone = stretch()
    with subprocess.Popen([sys.executable, str(ATTACKS / "spinning.py")], cwd="/") as process:
        time.sleep(0.5)
        beside = stretch()
        process.kill()
    print(f"the trainer's work takes {alone:.2f} of its time alone, {beside:.2f} beside a process that spins")
    assert beside > _BOUND * alone
