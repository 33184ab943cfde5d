"""What hooks may return: a kind each, with all that is to be known of it.

A kind is found by the argument that its result replaces. The host makes room for a result; inside the
sandbox it is checked and written; the host reads it, which is a copy of a size that the host knows, and
checks that. A trusted plugin's result is checked only. Whatever the kind, tensors, maps, numbers and reports
cross.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ..hooks.role import Role
from ..hooks.types import AnotherPass, Batch, LossScale, LossTerm, Report, TensorMap
from ..tensors.byte_batch import as_seen
from .result_checks import ResultError, check_batch, check_loss, check_report, check_tensors

#: What a reply says of a result.
Form = Literal["none", "batch", "soft_batch", "map", "another_pass", "loss_term", "loss_scale", "report"]
Arguments = Mapping[str, Any]


class Writer(Protocol):
    """Where a result goes, inside a sandbox."""

    def tensor(self, tensor: Tensor) -> None:
        """Put a tensor behind those before."""

    def map(self, argument: str, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors there as those of ``argument`` lie."""

    def report(self, report: Report) -> None:
        """Send a report along."""


class Reader(Protocol):
    """What a plugin has written, and can still write: all that is taken is a copy."""

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
    """

    forms: ClassVar[tuple[Form, ...]]
    measured_by: str = ""
    is_map: ClassVar[bool] = False

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


class _BatchKind(ResultKind):
    forms = ("batch", "soft_batch")
    measured_by = "batch"

    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> Batch:
        return check_batch(result, as_seen(arguments["batch"]), finite=finite)

    def room(self, arguments: Arguments) -> tuple[int, ...]:
        batch = as_seen(arguments["batch"])
        soft = len(batch) * (batch.num_classes or 0) * torch.float32.itemsize
        return batch.inputs.nbytes, max(batch.targets.nbytes, soft)

    def write(self, result: Batch, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        given = arguments["batch"].targets
        to.tensor(result.inputs)
        to.tensor(result.targets)
        is_soft = (result.targets.dtype, result.targets.shape) != (given.dtype, given.shape)
        return "soft_batch" if is_soft else "batch", 0.0

    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> Batch:
        batch = as_seen(arguments["batch"])
        targets = batch.targets
        if form == "soft_batch":
            if batch.num_classes is None:
                raise ResultError("sent class probabilities for a regression")
            targets = torch.empty((len(batch), batch.num_classes), dtype=torch.float32)
        inputs = source.tensor(batch.inputs)
        return batch.with_(inputs=inputs, targets=source.tensor(targets))


class _LossKind(ResultKind):
    forms = ("loss_term", "loss_scale")
    measured_by = "outputs"

    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> LossTerm | LossScale:
        return check_loss(result, arguments["outputs"], finite=finite)

    def room(self, arguments: Arguments) -> tuple[int, ...]:
        return (arguments["outputs"].nbytes,)

    def write(self, result: LossTerm | LossScale, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        if isinstance(result, LossScale):
            return "loss_scale", result.factor
        to.tensor(result.gradient)
        return "loss_term", result.value

    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> LossTerm | LossScale:
        if form == "loss_scale":
            return LossScale(value)
        return LossTerm(value, source.tensor(arguments["outputs"]))


class _MapKind(ResultKind):
    """Named tensors, each a ``what``, as those of an argument."""

    forms: ClassVar[tuple[Form, ...]] = ("map",)
    is_map = True

    def __init__(self, argument: str, what: str) -> None:
        self.measured_by = argument
        self._what = what

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
    """A map, or a request for another pass with it."""

    forms = ("map", "another_pass")

    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> Any:
        another = isinstance(result, AnotherPass)
        tensors = result.parameters if another else result
        checked = check_tensors(self._what, tensors, arguments[self.measured_by], finite=finite)
        return AnotherPass(checked) if another else checked

    def write(self, result: Any, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        another = isinstance(result, AnotherPass)
        to.map(self.measured_by, result.parameters if another else result)
        return "another_pass" if another else "map", 0.0

    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> Any:
        tensors = source.map(arguments[self.measured_by], self._what)
        return AnotherPass(tensors) if form == "another_pass" else tensors


class _ReportKind(ResultKind):
    forms = ("report",)

    def check(self, result: Any, arguments: Arguments, *, finite: bool) -> Report:
        return check_report(result)

    def write(self, result: Report, arguments: Arguments, to: Writer) -> tuple[Form, float]:
        to.report(result)
        return "report", 0.0

    def read(self, form: Form, value: float, arguments: Arguments, source: Reader) -> Report:
        return source.report()


#: The argument that a result replaces to its kind; a method that replaces none reports.
RESULT_KINDS: Mapping[str | None, ResultKind] = {
    None: _ReportKind(),
    "batch": _BatchKind(),
    "loss": _LossKind(),
    "gradients": _MapKind("gradients", "gradient"),
    "parameters": _ParametersKind("parameters", "parameter"),
}


def kinds_of(role: Role) -> dict[str, ResultKind]:
    """Return what each method of a role may return."""
    return {name: RESULT_KINDS[method.changes] for name, method in role.methods.items()}


def check_result(
    changes: str | None, result: Any, arguments: Mapping[str, Any], *, finite: bool = True
) -> Any:
    """Return ``result`` if it may replace the argument ``changes``.

    Args:
        changes: Name of the argument that the hook changes; None for a hook that only reports.
        result: What the plugin returned.
        arguments: What the hook was called with.
        finite: Whether to look for numbers that are not finite. The inside of a
            sandbox leaves that to the host, which does not take its word anyway.

    Raises:
        ResultError: It does not fit.
    """
    return None if result is None else RESULT_KINDS[changes].check(result, arguments, finite=finite)


def as_map(value: Mapping[str, Tensor]) -> TensorMap:
    """Lay out a mapping that a trusted plugin returned, so that it can be shared."""
    if isinstance(value, TensorMap):
        return value
    tensors = TensorMap.like(value)
    for name, tensor in value.items():
        tensors[name].copy_(tensor)
    return tensors
