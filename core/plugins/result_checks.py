"""Check what a plugin returns against what its hook asks for, for isolated and trusted plugins alike."""

from __future__ import annotations

import functools
import itertools
import math
import re
import sys
from collections.abc import Mapping
from operator import length_hint
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..hooks.trees import Tree, tensors_of
from ..hooks.types import (
    IGNORED,
    AnotherPass,
    Batch,
    Histogram,
    LossScale,
    LossTerm,
    Report,
    TensorMap,
)
from ..tensors.finite import is_finite
from ..tensors.tree_form import TreeError, conform, named_tensors

MAX_SCALARS = 4096
MAX_HISTOGRAMS = 1024
MAX_BINS = 512
MAX_IMAGES = 64
MAX_IMAGE_SIDE = 1024
#: Different names that one plugin may use in a run: whoever reads the run later holds a series for each.
MAX_NAMES = 8192
#: Counts and edges of all histograms of one report: they are kept as text, in about 1 MiB.
MAX_HISTOGRAM_NUMBERS = 42_000
#: Pixels of all pictures of one report, in bytes: those of one picture that is as large as it may be.
MAX_PICTURE_BYTES = 3 * MAX_IMAGE_SIDE**2
_MAX_NAME_CHARACTERS = 200
_NAME = re.compile(rf"[A-Za-z0-9._\-/]{{1,{_MAX_NAME_CHARACTERS}}}")
_IMAGE_DIMS = (2, 3)
_MAX_LAYOUTS = 8


class ResultError(ValueError):
    """A result does not fit its hook; the message says what was expected."""


class NotFiniteError(ResultError):
    """A result is of the right form, and holds what is no finite number."""


def check_batch(result: Any, batch: Batch, *, finite: bool = True) -> Batch:
    """Check an augmented batch against the one that went in."""
    if not isinstance(result, Batch):
        raise ResultError(f"returned {type(result).__name__}; expected a Batch or None")
    inputs = check_tree("inputs", result.inputs, batch.inputs, finite=finite)
    targets, expected = result.targets, batch.targets
    if batch.num_classes is None or not isinstance(expected, Tensor) or _is_like(targets, expected):
        targets = check_tree("targets", targets, expected, finite=finite)
    elif not isinstance(targets, Tensor) or targets.dim() != 2 or expected.dim() != 1:  # noqa: PLR2004 - (B, K)
        check_tensor("targets", targets, expected, finite=finite)
    elif targets.shape != (len(batch), batch.num_classes) or targets.dtype != torch.float32:
        raise ResultError(
            f"returned targets of shape {tuple(targets.shape)} and dtype {targets.dtype}; expected "
            f"{tuple(expected.shape)} {expected.dtype}, or ({len(batch)}, {batch.num_classes}) torch.float32"
        )
    elif finite and not is_finite(targets):
        raise NotFiniteError("returned targets with a value that is not finite")
    if batch.num_classes is not None and isinstance(targets, Tensor) and not targets.is_floating_point():
        _check_classes(targets, batch.num_classes)
    # Which samples these are is the engine's knowledge, not the plugin's.
    return batch.with_(inputs=inputs, targets=targets)


def _is_like(result: Any, expected: Tensor) -> bool:
    return isinstance(result, Tensor) and result.shape == expected.shape and result.dtype == expected.dtype


def _check_classes(targets: Tensor, num_classes: int) -> None:
    """Check class numbers; of positions those that count."""
    if targets.dim() > 1:
        targets = targets[targets != IGNORED]
    if targets.numel():
        low, high = targets.aminmax()
        if low < 0 or high >= num_classes:
            raise ResultError(f"returned a class outside 0 … {num_classes - 1}")


def check_tree(what: str, result: Any, expected: Tree, *, finite: bool = True) -> Tree:
    """Check form, shapes, dtypes and finiteness; return the tree in the order of ``expected``."""
    if isinstance(expected, Tensor):
        check_tensor(what, result, expected, finite=finite)
        return result
    try:
        tree = conform(result, expected, what)
    except TreeError as error:
        raise ResultError(f"returned {error}") from error
    for (path, example), tensor in zip(named_tensors(expected, what), tensors_of(tree), strict=True):
        check_tensor(path, tensor, example, finite=finite)
    return tree


