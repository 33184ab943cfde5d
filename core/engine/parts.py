"""Parts of outputs and targets that a job names by key or place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..hooks.errors import DataError
from ..tensors.tree_form import describe_tree, tensors_within

#: Key or attribute of what a model returned under which its prediction lies, as transformers name it.
PREDICTION = "logits"
#: A key of a dict or an attribute; a place in a list or tuple; None: all of it.
Key = str | int | None


def part_of(value: Any, key: Key, what: str) -> Any:
    """Return the part of ``value`` that ``key`` names.

    Args:
        value: Outputs of a model, or targets.
        key: Of a part.
        what: What it is, for messages: ``output`` or ``target``, as the job's key is.

    Raises:
        DataError: It has no such part; the message names those that it has.
    """
    if key is None:
        return value
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
    elif isinstance(value, tuple | list):
        if isinstance(key, int) and -len(value) <= key < len(value):
            return value[key]
        found = getattr(value, key, None) if isinstance(key, str) else None
        if found is not None:
            return found
    elif isinstance(key, str) and not isinstance(value, Tensor) and getattr(value, key, None) is not None:
        return getattr(value, key)
    raise DataError(f"{what} {key!r}: the {_WHOSE[what]} {_form(value)}")


def describe_outputs(outputs: Any) -> str:
    """Return what a model returned in words."""
    tree = describe_tree(tensors_within(outputs))
    return tree if type(outputs) in {dict, list} else f"a {type(outputs).__name__}: {tree}"


def find_prediction(outputs: Any) -> Tensor | None:
    """Return the tensor that builtin losses and metrics judge, None where none can be told from the others.

    That is what the model returned if it is a tensor; else what lies under ``logits``, as a key or an
    attribute; else the first item of a tuple or list, or the only tensor of a dict.
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get(PREDICTION) if isinstance(outputs, Mapping) else getattr(outputs, PREDICTION, None)
    if found is None and isinstance(outputs, tuple | list) and outputs:
        found = outputs[0]
    if found is None and isinstance(outputs, Mapping) and len(outputs) == 1:
        (found,) = outputs.values()
    return found if isinstance(found, Tensor) else None


def prediction_of(outputs: Any) -> Tensor:
    """Return what ``find_prediction`` does.

    Raises:
        DataError: There is no such tensor.
    """
    found = find_prediction(outputs)
    if found is None:
        raise DataError(
            f"the model returned {describe_outputs(outputs)}; a builtin loss or metric takes one tensor, the "
            f"only one or that called '{PREDICTION}'. Return it, or give a loss of your own"
        )
    return found


_WHOSE = {"output": "model returned", "target": "data have"}


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"one tensor of shape {tuple(value.shape)}, which has no parts"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}, of which the places count from 0"
    return f"a {type(value).__name__}, which has no such part"
