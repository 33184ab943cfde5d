"""Copy what a plugin can still write to memory of the host, and look at the copy while it is in cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....hooks.types import ALIGNMENT_BYTES, TensorMap, TensorSpec
from ....plugins.result_checks import check_tensors
from ....tensors.changeable import PIECE_BYTES

#: Up to here numpy takes half of the time that torch does.
_SMALL_BYTES = 32 * 1024
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


class CheckedCopy:
    """Copies one map from a place that a plugin can write to one that it cannot.

    Args:
        specs: How the tensors lie, in both; what lies between them further than alignment asks is left alone.
        source: (N,) uint8 that a plugin can write at any time.
        target: (N,) uint8 of the host's own.
    """

    def __init__(self, specs: Sequence[TensorSpec], source: Tensor, target: Tensor) -> None:
        self.copy = TensorMap(specs, target)
        parts, self._gaps = _parts(specs)
        self._target = target
        pairs = [(target[begin:end], source[begin:end]) for begin, end in parts]
        dtypes = {spec.dtype for spec in specs}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        #: Copies and tells whether all numbers are finite; False means: look again, more closely.
        self._copy: Callable[[], bool]
        if dtype in _NUMPY and len(pairs) == 1 and 0 < len(pairs[0][0]) <= _SMALL_BYTES:
            to, of = pairs[0]
            self._copy = _small(to.numpy(), of.numpy(), _NUMPY[dtype])
        elif dtype is not None and dtype.is_floating_point:
            self._copy = _chunks([(to.view(dtype), of.view(dtype)) for to, of in pairs])
        else:
            self._copy = _plainly(pairs)

    def run(self, what: str) -> TensorMap:
        """Copy and check; the result is the same object each time.

        Args:
            what: What each tensor is, for messages.

        Raises:
            ResultError: A number is not finite. What was copied is in the target all the same.
        """
        is_finite = self._copy()
        if self._gaps is not None:
            # Flat passes over a map read the gaps too.
            self._target.index_fill_(0, self._gaps, 0)
        if not is_finite:
            # The sum of finite numbers may overflow, and a gap may have held anything.
            check_tensors(what, dict(self.copy), self.copy)
        return self.copy


def _plainly(pairs: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], bool]:
    def copy() -> bool:
        for to, of in pairs:
            to.copy_(of)
        return not pairs

    return copy


def _small(target: Any, source: Any, dtype: Any) -> Callable[[], bool]:
    target, source = target.view(dtype), source.view(dtype)
    finite = np.empty(target.shape, np.bool)

    def copy() -> bool:
        np.copyto(target, source)
        # ``all`` would take longer than all the rest.
        return bytes(np.isfinite(target, finite)).find(False) < 0

    return copy


def _chunks(pairs: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], bool]:
    # Looking costs little while a piece is in cache.
    pieces = [
        piece
        for pair in pairs
        for piece in zip(
            *(torch.split(each, PIECE_BYTES // each.element_size()) for each in pair), strict=True
        )
    ]

    def copy() -> bool:
        is_finite = True
        for to, of in pieces:
            to.copy_(of)
            is_finite = is_finite and math.isfinite(to.sum().item())
        return is_finite

    return copy


def _parts(specs: Sequence[TensorSpec]) -> tuple[list[tuple[int, int]], Tensor | None]:
    """Return from where to where tensors lie side by side, and the places of the bytes between those.

    What is absent from a layout, such as all that is frozen, may be most of the memory; it is in neither.
    """
    parts: list[tuple[int, int]] = []
    gaps = []
    for spec in sorted(specs, key=lambda spec: spec.offset_bytes):
        begin, end = spec.offset_bytes, spec.offset_bytes + spec.nbytes
        if parts and begin - parts[-1][1] < ALIGNMENT_BYTES:
            gaps.append(torch.arange(parts[-1][1], begin))
            begin = parts.pop()[0]
        parts.append((begin, end))
    places = torch.cat(gaps) if gaps else torch.empty(0, dtype=torch.int64)
    return parts, places if len(places) else None