def check_tensor(what: str, result: Any, expected: Tensor, *, finite: bool = True) -> None:
    """Check shape, dtype and finiteness of one tensor."""
    if not isinstance(result, Tensor):
        raise ResultError(f"returned {what} of type {type(result).__name__}; expected a tensor")
    if result.shape != expected.shape:
        raise ResultError(f"returned {what} of shape {tuple(result.shape)}; expected {tuple(expected.shape)}")
    if result.dtype != expected.dtype:
        raise ResultError(f"returned {what} of dtype {result.dtype}; expected {expected.dtype}")
    if finite and not is_finite(result):
        raise NotFiniteError(f"returned {what} with a value that is not finite")


def check_tensors(
    what: str, result: Any, expected: Mapping[str, Tensor], *, finite: bool = True
) -> Mapping[str, Tensor]:
    """Check that ``result`` has the names, shapes and dtypes of ``expected`` and is finite."""
    if _same_layout(result, expected) and (not finite or _all_finite(result)):
        return result
    if not isinstance(result, Mapping):
        raise ResultError(f"returned {type(result).__name__}; expected a mapping of name to {what}, or None")
    if result.keys() != expected.keys():
        missing = sorted(expected.keys() - result.keys())
        extra = sorted(str(name) for name in result.keys() - expected.keys())
        raise ResultError(f"returned other names than it was given: missing {missing[:3]}, extra {extra[:3]}")
    for name, tensor in expected.items():
        check_tensor(f"{what} '{name}'", result[name], tensor, finite=finite)
    return result


def _same_layout(result: object, expected: Mapping[str, Tensor]) -> TypeGuard[TensorMap]:
    """Tell whether names, shapes and dtypes agree because both were laid out by the same specs."""
    # Of what is expected only its specs are asked: to tell the class of a ``Changeable`` takes a search.
    return isinstance(result, TensorMap) and result.specs is getattr(expected, "specs", None)


def _all_finite(result: Mapping[str, Tensor]) -> bool:
    """Look at all tensors in one pass where they lie side by side; False means look at each."""
    flat = result.flat() if isinstance(result, TensorMap) else None
    return flat is not None and is_finite(flat)


class Canonical:
    """Lay out what a plugin in this process returned like the argument that it replaces.

    Plugins that come after know tensors by the layout of their specs, and would
    have to learn the new ones of each mapping that was made for one call only.
    """

    def __init__(self) -> None:
        self._maps: dict[int, TensorMap] = {}

    def __call__(
        self,
        result: Mapping[str, Tensor] | AnotherPass,
        expected: Mapping[str, Tensor],
        into: TensorMap | None = None,
    ) -> Mapping[str, Tensor] | AnotherPass:
        """Return a checked ``result``, its mapping copied into a map that the next call reuses.

        Args:
            result: Named tensors, or a request for another pass with them.
            expected: The argument that it replaces.
            into: Where the mapping goes instead.
        """
        if isinstance(result, AnotherPass):
            return AnotherPass(self._laid_out(result.parameters, expected, into))
        return self._laid_out(result, expected, into)

    def _laid_out(
        self, result: Mapping[str, Tensor], expected: Mapping[str, Tensor], into: TensorMap | None
    ) -> Mapping[str, Tensor]:
        if into is not None:
            return _copy(result, into)
        if not isinstance(expected, TensorMap) or _same_layout(result, expected):
            return result
        return _copy(result, self._place(expected))

    def _place(self, expected: TensorMap) -> TensorMap:
        # By identity: hashing thousands of specs would cost more than the call. The map holds
        # the tuple, so that its id is not given to another.
        known = self._maps.get(id(expected.specs))
        if known is None:
            if len(self._maps) >= _MAX_LAYOUTS:
                self._maps.clear()
            known = TensorMap(expected.specs, torch.zeros_like(expected.buffer))
            self._maps[id(expected.specs)] = known
        return known


