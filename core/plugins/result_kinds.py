"""Kinds of result that hooks may return, each with its check, its size and its form on the wire.

A kind is found by the types that a hook says it returns. The host makes room for a result; inside the
sandbox it is checked and written; the host reads it, which is a copy of a size that the host knows, and
checks that. A trusted plugin's result is checked only. Whatever the kind, tensors, maps, numbers and reports
cross.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Any, ClassVar, Literal, Protocol, get_args, get_type_hints

import torch
from torch import Tensor

from ..hooks.role import Method, Role
from ..hooks.trees import map_tensors, tensors_of
from ..hooks.types import AnotherPass, Batch, LossScale, LossTerm, Report, TensorMap
from ..tensors.byte_batch import as_seen
from .result_checks import (
    MAX_BINS,
    MAX_HISTOGRAM_NUMBERS,
    MAX_HISTOGRAMS,
    MAX_IMAGE_SIDE,
    MAX_IMAGES,
    MAX_PICTURE_BYTES,
    MAX_SCALARS,
    ResultError,
    check_batch,
    check_loss,
    check_number,
    check_report,
    check_tensors,
)

#: What a reply says of a result.
Form = Literal[
    "none", "batch", "soft_batch", "map", "another_pass", "loss_term", "loss_scale", "report", "number"
]
Arguments = Mapping[str, Any]


class Writer(Protocol):
    """The place that a result is written to, inside a sandbox."""

    def tensor(self, tensor: Tensor) -> None:
        """Put a tensor behind those before."""

    def map(self, argument: str, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors there as those of ``argument`` lie."""

    def report(self, report: Report) -> None:
        """Send a report along."""


class Reader(Protocol):
    """A reader of what a plugin has written, and can still write: all that is taken is a copy."""

    def tensor(self, example: Tensor) -> Tensor:
        """Take a tensor of that shape and dtype, behind those before."""

    def map(self, argument: Mapping[str, Tensor], what: str) -> TensorMap:
        """Take tensors that lie as those of ``argument``, each a ``what``; all numbers are finite."""

    def report(self) -> Report:
        """Take the report."""


