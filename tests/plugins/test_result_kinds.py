"""A kind of result comes out of shared memory as it went in, and every hook has one."""

from typing import get_args

import pytest
import torch

from ringfence import AnotherPass, LossScale, LossTerm, Report
from ringfence.hooks.role import Method, Moment
from ringfence.hooks.specs import ROLES
from ringfence.plugins.result_checks import ResultError
from ringfence.plugins.result_kinds import (
    BATCH,
    GRADIENTS,
    LOSS,
    NUMBER,
    PARAMETERS,
    REPORT,
    RESULT_KINDS,
    UPDATED,
    Form,
    kind_of,
    kinds_of,
)
from ringfence.testing import samples

GIVEN = samples.arguments(4)
VALUES = GIVEN["parameters"].clone()
RESULTS = {
    BATCH: (
        ("batch", GIVEN["batch"].with_(inputs=GIVEN["batch"].inputs / 2)),
        ("soft_batch", GIVEN["batch"].with_(targets=torch.full((4, samples.CLASSES), 0.1))),
    ),
    LOSS: (("loss_term", LossTerm(0.5, torch.ones(4, samples.CLASSES))), ("loss_scale", LossScale(2.0))),
    GRADIENTS: (("map", GIVEN["gradients"].clone()),),
    PARAMETERS: (("map", VALUES),),
    UPDATED: (("map", VALUES), ("another_pass", AnotherPass(VALUES))),
    REPORT: (("report", Report({"norm": 1.0})),),
    NUMBER: (("number", 0.5), ("number", 3)),
}
CASES = [(kind, form, result) for kind, found in RESULTS.items() for form, result in found]


class Memory:
    """A ``Writer`` that keeps copies, in order."""

    def __init__(self):
        self.written = []

    def tensor(self, tensor):
        self.written.append(tensor.clone())

    def map(self, argument, tensors):
        self.written.append({name: tensor.clone() for name, tensor in tensors.items()})

    def report(self, report):
        self.written.append(report)


class Read:
    """A ``Reader`` of what was written there."""

    def __init__(self, memory):
        self._left = iter(memory.written)

    def tensor(self, example):
        tensor = next(self._left)
        assert (tensor.shape, tensor.dtype) == (example.shape, example.dtype)
        return tensor

    def map(self, argument, what):
        tensors = next(self._left)
        assert tensors.keys() == argument.keys()
        return tensors

    def report(self):
        return next(self._left)


def parts(result):
    """Return what a result is made of, as comparable data."""
    match result:
        case LossTerm(value, gradient):
            return [value, gradient.tolist()]
        case AnotherPass(parameters):
            return ["another", parts(parameters)]
        case LossScale() | Report() | float() | int():
            return result
    if hasattr(result, "targets"):
        return [result.inputs.tolist(), result.targets.tolist(), result.indices.tolist()]
    return {name: tensor.tolist() for name, tensor in result.items()}


@pytest.mark.parametrize(("kind", "form", "result"), CASES, ids=[form for _, form, _ in CASES])
def test_a_result_is_read_as_it_was_written(kind, form, result):
    memory = Memory()

    written = kind.write(kind.check(result, GIVEN, finite=False), GIVEN, memory)
    read = kind.read(*written, GIVEN, Read(memory))

    assert written[0] == form
    assert parts(kind.check(read, GIVEN, finite=True)) == parts(result)


@pytest.mark.parametrize(("kind", "form", "result"), CASES, ids=[form for _, form, _ in CASES])
def test_there_is_room_for_all_that_is_written(kind, form, result):
    memory = Memory()
    kind.write(result, GIVEN, memory)
    tensors = [part for part in memory.written if isinstance(part, torch.Tensor)]

    room = kind.room(GIVEN)

    assert len(room) >= len(tensors)
    assert all(tensor.nbytes <= nbytes for tensor, nbytes in zip(tensors, room, strict=False))
    assert not kind.is_map or room == (GIVEN[kind.measured_by].buffer.numel(),)


def test_probabilities_of_a_regression_are_not_read():
    kind, batch = BATCH, GIVEN["batch"]
    regression = type(batch)(batch.inputs, torch.rand(4), batch.indices)

    with pytest.raises(ResultError, match="sent class probabilities for a regression"):
        kind.read("soft_batch", 0.0, {"batch": regression}, Read(Memory()))


def test_every_hook_has_a_kind_and_every_form_belongs_to_one():
    for role in ROLES.values():
        for name, kind in kinds_of(role).items():
            arguments = role.methods[name].hook.__annotations__
            assert not kind.measured_by or kind.measured_by in arguments
    assert set(RESULTS) == set(RESULT_KINDS.values())
    assert {form for kind in RESULTS for form in kind.forms} == set(get_args(Form)) - {"none"}


def test_a_hook_that_returns_what_is_no_kind_is_told():
    def odd_forward(losses: torch.Tensor) -> str | None:
        """Return a text."""

    with pytest.raises(
        TypeError, match=r"odd_forward returns str \| None in place of None; RESULT_KINDS has"
    ):
        kind_of(Method(odd_forward, Moment.AFTER_STEP))


def test_what_comes_next_sees_what_was_changed():
    assert LOSS.replace(2.0, LossScale(3.0)) == 6.0
    assert LOSS.replace(2.0, LossTerm(3.0, torch.zeros(1))) == 5.0
    assert GRADIENTS.replace(GIVEN["gradients"], VALUES) is VALUES
