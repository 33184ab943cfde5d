"""What hooks receive, however it was made."""

import copy
import dataclasses

import pytest
import torch

from ringfence import StepInfo
from ringfence.hooks.types import Changeable, TensorMap, make_step


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


@pytest.mark.parametrize("in_place", [True, False])
def test_a_draft_takes_a_graph_and_its_place_keeps_none(in_place):
    # As a sandbox makes them: without autograd, for a plugin whose role has it.
    with torch.no_grad():
        argument = TensorMap.like({"w": torch.zeros(2)})
        place = argument if in_place else TensorMap.like(argument)
    changeable = Changeable(argument, place)
    for number in range(2):
        draft = changeable.begin().draft()
        draft["w"].copy_(draft["w"] + torch.ones(2, requires_grad=True) * number)
        assert draft["w"].requires_grad
        assert all(changeable.result(returned) is place for returned in (draft, changeable, None))
        assert place["w"].tolist() == [number] * 2
        assert not any(tensor.requires_grad for tensor in (place["w"], place.flat(), argument["w"]))