class ResultKind(ABC):
    """One kind of result; ``None`` passes for every kind, and comes to none of these methods.

    Attributes:
        forms: In which it travels.
        measured_by: The argument that it is held to, which the inside is given too; ``""`` if there is none.
        is_map: Whether it is named tensors, in the layout of ``measured_by`` and checked as they are read.
        is_logged: Whether it is a number, which is logged under the name of its method.
        limits: The most of what it may have, as the series' record tells it.
    """

    forms: ClassVar[tuple[Form, ...]]
    measured_by: str = ""
    is_map: ClassVar[bool] = False
    is_logged: ClassVar[bool] = False
    limits: ClassVar[Mapping[str, int]] = MappingProxyType({})

    @abstractmethod
    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> Any:
        """Return what is used of a result; see ``check_result``."""

    def room(self, arguments: Arguments) -> tuple[int, ...]:
        """Return the bytes of each tensor that it may have, in order; nothing if it has none."""
        del arguments
        return ()

    @abstractmethod
    def write(self, result: Any, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        """Write a checked result; return its form and its number."""

    @abstractmethod
    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> Any:
        """Return what was written as ``form``, one of ``forms``, and with the number ``value``.

        Raises:
            ResultError: There can be no such result.
        """

    def replace(self, argument: Any, result: Any) -> Any:
        """Return what stands in place of ``argument`` for whoever comes next."""
        del argument
        return result


class _BatchKind(ResultKind):
    forms = ("batch", "soft_batch")
    measured_by = "batch"

    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> Batch:
        return check_batch(result, as_seen(arguments["batch"]), finite=finite)

    def room(self, arguments: Arguments) -> tuple[int, ...]:
        batch = as_seen(arguments["batch"])
        soft = len(batch) * (batch.num_classes or 0) * torch.float32.itemsize
        inputs, targets = ([t.nbytes for t in tensors_of(tree)] for tree in (batch.inputs, batch.targets))
        if len(targets) == 1:
            targets = [max(*targets, soft)]
        return (*inputs, *targets)

    def write(self, result: Batch, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        given, targets = arguments["batch"].targets, result.targets
        for tensor in (*tensors_of(result.inputs), *tensors_of(targets)):
            to.tensor(tensor)
        is_soft = isinstance(given, Tensor) and (targets.dtype, targets.shape) != (given.dtype, given.shape)
        return "soft_batch" if is_soft else "batch", 0.0

    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> Batch:
        batch = as_seen(arguments["batch"])
        targets = batch.targets
        if form == "soft_batch":
            if batch.num_classes is None:
                raise ResultError("sent class probabilities for a regression")
            if not isinstance(targets, Tensor) or targets.dim() > 1:
                raise ResultError("sent class probabilities for samples that have no class each")
            targets = torch.empty((len(batch), batch.num_classes), dtype=torch.float32)
        inputs = map_tensors(source.tensor, batch.inputs)
        return batch.with_(inputs=inputs, targets=map_tensors(source.tensor, targets))


class _LossKind(ResultKind):
    forms = ("loss_term", "loss_scale")
    measured_by = "outputs"

    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> LossTerm | LossScale:
        return check_loss(result, arguments["outputs"], finite=finite)

    def room(self, arguments: Arguments) -> tuple[int, ...]:
        return tuple(tensor.nbytes for tensor in tensors_of(arguments["outputs"]))

    def write(self, result: LossTerm | LossScale, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        if isinstance(result, LossScale):
            return "loss_scale", result.factor
        for tensor in tensors_of(result.gradient):
            to.tensor(tensor)
        return "loss_term", result.value

    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> LossTerm | LossScale:
        if form == "loss_scale":
            return LossScale(value)
        return LossTerm(value, map_tensors(source.tensor, arguments["outputs"]))

    def replace(self, argument: float, result: LossTerm | LossScale) -> float:
        return argument * result.factor if isinstance(result, LossScale) else argument + result.value


class _MapKind(ResultKind):
    """Named tensors as those of an argument, which is named for them in the plural."""

    forms: ClassVar[tuple[Form, ...]] = ("map",)
    is_map = True

    def __init__(self, argument: str) -> None:
        self.measured_by = argument
        self._what = argument.removesuffix("s")

    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> Any:
        return check_tensors(self._what, result, arguments[self.measured_by], finite=finite)

    def room(self, arguments: Arguments) -> tuple[int, ...]:
        return (as_map(arguments[self.measured_by]).buffer.numel(),)

    def write(self, result: Any, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        to.map(self.measured_by, result)
        return "map", 0.0

    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> Any:
        return source.map(arguments[self.measured_by], self._what)


class _ParametersKind(_MapKind):
    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> Any:
        if isinstance(result, AnotherPass):
            raise ResultError("asked for another pass before the first; only backward may ask for one")
        return super().check(result, arguments, finite=finite)


class _PassKind(_MapKind):
    """A map, or a request for another pass with it."""

    forms = ("map", "another_pass")

    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> Any:
        if isinstance(result, AnotherPass):
            return AnotherPass(super().check(result.parameters, arguments, finite=finite))
        return super().check(result, arguments, finite=finite)

    def write(self, result: Any, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        if isinstance(result, AnotherPass):
            super().write(result.parameters, arguments, to)
            return "another_pass", 0.0
        return super().write(result, arguments, to)

    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> Any:
        tensors = super().read(form, value, arguments, source)
        return AnotherPass(tensors) if form == "another_pass" else tensors


class _ReportKind(ResultKind):
    forms = ("report",)
    limits = MappingProxyType(
        {
            "scalars": MAX_SCALARS,
            "histograms": MAX_HISTOGRAMS,
            "bins of a histogram": MAX_BINS,
            "numbers of all histograms": MAX_HISTOGRAM_NUMBERS,
            "images": MAX_IMAGES,
            "pixels of a side": MAX_IMAGE_SIDE,
            "bytes of all images": MAX_PICTURE_BYTES,
        }
    )

    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> Report:
        return check_report(result)

    def write(self, result: Report, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        to.report(result)
        return "report", 0.0

    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> Report:
        return source.report()


class _NumberKind(ResultKind):
    forms = ("number",)
    is_logged = True

    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> float:
        return check_number(result, finite=finite)

    def write(self, result: float, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        return "number", result

    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> float:
        return value


BATCH, LOSS, REPORT, NUMBER = _BatchKind(), _LossKind(), _ReportKind(), _NumberKind()
GRADIENTS, PARAMETERS = _MapKind("gradients"), _ParametersKind("parameters")
UPDATED = _PassKind("parameters")

#: The types that a hook returns beside None, and the argument that they replace, to their kind. A hook that
#: returns nothing may report all the same.
RESULT_KINDS: Mapping[tuple[frozenset[type], str | None], ResultKind] = {
    (frozenset({Batch}), "batch"): BATCH,
    (frozenset({LossTerm, LossScale}), "loss"): LOSS,
    (frozenset({TensorMap}), "gradients"): GRADIENTS,
    (frozenset({TensorMap}), "parameters"): PARAMETERS,
    (frozenset({TensorMap, AnotherPass}), "parameters"): UPDATED,
    (frozenset({Report}), None): REPORT,
    (frozenset(), None): REPORT,
    (frozenset({float}), None): NUMBER,
}


@functools.cache
def kind_of(method: Method) -> ResultKind:
    """Return what a method of a role may return.

    Raises:
        TypeError: There is no kind of what its hook says.
    """
    returned = get_type_hints(method.hook)["return"]
    kind = RESULT_KINDS.get((frozenset(get_args(returned)) - {NoneType}, method.changes))
    if kind is None:
        raise TypeError(
            f"{method.hook.__name__} returns {returned} in place of {method.changes}; RESULT_KINDS has no "
            "kind of result for that"
        )
    return kind


def kinds_of(role: Role) -> dict[str, ResultKind]:
    """Return what each method of a role may return."""
    return {name: kind_of(method) for name, method in role.methods.items()}


def as_map(value: Mapping[str, Tensor]) -> TensorMap:
    """Lay out a mapping that a trusted plugin returned, so that it can be shared."""
    if isinstance(value, TensorMap):
        return value
    tensors = TensorMap.like(value)
    for name, tensor in value.items():
        tensors[name].copy_(tensor)
    return tensors
