"""Data from a function of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.data import Data
from ..hooks.errors import DataError
from ..options import OptionError, check_call
from ..user_code import load_function
from .arrays import make_dataset, same_classes
from .common import finish

_PAIR = 2
_WANTED = "expected Data, or ((inputs, targets), (test_inputs, test_targets)) of tensors or arrays"


def user_data(name: str, options: Mapping[str, Any], base: Path) -> Data:
    """Call ``module:function`` with ``options`` and bring what it returns into form.

    Args:
        name: ``module:function``.
        options: Its keyword arguments.
        base: Folder of the job; modules beside it can be imported.

    Raises:
        DataError: It cannot be imported, raises, or returns something else than data.
    """
    try:
        function = load_function(name, base)
        check_call(function, options)
    except (OptionError, ValueError) as error:
        raise DataError(f"data '{name}': {error}") from error
    try:
        result = function(**options)
    except Exception as error:
        raise DataError(f"data '{name}': raised {type(error).__name__}: {error}") from error
    if isinstance(result, Data):
        return _as_given(result, name)
    if not (_is_pair(result) and all(_is_pair(part) for part in result)):
        raise DataError(f"data '{name}': returned {type(result).__name__}; {_WANTED}")
    source = f"data '{name}'"
    parts = [
        make_dataset(_tensor(x, source), _tensor(y, source), task="auto", layout="auto", source=source)
        for x, y in result
    ]
    train, test = same_classes(*parts)
    return finish(train, test, limit=None, normalize="auto", source=source)


def _as_given(data: Data, name: str) -> Data:
    """Check ``Data`` that the user made, and keep its own normalisation."""
    finish(data.train, data.test, limit=None, normalize="none", source=f"data '{name}'")
    return data


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == _PAIR


def _tensor(value: object, source: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value))
    raise DataError(f"{source}: returned {type(value).__name__} as an array; {_WANTED}")
