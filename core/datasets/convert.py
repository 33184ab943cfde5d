"""Turn arrays of any kind into tensors that a ``Dataset`` can be made of, or say why one cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.data import check_plain
from ..hooks.errors import DataError
from ..hooks.trees import Tree
from .preparation import telling

_INT64_MAX = 2**63 - 1
_DOUBLE_BYTES = 8
_WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_TAKEN = frozenset(
    (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.bfloat16, torch.float16, torch.float32, torch.float64),
    )
)
#: What an item of a tree can be.
_WITHIN = (Tensor, np.ndarray, Mapping, list, tuple)
_COMPLEX = "give real and imaginary parts as channels"
_TEXT = "give numbers, as values.astype('float32') are"
_CLASS_NAMES = (
    "number the classes, as np.unique(values, return_inverse=True)[1] does; numbers to predict that are "
    "written as text become numbers by values.astype('float32')"
)
#: Kind of a numpy dtype that holds no numbers to what to do about it.
_REMEDIES = {
    "c": _COMPLEX,
    "M": "give numbers, as (values - values.min()) / np.timedelta64(1, 'D') are",
    "m": "give numbers, as values / np.timedelta64(1, 's') are",
    "O": "give rows of one length and type: np.stack(values), or values.astype('float32')",
    "S": _TEXT,
    "T": _TEXT,
    "U": _TEXT,
    "V": "give an array of one type of number, as numpy.lib.recfunctions.structured_to_unstructured makes",
}


def to_tensor(value: object, source: str, *, is_targets: bool = False) -> Tensor:
    """Return a tensor on the CPU: bool, uint8, a signed integer or floating point.

    Args:
        value: A tensor, or an array of numpy.
        source: File and key, or function and part, for messages.
        is_targets: Whether text in it may be names of classes.

    Raises:
        DataError: It holds no numbers, or some that cannot be taken; the message names its dtype.
    """
    if isinstance(value, Tensor):
        return _from_torch(value, source)
    if isinstance(value, np.ndarray):
        if is_targets and _REMEDIES.get(value.dtype.kind) is _TEXT:
            raise _no_numbers(value.dtype, _CLASS_NAMES, source)
        return _from_numpy(value, source)
    raise DataError(
        f"{source}: is a {type(value).__name__}; give a tensor or an array, as numpy.asarray(…) makes of it"
    )


def to_tensors(value: object, source: str) -> Tree:
    """Return a tree of tensors, each as ``to_tensor`` makes it of the array there.

    Raises:
        DataError: As ``to_tensor``, or something is neither an array nor a dict or list of such.
    """
    if isinstance(value, Mapping):
        return {name: to_tensors(item, f"{source}['{name}']") for name, item in value.items()}
    if isinstance(value, list | tuple) and all(isinstance(item, _WITHIN) for item in value):
        return [to_tensors(item, f"{source}[{i}]") for i, item in enumerate(value)]
    return to_tensor(value, source)


def to_float32(values: Tensor, source: str) -> Tensor:
    """Return ``values`` as float32.

    Raises:
        DataError: A finite number is beyond what float32 can be.
    """
    result = values.to(torch.float32)
    too_large = result.isinf() & values.isfinite() if values.dtype == torch.float64 else None
    if too_large is not None and too_large.any():
        raise _too_large(float(values[too_large][0]), values.dtype, source)
    return result


def _from_torch(tensor: Tensor, source: str) -> Tensor:
    with telling(source):
        check_plain("the numbers", tensor)
    if tensor.is_complex():
        raise _no_numbers(tensor.dtype, _COMPLEX, source)
    try:
        plain = tensor.detach().cpu().resolve_neg()
        if plain.dtype in _WIDE_UNSIGNED:
            return _from_numpy(plain.numpy(), source)
        # Other kinds, of eight bits and fewer, have no arithmetic of their own.
        return plain if plain.dtype in _TAKEN else plain.to(torch.float32)
    # What torch raises of kinds of tensors that it has no such operation for.
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise _no_numbers(tensor.dtype, "give a plain tensor, such as .to(torch.float32)", source) from error


def _from_numpy(array: np.ndarray[Any, Any], source: str) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.getmaskarray(array).any():
            raise DataError(
                f"{source}: is a masked array of dtype {array.dtype} with values missing; give "
                ".filled(…), or the samples that are whole"
            )
        array = array.data
    kind, bytes_each = array.dtype.kind, array.dtype.itemsize
    if kind not in "biuf":
        raise _no_numbers(array.dtype, _REMEDIES.get(kind, "give an array of numbers"), source)
    if kind == "u" and bytes_each > 1:
        if array.size and int(array.max()) > _INT64_MAX:
            raise DataError(
                f"{source}: of dtype {array.dtype} holds {array.max()}, too large for int64; "
                "give smaller numbers"
            )
        array = array.astype(np.int64)
    elif kind == "f" and bytes_each > _DOUBLE_BYTES:
        array = _as_double(array, source)
    # Torch can share neither another byte order nor negative steps; a subclass may lie on disk.
    flags, steps = array.flags, min(array.strides, default=0)
    plain = type(array) is np.ndarray and array.dtype.isnative and flags.carray and steps >= 0
    return torch.from_numpy(
        array if plain else np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    )


def _as_double(array: np.ndarray[Any, Any], source: str) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):
        double = array.astype(np.float64)
    too_large = np.isinf(double) & np.isfinite(array)
    if too_large.any():
        raise _too_large(array[too_large][0], array.dtype, source)
    return double


def _no_numbers(dtype: object, remedy: str, source: str) -> DataError:
    return DataError(f"{source}: has dtype {dtype}; expected numbers: {remedy}")


def _too_large(number: object, dtype: object, source: str) -> DataError:
    return DataError(
        f"{source}: of dtype {dtype} holds {number!s}, too large for float32, which ends at 3.4e38; "
        "divide, or take logarithms"
    )
