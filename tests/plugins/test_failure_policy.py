"""How often a plugin is started anew, after which pause, and what is kept of each fault."""

import re
import time
from pathlib import Path

import pytest

from ringfence.hooks.errors import PluginCrashedError, PluginError, PluginRaisedError
from ringfence.hooks.specs import ROLES
from ringfence.plugins import failure_policy
from ringfence.plugins.failure_policy import (
    BACK_OFF_S,
    BREAKER_RESTARTS,
    BREAKER_STEPS,
    FAULTS_KEPT,
    MAX_MESSAGE,
    MAX_RESTARTS_IN_A_ROW,
    MAX_TRACEBACK,
    TRACEBACKS_KEPT,
    Abort,
    Disable,
    FailurePolicy,
    FaultLog,
    FaultRecord,
    Restart,
    RunPosition,
)
from ringfence.plugins.interface import PluginSpec


def crash(plugin="optim", step=5):
    return PluginCrashedError("ended by SIGSEGV", plugin=plugin, hook="optimizer.backward", step=step)


def fault(number):
    return FaultRecord(number, "optim", None, "PluginCrashedError", "told", "restarted", steps_lost=2)


def fail(policy, error, place, role="gradient", **settings):
    """Do to a plugin what is decided; return that."""
    spec = PluginSpec(error.plugin, "d", "1", "m", "q", role, **settings)
    action = policy.decide(error, place, spec)
    assert policy.decide(error, place, spec) == action  # nothing is counted by asking
    if isinstance(action, Restart):
        policy.restart(error, place, action.after_s)
    return action


@pytest.fixture
def told():
    return []


@pytest.fixture
def decide(told):
    return FailurePolicy(told.append)


def test_the_first_restart_does_not_wait_and_each_further_one_in_a_row_waits_longer(decide, told):
    actions = [fail(decide, crash(), RunPosition(5, 1)) for _ in range(MAX_RESTARTS_IN_A_ROW)]
    assert actions == [Restart(after_s) for after_s in BACK_OFF_S]
    assert BACK_OFF_S[0] == 0 < BACK_OFF_S[1] < BACK_OFF_S[2]
    assert told == [
        f"plugin 'optim' in 'optimizer.backward' at step 5: {what}; restarted "
        f"({n} of 3 in a row){wait}, 1 step to take again"
        for n, what, wait in (
            (1, "ended by SIGSEGV", ""),
            (2, "the same again", " after 0.5 s"),
            (3, "the same again", " after 2 s"),
        )
    ]
    why = "; it was restarted 3 times in a row before, without coming to the next snapshot"
    assert fail(decide, crash(), RunPosition(5)) == Abort(why)


def test_plugins_are_counted_each_for_itself_and_a_snapshot_begins_a_new_row(decide):
    paused = [fail(decide, crash(name), RunPosition(5)).after_s for name in "abab"]
    assert paused == [0.0, 0.0, 0.5, 0.5]
    decide.progressed()
    assert fail(decide, crash("a"), RunPosition(8)) == Restart(0.0)


def test_the_same_fault_in_a_row_is_told_in_full_once(decide, told):
    def fail_at(step):
        error = PluginCrashedError("x" * 5000, plugin="clip", hook="gradient.backward", step=step)
        fail(decide, error, RunPosition(step))

    fail_at(5)
    fail_at(5)
    fail_at(6)
    decide.progressed()
    fail_at(6)
    where = "plugin 'clip' in 'gradient.backward' at step"
    assert [len(text) > 5000 for text in told] == [True, False, True, True]
    assert told[1] == f"{where} 5: the same again; restarted (2 of 3 in a row) after 0.5 s"
    assert decide.log.records[1].message == told[1]
    assert told[3].endswith("restarted (1 of 3 in a row)")


def restarts(decide, count, *, every, lost=3, first=0):
    """Have a plugin fail ``count`` times with progress between."""
    for n in range(count):
        fail(decide, crash(step=first + n * every), RunPosition(first + n * every, lost))
        decide.progressed()


def test_the_breaker_opens_after_many_restarts_in_few_steps_and_says_what_they_cost(decide):
    restarts(decide, BREAKER_RESTARTS, every=10)
    assert (
        "; it was restarted 20 times within the last 200 steps before, and 60 steps had to be taken again "
        "for it. Find out why it fails so often, or write 'on_failure: disable' beside it"
    ) in fail(decide, crash(step=200), RunPosition(200)).why
    alone = fail(decide, PluginError("gone", plugin="optim"), RunPosition(200), role="optimizer")
    assert alone.why.endswith("Find out why it fails so often")
    # Others are not to blame.
    assert fail(decide, crash("other"), RunPosition(200)) == Restart(0.0)


