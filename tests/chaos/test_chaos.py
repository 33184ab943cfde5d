"""Runs under faults: whatever happens to it, a run ends with the weights that it has without."""

import copy

import pytest

from . import schedule
from .conftest import ALSO
from .job import FAULTY
from .verdict import describe, judge, plugin_of

pytestmark = pytest.mark.room


def test_run_ends_with_the_weights_of_one_without_faults(seed, harness, tell_run):
    outcome = harness.outcome(f"seed-{seed}")
    faults = list(judge(outcome, harness.reference(outcome["schedule"]["mix"])))
    tell_run((outcome, faults))
    again = f"again: {ALSO}={seed} pytest -m room tests/chaos -k also"
    assert not faults, "\n".join([*faults, "", *describe(outcome), "", again])


@pytest.mark.parametrize("mix", range(len(FAULTY)))
def test_run_to_which_nothing_happens_tells_of_nothing(mix, harness):
    reference = harness.reference(mix)
    assert list(judge(reference, reference)) == []
    assert [attempt["events"] for attempt in reference["attempts"]] == [[]]
    assert reference["lost"] == []


def test_fault_that_changes_the_weights_is_found(harness):
    harness.ask("forgetful", schedule.forgetful())
    faults = list(judge(harness.outcome("forgetful"), harness.reference(0)))
    assert [fault.split(":")[0] for fault in faults] == ["differs"] * 3


def test_run_that_cannot_be_resumed_and_a_process_that_is_left_are_found(harness):
    harness.ask("killed", schedule.killed(), "robbed")
    faults = list(judge(harness.outcome("killed"), harness.reference(0)))
    # Its folder and control groups are left as well, until another run sweeps them up.
    assert [fault.split(",")[0].split(":")[0] for fault in faults[:2]] == [
        "stopped without a checkpoint",
        "processes are left",
    ]


def test_schedule_is_a_function_of_its_seed():
    assert schedule.draw(17) == schedule.draw(17)
    assert len({schedule.draw(seed).faults for seed in range(100)}) == 100


def test_every_kind_of_fault_is_drawn():
    drawn = {fault.name for seed in range(1000, 1300) for fault in schedule.draw(seed).faults}
    kinds = {name.split()[0] for name in drawn}
    for victim, wanted in schedule.OUTSIDE.items():
        assert {
            kind for kind in wanted if not any(n.startswith(kind) and victim in n for n in drawn)
        } == set()
    assert kinds >= {*schedule.IN_A_CALL, *schedule.IN_A_RESULT, *schedule.IN_STATE}


@pytest.fixture
def spoilt(harness):
    """Return a function that spoils what became of a run, and judges it."""
    reference = harness.reference(0)

    def spoil(change):
        outcome = copy.deepcopy(reference)
        change(outcome, outcome["attempts"][0])
        return list(judge(outcome, reference))

    return spoil


def _failed_untold(outcome, attempt):
    fault = schedule.Fault(0, "plugin", "exit", 3, "sway", "forward")
    outcome["schedule"]["faults"] = [schedule.Schedule(0, 0, (fault,)).to_dict()["faults"][0]]
    outcome["injected"] = [{"id": 0, "attempt": 0, "step": 3, "time": 0.0}]


def _killed_untold(outcome, attempt):
    _failed_untold(outcome, attempt)
    outcome["schedule"]["faults"][0].update(victim="worker", kind="kill", plugin="", method="")
    outcome["injected"][0]["step"] = 9


def _told_twice(outcome, attempt):
    attempt["events"] = [{"step": 3, "message": "plugin 'sway': …; restarted (1 of 3 …)"}] * 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_failed_untold, "sway failed 1 times and that was told 0 times"),
        (_told_twice, "told 2 times at step 3"),
        (_told_twice, "events.jsonl tells of faults of {'sway': 2}, run.json of {}"),
        (_killed_untold, "a worker was ended at step 9 and that was not told"),
        (lambda outcome, attempt: attempt.update(status=2), "ended with status 2"),
        (lambda outcome, attempt: attempt.update(status=130), "ended with status 130"),
        (lambda outcome, attempt: attempt.update(status=-15), "ended with status -15"),
        (lambda outcome, attempt: attempt.update(hung=True), "hung"),
        (lambda outcome, attempt: attempt.update(left=[7]), "left processes"),
        (lambda outcome, attempt: attempt.update(says="Exception ignored in …"), "printed Exception ignored"),
        (
            lambda outcome, attempt: outcome.update(remains=["scratch/ringfence-7-"]),
            "control groups are left",
        ),
        (lambda outcome, attempt: outcome["train"].pop(), "differs"),
        (lambda outcome, attempt: outcome["evaluated"][-1].update(loss=0.0), "differs"),
        (lambda outcome, attempt: outcome.update(lost=[11]), "11 steps were lost at once"),
    ],
)
def test_verdict_tells_what_is_wrong(spoilt, change, says):
    assert any(says in fault for fault in spoilt(change))


def test_event_names_its_plugin():
    assert plugin_of("plugin 'sway' in 'gradient.forward' at step 5: …; restarted (1 of 3 …)") == "sway"
    assert plugin_of("plugin 'roll': it printed\nmore; not restarted, since …") == "roll"
    assert plugin_of("ended: plugin 'gauge': …. Its state after …") == "gauge"
    assert plugin_of("plugin 'sway' tried to start a program") == ""
    assert plugin_of("resumed after 7 steps") == ""