def without_overlap(result: Mapping[str, Tensor], place: TensorMap) -> list[Tensor]:
    """Return the tensors of ``result`` in the order of ``place``, none of which copying there overwrites.

    A plugin that was given ``place`` to work in may return parts of it under other names.
    """
    begin = place.buffer.data_ptr()
    end = begin + place.buffer.numel()
    tensors = [result[name] for name in place]
    if all(
        t is own or not begin <= t.data_ptr() < end for t, own in zip(tensors, place.values(), strict=True)
    ):
        return tensors
    return [tensor.clone() for tensor in tensors]


def _copy(result: Mapping[str, Tensor], place: TensorMap) -> TensorMap:
    if result is not place and not _is_there(result, place):
        # A plugin may have asked for gradients in its own code; they end here.
        with torch.no_grad():
            torch._foreach_copy_(list(place.values()), without_overlap(result, place))
    return place


def _is_there(result: Mapping[str, Tensor], place: TensorMap) -> bool:
    """Tell whether ``result`` was computed in ``place``, be it as the argument that lies there too."""
    return (
        isinstance(result, TensorMap)
        and result.specs is place.specs
        and result.buffer.data_ptr() == place.buffer.data_ptr()
    )


def check_loss(result: Any, outputs: Tree, *, finite: bool = True) -> LossTerm | LossScale:
    """Check a loss term against the outputs that it is a function of."""
    # The loss is of the outputs' dtype: what is finite as a double need not be there.
    dtype = next((t.dtype for t in tensors_of(outputs) if t.is_floating_point()), torch.float32)
    most = torch.finfo(dtype).max
    if isinstance(result, LossScale):
        if not abs(result.factor) <= most:
            raise NotFiniteError(f"returned a LossScale that is not finite as {dtype}")
        return LossScale(float(result.factor))
    if not isinstance(result, LossTerm):
        raise ResultError(f"returned {type(result).__name__}; expected LossTerm, LossScale or None")
    value = float(result.value)
    if not abs(value) <= most:
        raise NotFiniteError(f"returned a LossTerm whose value is not finite as {dtype}")
    gradient = check_tree("a loss term's gradient", result.gradient, outputs, finite=finite)
    return LossTerm(value, gradient)


def check_number(result: Any, *, finite: bool = True) -> float:
    """Check a plain number."""
    if not isinstance(result, (int, float)) or isinstance(result, bool):
        hint = "; write .item()" if isinstance(result, Tensor) else ""
        raise ResultError(f"returned {type(result).__name__}; expected a number or None{hint}")
    if isinstance(result, int) and abs(result) > sys.float_info.max:
        raise ResultError(f"returned a number of {result.bit_length()} bits; expected one that a float holds")
    if finite and not math.isfinite(result):
        raise NotFiniteError("returned a number that is not finite")
    return float(result)


def check_report(result: Any) -> Report:
    """Check names, counts and sizes of what a monitor reports."""
    if not isinstance(result, Report):
        raise ResultError(f"returned {type(result).__name__}; expected a Report or None")
    check_scalars(result.scalars)
    if len(result.histograms) > MAX_HISTOGRAMS or len(result.images) > MAX_IMAGES:
        raise ResultError(f"reported over {MAX_HISTOGRAMS} histograms or {MAX_IMAGES} images")
    _check_amount(result)
    for name, histogram in result.histograms.items():
        _check_name(name)
        _check_histogram(name, histogram)
    for name, image in result.images.items():
        _check_name(name)
        _check_image(name, image)
    return result


def _check_amount(report: Report) -> None:
    """Check how much there is in all, before any of it is looked at: the host writes and draws it."""
    histograms = [h for h in report.histograms.values() if isinstance(h, Histogram)]
    numbers = sum(length_hint(h.counts) + length_hint(h.edges) for h in histograms)
    if numbers > MAX_HISTOGRAM_NUMBERS:
        raise ResultError(
            f"reported histograms of {numbers:,} counts and edges in one call; at most "
            f"{MAX_HISTOGRAM_NUMBERS:,}: report fewer histograms, or some of fewer bins"
        )
    nbytes = sum(image.numel() for image in report.images.values() if isinstance(image, Tensor))
    if nbytes > MAX_PICTURE_BYTES:
        raise ResultError(
            f"reported pictures of {nbytes / 2**20:.1f} MiB in one call; at most "
            f"{MAX_PICTURE_BYTES / 2**20:.0f} MiB: report fewer or smaller pictures"
        )


