"""Data from a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..engine.data import Data, Dataset
from ..hooks.errors import DataError
from ..hooks.trees import map_tensors
from ..hooks.types import IGNORED
from ..imports.user_frames import user_frame
from ..job.function_options import OptionError, check_call
from ..job.user_code import load_function
from ..tensors.precision import to_single
from .arrays import Task, make_dataset, same_classes
from .convert import to_tensor, to_tensors
from .preparation import Parts, finish, telling
from .split import HoldOut
from .torch_data import READ_OPTIONS, ReadOptions, is_read, read_parts

_PAIR = 2
#: What a function may return: with a validation part between the others, or without.
_PARTS = {2: ("training", "test"), 3: ("training", "validation", "test")}
_PARTS_NAMED = 4
_WANTED = (
    "expected Data, or ((inputs, targets), (test_inputs, test_targets)) of tensors or arrays, or of dicts "
    "and lists of such, with (validation_inputs, validation_targets) between them if there are such"
)


#: A function has options of its own; what it knows better it says by returning Data.
_AS_DATA = "return ringfence.engine.data.Data, {}"


def user_data(
    name: str,
    options: Mapping[str, Any],
    base: Path,
    task: Task = "auto",
    given: Callable[..., Any] | None = None,
    asked: HoldOut = HoldOut(),  # noqa: B008 - it is frozen
) -> Data:
    """Call ``module:function`` with ``options`` and bring what it returns into form.

    Args:
        name: ``module:function``.
        options: Its keyword arguments.
        base: Folder of the job; modules beside it can be imported.
        task: As in ``arrays``.
        given: The function itself, if a program has it.
        asked: What to hold out for validation.

    Raises:
        DataError: It cannot be imported, raises, or returns something else than data.
    """
    source = f"data '{name}'"
    try:
        function = given or load_function(name, base)
        reading, options = ReadOptions.taken_from(options, function)
        check_call(function, options, beside=READ_OPTIONS)
    except (OptionError, ValueError) as error:
        raise DataError(f"{source}: {error}") from error
    try:
        result = function(**options)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"data '{name}': raised {type(error).__name__}: {error}; at {user_frame(error)}"
        ) from error
    if is_read(result):
        return finish(read_parts(result, reading, source, base), asked)
    reading.refuse_if_given(source, _form(result))
    if isinstance(result, Data):
        return _as_given(result, name, asked)
    if not (_is_of(result, *_PARTS) and all(_is_of(part, _PAIR) for part in result)):
        raise DataError(f"data '{name}': returned {_form(result, of=_form)}; {_WANTED}{_in_pairs(result)}")
    parts = []
    names = _PARTS[len(result)]
    for part, (inputs, targets) in zip(names, result, strict=True):
        made = _made(inputs, targets, f"{source}: {part}", task)
        task = "regression" if made.num_classes is None else "classification"
        parts.append(made)
    alike = same_classes(*parts, source=source, more=_AS_DATA.format("with num_classes"))
    by_name = dict(zip(names, alike, strict=True))
    read = Parts(
        train=by_name["training"],
        test=by_name["test"],
        validation=by_name.get("validation"),
        source=source,
    )
    return finish(read, asked)


def _made(inputs: Any, targets: Any, source: str, task: Task) -> Dataset:
    """Return one part: arrays as any arrays, and what is no array each as the tree that it is."""
    if all(isinstance(value, Tensor | np.ndarray) for value in (inputs, targets)):
        return make_dataset(
            to_tensor(inputs, f"{source} inputs"),
            to_tensor(targets, f"{source} targets", is_targets=True),
            task=task,
            layout="auto",
            source=f"{source} data",
            ask=_AS_DATA.format("whose inputs are (N, C, H, W)"),
        )
    given = to_tensors(inputs, f"{source} inputs"), to_tensors(targets, f"{source} targets")
    inputs, targets = (map_tensors(to_single, tree) for tree in given)
    classes = None
    if isinstance(targets, Tensor) and task != "regression":
        if not targets.is_floating_point():
            counted = targets[targets != IGNORED]
            targets, classes = targets.long(), int(counted.max()) + 1 if counted.numel() else 1
        elif task == "classification":
            classes = targets.shape[-1]
    elif isinstance(targets, Tensor):
        targets = targets.float()[:, None] if targets.dim() == 1 else targets.float()
    with telling(source):
        return Dataset(inputs, targets, classes)


def _as_given(data: Data, name: str, asked: HoldOut) -> Data:
    """Check ``Data`` that the user made, hold out what is asked for, and keep its own normalisation."""
    read = Parts(
        train=data.train,
        test=data.test,
        validation=data.validation,
        source=f"data '{name}'",
        normalize="none",
        notes=data.notes,
    )
    return replace(finish(read, asked), mean=data.mean, std=data.std, values=data.values)


def _form(value: object, of: Callable[[object], str] | None = None) -> str:
    """Return what kind of value it is, of a tuple or list how long, and each part as ``of`` tells it."""
    kind = type(value).__name__
    if not isinstance(value, tuple | list):
        return kind
    more = ", …" if len(value) > _PARTS_NAMED else ""
    parts = "" if of is None or not value else f" ({', '.join(map(of, value[:_PARTS_NAMED]))}{more})"
    return f"{kind} of {len(value)}{parts}"


def _in_pairs(result: object) -> str:
    """Return how four arrays in a row are written, as a function of scikit-learn's gives them."""
    if not isinstance(result, tuple | list) or len(result) != _PAIR**2 or isinstance(result[0], tuple | list):
        return ""
    return ". From x, x_test, y, y_test = train_test_split(…) that is: return (x, y), (x_test, y_test)"


def _is_of(value: object, *lengths: int) -> bool:
    return isinstance(value, tuple | list) and len(value) in lengths
