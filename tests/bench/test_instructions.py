"""A step and a call take no more instructions than were recorded: a clock cannot tell, a count can.

``counted`` says what is counted and what is not. To take fewer is no failure; the record is then made
anew, so that what was won is held.
"""

import importlib
import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def recorder():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield importlib.import_module("record_instructions")


@pytest.mark.room
@pytest.mark.timeout(900)
def test_a_step_and_a_call_take_no_more_instructions_than_were_recorded(recorder):
    recorded = json.loads(recorder.RECORD.read_text())
    if reason := recorder.cannot_count():
        pytest.skip(reason)
    here = recorder.conditions()
    if {name: recorded[name] for name in here} != here:
        pytest.skip(f"recorded with {recorded}, here is {here}")
    found = recorder.least(recorded)
    if found["processor"] != recorded["processor"]:
        pytest.skip(f"torch uses {found['processor']} here, and {recorded['processor']} in the record")

    assert recorder.excess(found, recorded) == []


def test_more_than_was_recorded_is_told_with_what_to_do(recorder):
    recorded = {"torch": "2.13", "a step": 1000, "a call": 1000, "a start": 1000}
    found = {"torch": "2.13", "a step": 1049, "a call": 900, "a start": 1051}

    (told,) = recorder.excess(found, recorded)

    assert told.startswith("a start takes 1,051 instructions, and 1,000 were recorded")
    assert told.endswith(f"record it anew: {recorder.COMMAND}")


def test_the_least_of_several_layouts_counts_and_no_more_are_tried_than_it_takes(recorder, monkeypatch):
    counts = [
        {"torch": "2.13", "a step": step, "a call": call}
        for step, call in ((1200, 900), (1000, 1300), (1, 1))
    ]
    monkeypatch.setattr(recorder, "count", counts.__getitem__)

    assert recorder.least({"a step": 1000, "a call": 900}) == {"torch": "2.13", "a step": 1000, "a call": 900}
    monkeypatch.setattr(recorder, "LAYOUTS", 3)
    assert recorder.least() == {"torch": "2.13", "a step": 1, "a call": 1}
