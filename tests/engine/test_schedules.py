"""Schedules against torch's own."""

import pytest
import torch
from torch.optim import lr_scheduler

import ringfence
from ringfence import JobError
from ringfence.engine.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    GivenSchedule,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    StepDecay,
    Watched,
    try_schedule,
)

TOTAL = 40
#: Options without which a schedule cannot be.
NEEDED = {
    "cosine_restarts": {"first_steps": 9},
    "multistep": {"milestones": [12, 30]},
    "step": {"every_steps": 10},
}


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
        (StepDecay(every_steps=1, gamma=0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
        (
            MultiStep(milestones=[3, 10, 11], gamma=0.5),
            lambda o: lr_scheduler.MultiStepLR(o, [3, 10, 11], 0.5),
        ),
        (Polynomial(power=2.0), lambda o: lr_scheduler.PolynomialLR(o, TOTAL, 2.0)),
        (Polynomial(), lambda o: lr_scheduler.PolynomialLR(o, TOTAL)),
        (CosineRestarts(first_steps=9), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 9)),
        (
            CosineRestarts(first_steps=4, growth=2, final_factor=0.1),
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2, eta_min=0.1),
        ),
        (
            Cosine(warmup_steps=8),
            lambda o: lr_scheduler.SequentialLR(
                o,
                [
                    lr_scheduler.LinearLR(o, 1 / 8, 1.0, 7),
                    lr_scheduler.CosineAnnealingLR(o, TOTAL - 8),
                ],
                [8],
            ),
        ),
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


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "one_cycle"])
def test_warmup_rises_linearly_then_the_shape_begins_at_one(name):
    schedule = SCHEDULES[name](warmup_steps=5, **NEEDED.get(name, {}))
    factors = [schedule.factor(step, TOTAL) for step in range(TOTAL)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    without = SCHEDULES[name](**NEEDED.get(name, {}))
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
    schedule = SCHEDULES[name](**NEEDED.get(name, {}))
    assert all(0 <= schedule.factor(step, total) <= 1 for step in range(total))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(warmup_steps=-1), "warmup_steps is -1; it must be at least 0"),
        (lambda: Linear(final_factor=1.5), "final_factor is 1.5; it must lie between 0 and 1"),
        (lambda: StepDecay(every_steps=0), "every_steps is 0; it must be at least 1"),
        (lambda: Cosine(warmup_steps=2.5), "warmup_steps is 2.5; it must be a whole number"),
        (lambda: Linear(final_factor="low"), "final_factor is 'low'; it must be a number"),
        (lambda: MultiStep(milestones=[5, 5]), r"milestones is \[5, 5\]; it must be a list of steps"),
        (lambda: CosineRestarts(first_steps=0), "first_steps is 0; it must be at least 1"),
        (lambda: Polynomial(power=-1), "power is -1; it must be at least 0"),
        (lambda: Plateau(threshold_mode="real"), "threshold_mode is 'real'; it must be 'rel' or 'abs'"),
        (lambda: Exponential(final_factor=0), "choose a small positive number"),
    ],
)
def test_option_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# plateau


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 0},
        {"patience": 2, "gamma": 0.5, "cooldown": 3},
        {"patience": 1, "threshold": 0.05, "threshold_mode": "abs", "final_factor": 0.02},
        {"patience": 1, "threshold": 0.3, "gamma": 0.3, "cooldown": 1},
    ],
)
def test_plateau_is_that_of_torch_evaluation_by_evaluation(mode, options):
    """Factors agree to 1e-12 over 60 evaluations, with values that are no number among them."""
    named = {"gamma": "factor", "final_factor": "min_lr"}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, eps=0.0, **{named.get(key, key): value for key, value in options.items()}
    )
    schedule, seen, factors = Plateau(**options), Watched(), []
    for i, drawn in enumerate(torch.rand(60, generator=torch.Generator().manual_seed(1)).tolist()):
        value = float("nan") if i % 13 == 5 else drawn * (1 + 0.02 * i) ** (1 if mode == "max" else -1)
        reference.step(value)
        seen = schedule.after(seen, value, higher_is_better=mode == "max")
        factors.append(seen.factor)
        assert seen.factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert len(set(factors)) >= 3


def test_a_share_of_a_negative_best_value_is_a_gain_above_it():
    schedule = Plateau(threshold=0.1, patience=0)
    seen = schedule.after(Watched(), -1.0, higher_is_better=True)
    assert schedule.after(seen, -0.95, higher_is_better=True).factor == 0.1
    assert schedule.after(seen, -0.85, higher_is_better=True).factor == 1


# those that others make


def test_a_plugin_makes_schedules_as_a_job_names_them():
    made = ringfence.make_schedule("cosine", warmup_steps=4)
    assert [made.factor(step, TOTAL) for step in range(TOTAL)] == [
        Cosine(warmup_steps=4).factor(step, TOTAL) for step in range(TOTAL)
    ]
    # A loop of one's own may go on beyond what it said.
    assert ringfence.make_schedule("polynomial", power=0.5).factor(TOTAL + 3, TOTAL) == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "schedule 'cosin' is unknown; choose one of constant, cosine, "),
        ("plateau", {}, "schedule 'plateau' needs evaluations, of which an optimizer sees nothing"),
        ("cosine", {"warmup": 3}, "schedule 'cosine' has no option 'warmup'; it has: final_factor, warmup_s"),
        (
            "cosine",
            {"warmup_steps": "3"},
            "schedule 'cosine': warmup_steps is '3'; it must be a whole",
        ),
        ("step", {}, "schedule 'step': .*every_steps"),
    ],
)
def test_a_schedule_that_a_plugin_cannot_have_is_told(name, options, message):
    with pytest.raises(ValueError, match=message):
        ringfence.make_schedule(name, **options)


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf"), None, "fast", True])
def test_what_is_no_factor_is_told_with_its_step(value):
    schedule = GivenSchedule("mine:factor", lambda step, steps_total: value if step == 7 else 1)
    with pytest.raises(JobError, match=r"schedule 'mine:factor': returned .* at step 7 of 40; it must be"):
        try_schedule(schedule, TOTAL)


def test_a_function_is_tried_at_the_ends_of_long_runs_and_not_everywhere():
    asked = []
    schedule = GivenSchedule("mine:factor", lambda step, steps_total: asked.append(step) or 1)
    try_schedule(schedule, 1_000_003)
    assert {0, 1_000_002} <= set(asked)
    assert len(asked) < 20_000
