"""What a member of a sample holds: numbers of JSON or NumPy, and classes as text; nothing is unpickled."""

from __future__ import annotations

import io
import math
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from ..hooks.errors import DataError, shorten

#: Of a member that holds a class.
MOST_CLASS_BYTES = 4096
#: Endings of members that hold numbers.
NUMBERS = frozenset(("json", "npy"))
#: Endings whose members hold a class, or a number, as text.
TEXTS = frozenset(("cls", "txt"))


def class_text(place: str, kind: str, data: bytes) -> str:
    """Return number or name of a class.

    Args:
        place: Of the member, for messages.
        kind: Its ending.
        data: Its bytes.

    Raises:
        DataError: It is none.
    """
    value: object = _text(place, data) if kind in TEXTS else _value(place, kind, data)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise DataError(f"{place}: holds no class; expected its number or its name")
    return str(value).strip()


def numbers(place: str, kind: str, data: bytes) -> Tensor:
    """Return numbers: bytes of NumPy as such (an image), others as float32; one alone as (1,).

    Raises:
        DataError: It holds others; arguments and errors as ``class_text``.
    """
    value: Any = _text(place, data) if kind in TEXTS else _value(place, kind, data)
    try:
        array = np.asarray(float(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise DataError(f"{place}: holds no numbers, or lists that differ in length") from error
    if array.dtype.kind not in "biuf" or not array.size:
        raise DataError(f"{place}: holds {array.dtype} of shape {array.shape}; expected numbers")
    kept = np.uint8 if isinstance(value, np.ndarray) and array.dtype == np.uint8 else np.float32
    return torch.from_numpy(np.array(array, dtype=kept, order="C", ndmin=1))


def _text(place: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: is no text in UTF-8") from error


def _value(place: str, kind: str, data: bytes) -> object:
    if kind == "npy":
        return _array(place, data)
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataError(f"{place}: is no JSON: {shorten(str(error), 200)}") from error


def _array(place: str, data: bytes) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the array of a ``.npy`` file, whose header is held to what follows before memory is taken."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, by_column, dtype = read[version](file)
    except (ValueError, KeyError) as error:
        raise DataError(f"{place}: is no .npy file: {shorten(str(error), 200)}") from error
    if dtype.kind not in "biuf":
        raise DataError(f"{place}: holds {dtype}; objects would be unpickled, and others are no numbers")
    rest = data[file.tell() :]
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(rest):
        raise DataError(f"{place}: claims {dtype} of shape {shape}, and holds {len(rest):,} bytes")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if by_column else "C")
