"""Plugins that hang, crash, leak, flood or send nonsense: the run goes on, and nothing of them is left."""

import pytest

from ringfence.isolation.host.limits.cgroup import MAX_TASKS
from ringfence.isolation.host.limits.memory_budget import budget_bytes, total_bytes

from .aftermath import Meter, assert_told, assert_unharmed, peak_bytes, start_peak
from .attacks import remains
from .harms import amounts, ends, floods, foreign, frames, results

_HARMS = (*ends.HARMS, *results.HARMS, *frames.HARMS, *floods.HARMS, *amounts.HARMS, *foreign.HARMS)
_MIB = 1 << 20
#: What may be used beyond a budget before it is stopped.
_TOLERANCE = 1.02
#: What a busy machine may take beyond what is promised; a test of the soak allows it nothing.
_SLACK_S = 20.0
#: What the trainer's own memory may grow by meanwhile, whatever it is sent.
_HOST_GROWTH = 24 * _MIB


def each(mark, harms):
    return pytest.mark.parametrize(
        "harm", [pytest.param(harm, marks=mark(harm.number), id=str(harm)) for harm in harms]
    )


def why_no_control():
    """Return the reasons, each with the first attack that it holds for and how many more there are."""
    same = {}
    for harm in _HARMS:
        if harm.no_control:
            same.setdefault((harm.number, harm.no_control), []).append(harm.attack)
    for (number, reason), (first, *others) in same.items():
        more = f" and {len(others)} more" if others else ""
        yield f"{number}, {first}{more}: {reason}"


def most_threads(plugin):
    """Return how many threads a plugin may get to: without a cgroup it is only stopped once that is seen."""
    counted = any(layer.name == "cgroup" and layer.status == "active" for layer in plugin.layers)
    return MAX_TASKS if counted else remains.BOMB // 2


def settings_of(harm):
    fraction = {"memory_fraction": harm.budget_mib * _MIB / total_bytes()} if harm.budget_mib else {}
    return {**harm.settings, **fraction}


@each(pytest.mark.attack, _HARMS)
def test_harm_is_contained(stage, harm):
    contain(stage, harm)


@pytest.mark.soak
@each(pytest.mark.attack, [harm for harm in _HARMS if harm.errors])
def test_harm_is_noticed_as_soon_as_is_promised(stage, harm):
    contain(stage, harm, slack_s=0.0)


@pytest.mark.soak
@pytest.mark.attack(36)
def test_a_gibibyte_of_output_is_contained(stage):
    contain(stage, floods.LONG)


def contain(stage, harm, slack_s=_SLACK_S):
    """Do the harm in a run, and look at what is told and what is left."""
    stage.victims.rest()
    before = stage.victims.look()
    stage.signals.clear()
    spec = stage.attacker(harm.attack, harm.plugin, min(harm.step, 1), **settings_of(harm))

    meters = []
    resident = start_peak()
    outcome = stage.run(spec, watch=lambda pid: meters.append(Meter(pid)) or meters[0])
    (most,) = meters

    assert peak_bytes() - resident <= _HOST_GROWTH
    if harm.errors:
        assert_told(outcome, harm.errors, harm.says, harm.step)
        assert outcome.fault_s <= spec.deadline_s + harm.seconds + slack_s
    else:
        assert outcome.error is None
    assert outcome.weights == stage.reference
    assert stage.signals == []
    assert most.threads <= most_threads(outcome.plugin)
    share = most.bytes / budget_bytes(spec.memory_fraction)
    assert share <= _TOLERANCE
    if harm.budget_mib:
        print(f"{harm.attack}: {outcome.error}; at most {share:.1%} of its budget, seen from outside")
    assert_unharmed(stage, before)


@each(pytest.mark.control, [harm for harm in _HARMS if not harm.no_control])
def test_harm_is_done_without_a_sandbox(naive, harm):
    got = naive.try_on(harm)

    for what, wanted in harm.naive.items():
        came = got.get(what)
        assert came == wanted if isinstance(wanted, str) else came >= wanted, got


def test_every_harm_has_a_control_or_a_reason(record_property):
    assert all(harm.naive or harm.no_control for harm in _HARMS)
    for reason in why_no_control():
        record_property("no control", reason)
