"""Schedules against torch's own."""

import pytest
import torch
from torch.optim import lr_scheduler

from ringfence.engine.schedules import SCHEDULES, Constant, Cosine, Exponential, Linear, OneCycle, StepDecay

TOTAL = 40


def torch_factors(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(TOTAL):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        (Constant(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (Linear(final_factor=0.1), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, TOTAL)),
        (Cosine(), lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL)),
        (Cosine(final_factor=0.2), lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.2)),
        (StepDecay(every_steps=7, gamma=0.5), lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
        (Exponential(final_factor=0.01), lambda o: lr_scheduler.ExponentialLR(o, 0.01 ** (1 / TOTAL))),
    ],
)
def test_factor_is_that_of_torch(schedule, reference):
    assert [schedule.factor(step, TOTAL) for step in range(TOTAL)] == pytest.approx(
        torch_factors(reference), rel=1e-9, abs=1e-12
    )


def test_one_cycle_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1.0, TOTAL, cycle_momentum=False)
    expected = []
    for step in range(TOTAL):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < TOTAL - 1:
            scheduler.step()
    assert [OneCycle().factor(step, TOTAL) for step in range(TOTAL)] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in {"one_cycle", "step"}])
def test_warmup_rises_linearly_then_the_shape_begins_at_one(name):
    schedule = SCHEDULES[name](warmup_steps=5)
    factors = [schedule.factor(step, TOTAL) for step in range(TOTAL)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    without = SCHEDULES[name]()
    assert factors[5:] == pytest.approx([without.factor(step, TOTAL - 5) for step in range(TOTAL - 5)])


def test_warmup_delays_the_steps():
    schedule = StepDecay(every_steps=10, warmup_steps=4)
    assert [schedule.factor(step, TOTAL) for step in (3, 4, 13, 14, 24)] == pytest.approx(
        [1, 1, 1, 0.1, 0.01]
    )


def test_one_cycle_peaks_at_the_end_of_its_warmup():
    factors = [OneCycle(warmup_steps=8).factor(step, TOTAL) for step in range(TOTAL)]
    assert factors.index(max(factors)) == 7
    assert max(factors) == 1
    assert factors[-1] == pytest.approx(4e-6)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_shortest_runs_have_finite_factors(name, total):
    schedule = SCHEDULES[name](**({"every_steps": 1} if name == "step" else {}))
    assert all(0 <= schedule.factor(step, total) <= 1 for step in range(total))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(warmup_steps=-1), "warmup_steps is -1; it must be at least 0"),
        (lambda: Linear(final_factor=1.5), "final_factor is 1.5; it must lie between 0 and 1"),
        (lambda: StepDecay(every_steps=0), "every_steps is 0; it must be at least 1"),
        (lambda: Exponential(final_factor=0), "choose a small positive number"),
    ],
)
def test_option_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
