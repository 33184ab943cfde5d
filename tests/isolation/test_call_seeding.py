"""A call finds the generators as its seed says, whether it was foreseen or not."""

import random
import threading

import numpy as np
import pytest
import torch

from ringfence.hooks.types import StepInfo
from ringfence.isolation.worker import call_seeding as module
from ringfence.isolation.worker.call_seeding import Generators
from ringfence.reproducibility.seeding import seed_everything


def drawn():
    """Draw from every global generator."""
    return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002, S311


def expected(step):
    seed_everything(step.call_seed)
    return drawn()


def steps(counters):
    return [StepInfo(step, micro_batch=batch, pass_index=index, seed=7) for step, batch, index in counters]


RUNS = {
    "one a step": [("backward", *each) for each in [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)]],
    "two a step": [(method, n, 0, 0) for n in range(4) for method in ("forward", "backward")],
    "several workers": [("forward", n, 0, 0) for n in range(1, 20, 3)],
    "micro-batches": [("forward", n, k, 0) for n in range(3) for k in range(4)],
    "further passes": [("backward", n, 0, k) for n in range(3) for k in range(3)],
    "back to a snapshot": [("backward", n, 0, 0) for n in (4, 5, 6, 2, 3, 4, 5)],
    "the same again": [("backward", 3, 0, 0)] * 4,
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Let the threads of this process's own sandbox not count as the plugin's."""
    others = threading.active_count() - 1
    monkeypatch.setattr(module, "active_threads", lambda: threading.active_count() - others)


@pytest.mark.parametrize("run", RUNS)
def test_each_call_draws_what_its_own_seed_gives(run):
    generators = Generators()
    for method, *counters in RUNS[run]:
        (step,) = steps([counters])
        generators.seed(step)
        assert drawn() == expected(step)
        generators.prepare(method, step)


@pytest.fixture
def seeded(monkeypatch):
    """Count how often the generators are seeded."""
    made = []

    def seed(number):
        made.append(number)
        seed_everything(number)

    monkeypatch.setattr(module, "seed_everything", seed)
    return made


def test_a_call_that_was_foreseen_is_seeded_for_before_it_comes(seeded):
    generators = Generators()
    for number, step in enumerate(steps([(n, 0, 0) for n in range(6)])):
        seeded.clear()
        generators.seed(step)
        assert bool(seeded) == (number < 2)  # what comes next is known once two have come
        generators.prepare("backward", step)


def test_saving_a_state_in_between_does_not_show():
    generators = Generators()
    for step in steps([(n, 0, 0) for n in range(4)]):
        generators.seed(step)
        assert drawn() == expected(step)
        generators.prepare("backward", step)
        generators.seed_with(5)
        drawn()


def test_a_plugin_with_threads_is_seeded_for_when_the_call_is_there(seeded):
    generators, ended = Generators(), threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        for step in steps([(n, 0, 0) for n in range(4)]):
            seeded.clear()
            generators.seed(step)
            assert seeded == [step.call_seed]
            generators.prepare("backward", step)
            drawn()  # as one of its threads might
    finally:
        ended.set()
        thread.join()
