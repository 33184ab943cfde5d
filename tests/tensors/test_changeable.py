"""What a method makes in the memory that its result goes to."""

import pytest
import torch

from ringfence import TensorMap
from ringfence.tensors.changeable import Changeable


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
