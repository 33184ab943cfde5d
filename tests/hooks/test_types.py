"""What hooks receive, however it was made."""

import copy
import dataclasses

import pytest

from ringfence import StepInfo
from ringfence.hooks.types import make_step


def test_a_step_made_field_by_field_is_one_that_its_class_makes():
    made, expected = make_step(3, 1, 2, 40, 0.5, 1, 9), StepInfo(3, 1, 2, 40, 0.5, 1, 9)

    assert (made, repr(made), hash(made)) == (expected, repr(expected), hash(expected))
    assert made.call_seed == expected.call_seed
    assert copy.copy(made) == dataclasses.replace(made) == made
    assert make_step(3, 1, 2, 40, 0.5) == StepInfo(3, 1, 2, 40, 0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.epoch = 2


def test_each_step_that_is_made_has_a_log_of_its_own():
    one, other = make_step(3, 1, 2, 40, 0.5), make_step(3, 1, 2, 40, 0.5)
    one.log("loss", 1.0)
    assert (one.scalars, other.scalars) == ({"loss": 1.0}, {})


def test_a_step_takes_each_field_that_its_class_has():
    given = [field.name for field in dataclasses.fields(StepInfo) if field.name != "scalars"]
    assert list(make_step.__annotations__) == [*given, "return"]
