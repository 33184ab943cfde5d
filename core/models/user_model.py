"""A model from a function of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..hooks.errors import JobError
from ..imports.user_frames import user_frame
from ..job.function_options import OptionError, check_call
from ..job.user_code import load_function
from .data_shape import Shape


def user_model(
    name: str,
    options: Mapping[str, Any],
    shape: Shape,
    base: Path,
    maker: Callable[..., Any] | None = None,
) -> nn.Module:
    """Call ``module:function`` with ``options`` and what it asks for of the data's shape.

    A function that takes any of ``input_shape``, ``channels``, ``height``, ``width``, ``num_outputs``,
    ``num_classes`` and, of token ids, ``vocab_size`` is given it, unless the job sets it.

    Args:
        name: ``module:function``; a class will do.
        options: Keyword arguments from the job.
        shape: Of one sample.
        base: Folder of the job; modules beside it can be imported.
        maker: The function itself, if a program has it.

    Raises:
        JobError: It cannot be imported, raises, or returns no ``torch.nn.Module``.
        DataError: It asks for the size of images, and the data has none.
    """
    try:
        function = maker or load_function(name, base)
        given = _facts_and_options(function, options, shape)
        check_call(function, options, given)
    except (OptionError, ValueError) as error:
        raise JobError(f"model '{name}': {error}") from error
    try:
        model = function(**given, **options)
    except Exception as error:
        raise JobError(
            f"model '{name}': raised {type(error).__name__}: {error}; at {user_frame(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise JobError(f"model '{name}': returned {type(model).__name__}; expected a torch.nn.Module")
    return model


def _facts_and_options(
    function: Callable[..., Any], options: Mapping[str, Any], shape: Shape
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "input_shape": shape.inputs,
        "num_outputs": shape.outputs,
        "num_classes": shape.outputs,
    }
    sizes = ("channels", "height", "width")
    if len(shape.inputs) == len(sizes):
        facts |= dict(zip(sizes, shape.inputs, strict=True))
    if shape.tokens is not None:
        facts["vocab_size"] = shape.tokens
    parameters = inspect.signature(function).parameters
    return {name: fact for name, fact in facts.items() if name in parameters and name not in options}
