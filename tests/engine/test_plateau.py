"""A learning rate that falls when the metric no longer improves: step by step, over faults and resumes."""

import pytest
import torch
from engine_helpers import (
    FAULTS,
    TapeRecorder,
    config,
    hooks_of,
    image_data,
    mlp,
    run,
    sgd,
)
from torch.optim import lr_scheduler

from ringfence.engine.checkpoints.engine_state import EngineState
from ringfence.engine.checkpoints.manifest import DamagedError
from ringfence.engine.progress import Progress
from ringfence.engine.schedules import Plateau, Watched
from ringfence.reproducibility.generator_states import RunRng
from ringfence.tensors import pytree

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULE = Plateau(gamma=0.5, patience=1, threshold=0.02, warmup_steps=3)


class Rates(TapeRecorder):
    """Keeps the factor of each step, and what each evaluation came to."""

    def step(self, step, loss, samples):
        super().step(step, loss, samples)
        self.tape.append(("factor", step.global_step, step.lr_factor))


def settings(schedule=SCHEDULE):
    return config(schedule=schedule, eval_every=2, epochs=6, snapshot_every=5)


def reference(tape):
    """Return the factors that torch comes to with the same metric."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plateau = lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=0.5, patience=1, threshold=0.02, eps=0.0
    )
    factors = []
    for kind, step, value in tape:
        if kind == "factor":
            factors.append(min(1.0, (step + 1) / 3) * optimizer.param_groups[0]["lr"])
        elif kind == "evaluated":
            plateau.step(value[1]["accuracy"])
    return factors


def trained(observer, schedule=SCHEDULE):
    return run(mlp(), image_data(), hooks_of(sgd()), settings(schedule), observer=observer)


def test_factors_of_a_run_are_those_of_torch_and_each_fall_is_told():
    rates = Rates()
    with_plateau = trained(rates)
    found = [value for kind, _, value in rates.tape if kind == "factor"]
    assert found == pytest.approx(reference(rates.tape), rel=1e-12)
    falls = [event for event in rates.events if "the learning rate is multiplied by" in event]
    assert len(falls) == len(set(found[3:])) - 1 >= 2
    assert falls[0].endswith("0.5, 1 before: accuracy has not improved in 2 evaluations")
    without = trained(Rates(), Plateau(patience=1000, warmup_steps=3))
    assert with_plateau.weights_sha256 != without.weights_sha256


def test_a_fault_after_a_fall_goes_back_to_the_rate_of_the_snapshot():
    straight, again = Rates(), Rates()
    expected = trained(straight)
    FAULTS.append(("optim", "backward", 28))
    assert trained(again).weights_sha256 == expected.weights_sha256
    assert again.rollbacks == [25]
    assert again.tape == straight.tape


def state_of(progress):
    rng = RunRng.capture(torch.device("cpu"))
    return EngineState(progress, rng, None).encode()


def test_a_checkpoint_of_before_has_seen_nothing(tmp_path):
    progress = Progress(step=3, plateau=Watched(0.25, 0.5, 1, 2))
    read = EngineState.decode(state_of(progress), 3, tmp_path, torch.device("cpu")).progress
    assert read == progress
    value = pytree.decode(state_of(progress))
    del value["progress"]["plateau"]
    read = EngineState.decode(pytree.encode(value), 3, tmp_path, torch.device("cpu")).progress
    assert read == Progress(step=3)


@pytest.mark.parametrize(
    "plateau",
    [{"factor": 7.0}, {"factor": float("nan")}, {"waited": -1}, {"resting": "long"}, "much", None],
)
def test_a_plateau_that_nobody_writes_is_damage(plateau, tmp_path):
    value = pytree.decode(state_of(Progress(step=3)))
    value["progress"]["plateau"] = plateau
    with pytest.raises(DamagedError, match="plateau"):
        EngineState.decode(pytree.encode(value), 3, tmp_path, torch.device("cpu"))
