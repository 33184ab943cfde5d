"""Every attack of the table, tried by a real plugin in a real run, and again where no sandbox is."""

import pytest

from .aftermath import assert_unharmed
from .attacks.hostile import SUCCEEDED
from .table import ROWS


@pytest.mark.parametrize(
    "row", [pytest.param(r, marks=pytest.mark.attack(r.number), id=str(r)) for r in ROWS]
)
def test_attack_is_contained(stage, row, record_property):
    stage.victims.rest()
    before = stage.victims.look()
    stage.signals.clear()
    heard = len(stage.victims.listeners.heard)

    outcome = stage.run(stage.attacker(row.attack, row.plugin))

    record_property("attempts", len(outcome.codes))
    assert outcome.error is None
    assert outcome.codes, "the attack was never made"
    passed = {name: code for name, code in outcome.codes.items() if code not in row.allowed(name)}
    assert passed == {}, f"{row.title}: these were not refused by {row.layer}"
    assert outcome.weights == stage.reference
    assert stage.signals == []
    assert stage.victims.listeners.heard[heard:] == []
    assert_unharmed(stage, before)


@pytest.mark.parametrize(
    "row", [pytest.param(r, marks=pytest.mark.control(r.number), id=str(r)) for r in ROWS]
)
def test_attack_succeeds_without_a_sandbox(stage, row, record_property):
    if "*" in row.no_control:
        pytest.skip(row.no_control["*"])

    heard = len(stage.victims.listeners.heard)

    control = stage.control(row.attack, row.control_prefix)

    record_property("attempts in control", list(control.codes.values()).count(SUCCEEDED))
    for name, reason in row.no_control.items():
        record_property("no control", f"{row.number}, {name}: {reason}")
    assert control.trainer == row.harms
    failed = {
        name: code
        for name, code in control.codes.items()
        # Who ends the trainer does not come to what was to follow.
        if code != SUCCEEDED and not row.why_no_control(name) and not (code is None and row.harms)
    }
    assert failed == {}, f"{row.title}: these failed though nothing was in their way"
    assert control.codes, "the attack was never made"
    assert set(row.heard) <= {name for name, _ in stage.victims.listeners.heard[heard:]}


def test_a_secret_that_was_read_would_be_noticed(stage):
    stage.victims.rest()
    before = stage.victims.look()
    (stage.victims.home / ".netrc").read_text()
    assert stage.victims.look() != before
