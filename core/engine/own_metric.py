"""A metric of the user's: any object with ``update``, ``compute`` and ``reset``, as torchmetrics' have."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..hooks.errors import DataError, JobError, RingfenceError, shorten, visible
from ..hooks.types import IGNORED
from ..imports.user_frames import user_frame
from .metrics import Metric, TargetForm
from .parts import Key

_METHODS = ("update", "compute", "reset")
_SHOWN = 300
_TABLE_DIMS = 2
#: What constructors of torchmetrics for labels take, which want those as whole numbers.
_OF_LABELS = frozenset({"num_labels", "threshold", "thresholds"})


@dataclass(frozen=True, slots=True)
class OwnMetric(Metric):
    """A metric of the user's.

    Of classes it is given logits (B, K, …), and class numbers; of anything else what the model returned, and
    the targets. What is wrong with it is told as a ``DataError``.

    Attributes:
        name: What it is called, for messages.
        key: Which of several numbers it is, where ``compute`` returns a dict; None: it returns one.
    """

    name: str = "metric"
    key: str | None = None

    def update(self, state: Any, outputs: Any, targets: Any) -> None:
        """Add one batch; numbers are in float64 where they are a table of torchmetrics'."""
        if isinstance(targets, Tensor):
            if self.classes and targets.is_floating_point():
                targets = targets.argmax(1)
            elif self.labels and targets.is_floating_point():
                targets = targets.round().long()
            elif _is_table(outputs) and _is_table(targets) and hasattr(state, "set_dtype"):
                outputs, targets = _column(outputs), _column(targets)
        with self._telling("does not take the outputs of the model and these targets"):
            state.update(outputs, targets)

    def can_judge(self, outputs: Any) -> Tensor:
        """Tell whether tensors can be judged; of anything else it is the metric's to tell."""
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
            return torch.ones((), dtype=torch.bool)
        return Metric.can_judge(self, outputs)

    def value(self, state: Any) -> float:
        """Return what a state has come to."""
        with self._telling("cannot be computed"):
            found = state.compute()
        if isinstance(found, Mapping):
            if self.key not in found:
                told = shorten(", ".join(map(str, found)), _SHOWN)
                raise DataError(
                    f"metric '{self.name}' returned several numbers; say which one it is by its option key: "
                    f"{told}"
                )
            found = found[self.key]
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            is_tensor = isinstance(found, Tensor)
            form = f"a tensor of shape {tuple(found.shape)}" if is_tensor else f"a {type(found).__name__}"
            raise DataError(
                f"metric '{self.name}' returned {form}; a metric is one number, as an average over classes is"
            ) from error

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            said = shorten(visible(f"{type(error).__name__}: {error}"), _SHOWN)
            raise DataError(f"metric '{self.name}' {what}: {said}; at {user_frame(error)}") from error


def metric_of_object(value: Any, form: TargetForm, name: str) -> OwnMetric:
    """Return a metric that starts from a copy of an object each time.

    Raises:
        JobError: It is none that a run can be judged by.
    """

    def build(_: TargetForm) -> Any:
        fresh = copy.deepcopy(value)
        fresh.reset()
        return _in_double(fresh, form)

    takes = inspect.signature(type(value)).parameters if hasattr(value, "update") else {}
    return OwnMetric(
        higher_is_better=_direction(value, None),
        classes=form.num_classes is not None,
        build=build,
        labels=form.num_classes is None and not _OF_LABELS.isdisjoint(takes),
        name=name,
    )


def metric_of_class(
    make: Callable[..., Any],
    options: Mapping[str, Any],
    form: TargetForm,
    name: str,
    *,
    higher_is_better: bool | None = None,
    key: str | None = None,
    output: Key = None,
    target: Key = None,
) -> OwnMetric:
    """Return a metric that is made anew each time, from options and what it asks for of the targets.

    A constructor that takes ``num_classes``, ``task``, ``num_labels`` or ``ignore_index`` is given it, unless
    the options say it.

    Args:
        make: A class or function.
        options: Its keyword arguments, which it takes.
        form: Of the targets.
        name: For messages.
        higher_is_better: Direction, where the job says it; None: as the metric has it.
        key: As in ``OwnMetric``.
        output: As in ``Metric``.
        target: As in ``Metric``.

    Raises:
        JobError: It cannot be made, or is none that a run can be judged by.
    """
    takes = inspect.signature(make).parameters
    facts = {fact: value for fact, value in facts_of(form).items() if fact in takes and fact not in options}

    def build(_: TargetForm) -> Any:
        return _in_double(make(**facts, **options), form)

    try:
        one = build(form)
    except RingfenceError:
        raise
    except Exception as error:
        said = shorten(visible(f"{type(error).__name__}: {error}"), _SHOWN)
        raise JobError(f"metric '{name}': raised {said}; at {user_frame(error)}") from error
    return OwnMetric(
        higher_is_better=_direction(one, higher_is_better),
        classes=form.num_classes is not None,
        build=build,
        labels=form.num_classes is None and not _OF_LABELS.isdisjoint(takes),
        output=output,
        target=target,
        name=name,
        key=key,
    )


def facts_of(form: TargetForm) -> dict[str, Any]:
    """Return what constructors of torchmetrics ask for, as far as it is known of the targets."""
    if form.num_classes is None:
        labels = {"num_labels": form.columns} if form.columns > 1 else {}
        return {"task": "multilabel" if labels else "binary", **labels}
    counted = {"ignore_index": IGNORED} if form.at_positions else {}
    return {"task": "multiclass", "num_classes": form.num_classes, **counted}


def _direction(value: Any, asked: bool | None) -> bool:  # noqa: FBT001 - it is what is asked
    lacking = [method for method in _METHODS if not callable(getattr(value, method, None))]
    better = getattr(value, "higher_is_better", None) if asked is None else asked
    if not lacking and isinstance(better, bool):
        return better
    what = (
        f"it has no {lacking[0]}()"
        if lacking
        else "its higher_is_better is neither True nor False; say it by the option higher_is_better"
    )
    raise JobError(f"metric is a {visible(type(value).__name__)}; expected a metric of torchmetrics: {what}")


def _in_double(state: Any, form: TargetForm) -> Any:
    """Return a metric of numbers that sums in float64, where it is torchmetrics'."""
    if form.num_classes is None and hasattr(state, "set_dtype"):
        state.set_dtype(torch.float64)
    return state


def _is_table(values: Any) -> bool:
    return isinstance(values, Tensor) and values.is_floating_point() and values.dim() <= _TABLE_DIMS


def _column(values: Tensor) -> Tensor:
    """Return numbers in float64, (B,) of (B, 1)."""
    return (values.squeeze(1) if values.dim() == _TABLE_DIMS else values).double()