def check_scalars(scalars: Mapping[str, Any]) -> None:
    """Check names and count of logged numbers."""
    if len(scalars) > MAX_SCALARS:
        raise ResultError(f"logged {len(scalars)} numbers in one call; at most {MAX_SCALARS}")
    for name, value in scalars.items():
        if (
            type(value) is float
            and type(name) is str
            and len(name) <= _MAX_NAME_CHARACTERS
            and _is_name(name)
        ):
            continue  # as nearly all are
        _check_name(name)
        if not isinstance(value, (int, float)):
            raise ResultError(f"logged '{name}' of type {type(value).__name__}; expected a number")
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ResultError(
                f"logged '{name}' of {value.bit_length()} bits; expected a number that a float holds"
            )


class Names:
    """The names that one plugin has used in a run, so that they stay few."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def add(self, scalars: Mapping[str, Any], result: Any) -> None:
        """Take the names of what a call logged and reported, both checked already.

        Raises:
            ResultError: They are too many, with those of the calls before.
        """
        used = [scalars]
        if isinstance(result, Report):
            used += [result.scalars, result.histograms, result.images]
        for names in used:
            if self._seen.issuperset(names):
                continue
            new = names.keys() - self._seen
            if len(self._seen) + len(new) > MAX_NAMES:
                raise ResultError(
                    f"used over {MAX_NAMES} different names in this run; let names say what is "
                    "measured, and the step when"
                )
            self._seen |= new


@functools.lru_cache(MAX_NAMES)
def _is_name(name: str) -> bool:
    """Tell whether it is a name; not to be asked of a longer one, which would be kept."""
    return _NAME.fullmatch(name) is not None


def _check_name(name: object) -> None:
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARACTERS or not _is_name(name):
        raise ResultError(f"used the name {name!r:.80}; names are 1 to 200 letters, digits and ._-/")


def _check_histogram(name: str, histogram: Any) -> None:
    if not isinstance(histogram, Histogram):
        raise ResultError(f"histogram '{name}' is a {type(histogram).__name__}; expected a Histogram")
    try:
        counts, edges = [float(x) for x in histogram.counts], [float(x) for x in histogram.edges]
    except (OverflowError, TypeError, ValueError) as error:
        raise ResultError(f"histogram '{name}' holds what is no number: {error}") from error
    if not 1 <= len(counts) <= MAX_BINS or len(edges) != len(counts) + 1:
        raise ResultError(
            f"histogram '{name}' has {len(counts)} counts and {len(edges)} edges; "
            f"expected N and N + 1, N at most {MAX_BINS}"
        )
    if not all(math.isfinite(x) and x >= 0 for x in counts):
        raise NotFiniteError(f"histogram '{name}' has a count that is negative or not finite")
    increasing = all(a < b for a, b in itertools.pairwise(edges))
    if not (increasing and all(math.isfinite(x) for x in edges)):
        raise NotFiniteError(f"histogram '{name}' has edges that are not finite and increasing")


def _check_image(name: str, image: Any) -> None:
    fits = (
        isinstance(image, Tensor)
        and image.dtype == torch.uint8
        and image.dim() in _IMAGE_DIMS
        and min(image.shape[:2]) >= 1
        and max(image.shape[:2]) <= MAX_IMAGE_SIDE
        and (image.dim() == _IMAGE_DIMS[0] or image.shape[2] == 3)  # noqa: PLR2004 - RGB
    )
    if not fits:
        raise ResultError(
            f"image '{name}' is not uint8 (H, W) or (H, W, 3) of 1 to {MAX_IMAGE_SIDE} pixels a side"
        )