def test_the_breaker_stays_closed_for_faults_that_lie_far_apart(decide):
    restarts(decide, 5 * BREAKER_RESTARTS, every=BREAKER_STEPS // BREAKER_RESTARTS)


def test_the_breaker_looks_at_how_far_the_run_has_come_not_at_where_it_went_back_to(decide):
    restarts(decide, BREAKER_RESTARTS - 1, every=1)
    restarts(decide, 1, every=1, first=BREAKER_STEPS - 1)
    assert "20 times within the last 999 steps" in fail(decide, crash(), RunPosition(BREAKER_STEPS - 50)).why


@pytest.mark.parametrize(("on_failure", "action"), [("disable", Disable()), ("abort", Abort())])
def test_what_the_job_says_comes_before_all_counting(decide, told, on_failure, action):
    assert fail(decide, crash(), RunPosition(5), on_failure=on_failure) == action
    assert (told, decide.log.count) == ([], 0)


def test_a_restart_is_recorded_with_what_it_cost_and_how_long_it_took(decide):
    error = PluginCrashedError("gone", plugin="optim")
    fail(decide, error, RunPosition(12, 4))
    time.sleep(0.02)
    decide.recovered()
    decide.recovered()  # the time of a fault is noted once
    (kept,) = decide.log.records
    assert (kept.step, kept.plugin, kept.hook, kept.error) == (12, "optim", None, "PluginCrashedError")
    assert (kept.decision, kept.steps_lost, decide.log.steps_lost) == ("restarted", 4, 4)
    assert 0.02 <= kept.recovery_s < 0.5


def test_a_restart_that_fails_in_its_turn_is_a_fault_of_its_own(decide, told):
    fail(decide, crash(step=12), RunPosition(12, 4))
    fail(decide, PluginError("did not start", plugin="optim"), RunPosition(12))
    decide.recovered()
    first, second = decide.log.records
    assert (first.steps_lost, second.steps_lost) == (4, 0)
    assert first.recovery_s > 0 < second.recovery_s
    assert len(told) == 2


@pytest.mark.parametrize(
    ("decision", "tells", "ends"),
    [("disable", 1, "disabled, the run goes on without it"), ("stop", 1, "ends with its last snapshot")],
)
def test_other_decisions_are_told_once_and_recorded(decide, told, decision, tells, ends):
    getattr(decide, decision)(crash(), RunPosition(7, 2))
    (kept,) = decide.log.records
    assert [kept.message] == told
    assert len(told) == tells
    assert kept.message.endswith(ends)
    assert (kept.step, kept.recovery_s) == (5, 0.0)


def test_an_abort_is_recorded_and_told_by_whoever_ends_the_run(decide, told):
    decide.abort(crash(), RunPosition(7, 2), "why")
    assert (decide.log.records[0].decision, decide.log.records[0].message, told) == ("aborted", "why", [])


def test_the_first_and_the_last_faults_are_kept_and_all_are_counted():
    log = FaultLog()
    for number in range(3 * FAULTS_KEPT):
        log.add(fault(number))
    assert [each.step for each in log.records] == [
        *range(FAULTS_KEPT),
        *range(2 * FAULTS_KEPT, 3 * FAULTS_KEPT),
    ]
    assert (log.count, log.left_out, log.steps_lost) == (3 * FAULTS_KEPT, FAULTS_KEPT, 6 * FAULTS_KEPT)


def raised(text, plugin="clip"):
    return PluginRaisedError("raised", plugin=plugin, hook="gradient.backward", step=5, remote_traceback=text)


def test_a_traceback_is_kept_the_first_time_without_control_characters(decide):
    for text in ("ValueError: \x1b[2J", "ValueError: \x1b[2J", "KeyError: 1"):
        decide.disable(raised(text), RunPosition(5))
    decide.disable(raised("KeyError: 1", "other"), RunPosition(5))
    assert [fault.traceback for fault in decide.log.records] == [
        "ValueError: \\x1b[2J",
        "",
        "KeyError: 1",
        "KeyError: 1",
    ]


def test_tracebacks_that_differ_each_time_do_not_make_the_record_grow(decide):
    for number in range(3 * TRACEBACKS_KEPT):
        decide.disable(raised(f"{'x' * MAX_TRACEBACK}\nKeyError: {number}"), RunPosition(5))
    kept = [fault.traceback for fault in decide.log.records if fault.traceback]
    assert len(kept) == TRACEBACKS_KEPT
    assert {len(each) for each in kept} == {MAX_TRACEBACK}
    assert kept[3].endswith("x\nKeyError: 3")


def test_what_a_plugin_printed_does_not_make_the_record_grow(decide, told):
    fail(decide, PluginCrashedError("x" * 30_000, plugin="optim"), RunPosition(0))
    assert len(decide.log.records[0].message) == MAX_MESSAGE
    assert decide.log.records[0].message == failure_policy.truncate(told[0])
    assert len(told[0]) > 30_000


def test_the_page_on_failures_has_these_figures():
    page = re.sub(r"\s+", " ", (Path(__file__).parents[2] / "docs" / "failures.md").read_text())
    assert MAX_RESTARTS_IN_A_ROW == 3
    assert "A plugin is restarted at most three times before the run has come to a new snapshot" in page
    assert f"The second waits {BACK_OFF_S[1]:g} s and the third {BACK_OFF_S[2]:g} s" in page
    assert f"{BREAKER_RESTARTS} restarts of one plugin within the last {BREAKER_STEPS:,} steps" in page
    assert f"the first {FAULTS_KEPT} and the last {FAULTS_KEPT} are kept" in page


def test_the_page_on_failures_has_the_defaults_of_the_job_and_of_the_roles():
    page = (Path(__file__).parents[2] / "docs" / "failures.md").read_text()
    spec = PluginSpec("p", "d", "1", "m", "q", "gradient")
    assert f"| one call of a hook | {spec.deadline_s:g} s |" in page
    assert f"| importing and constructing it | {spec.start_deadline_s:g} s |" in page
    rows = {
        name: row.split(" | ")
        for row in page.splitlines()
        if row.startswith("| ")
        for name in row[2:].partition(" |")[0].split(", ")
    }
    told = rows.keys() & ROLES.keys()
    assert len(told) >= 4
    assert "(reference/hooks.md#roles) tells it of every role" in page
    for name in told:
        role = ROLES[name]
        assert rows[name][1] == f"`{role.on_failure}`"
        assert ("disable" in " ".join(rows[name][1:3])) == role.may_disable
