"""The form in which a model was given its samples, and how arrays of other forms become it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...datasets.convert import to_float32
from ...engine.preprocessing import Preprocessing
from ...hooks.errors import DataError
from ...tensors.finite import is_finite
from ...tensors.first_wrong import first_wrong
from ...tracking.model_record import InputForm, ModelRecord

_IMAGE_DIMS = 3
_LARGEST_BYTE = 255
#: Of a whole number.
_WIDEST_BYTES = 8
_AS_BYTES = "give bytes from 0 to 255, such as (images * 255).round().astype('uint8') of ones from 0 to 1"
_AS_NUMBERS = "give the numbers that it was trained on, in float32"


@dataclass(frozen=True, slots=True)
class SampleForm:
    """The form of one sample, as the data of training had it.

    Attributes:
        shape: Images are (C, H, W).
        in_bytes: uint8, of which the model makes numbers from 0 to 1 where they are images; otherwise
            float32.
        preprocessing: How the run's reader made samples of files; None where that is not known.
        whole: Kind of whole numbers in place of float32, such as ``int64`` for token ids.
        tree: Each of several inputs, the first of which the others here are of.
        varies: Sizes may differ from sample to sample; of images not the number of channels.
    """

    shape: tuple[int, ...]
    in_bytes: bool
    preprocessing: Preprocessing | None = field(default=None, compare=False)
    whole: str = ""
    tree: tuple[InputForm, ...] = ()
    varies: bool = False

    @property
    def is_image(self) -> bool:
        """Whether samples have channels, height and width."""
        return len(self.shape) == _IMAGE_DIMS and not self.tree

    @property
    def nbytes(self) -> int:
        """Bytes of one sample as numbers."""
        numbers = sum(math.prod(form.shape) for form in self.tree) or math.prod(self.shape)
        return numbers * (_WIDEST_BYTES if self.tree or self.whole else torch.float32.itemsize)

    @property
    def stored_nbytes(self) -> int:
        """Bytes of one sample as it is read."""
        return math.prod(self.shape) if self.in_bytes and not self.tree else self.nbytes

    def __str__(self) -> str:
        if self.tree:
            return " and ".join(f"'{'.'.join(map(str, form.path))}' {leaf_form(form)}" for form in self.tree)
        kind = "uint8" if self.in_bytes else self.whole or "float32"
        return f"({', '.join(map(str, self.shape))}) of {kind}"

    def arranging(self, shape: tuple[int, ...], source: str) -> Callable[[Tensor], Tensor]:
        """Return what brings samples of ``shape`` into this form's, (B, …) to (B, …).

        Taken are the model's own shape; of images also (H, W, C), and (H, W) where there is one channel; and
        rows of as many numbers as a sample has.

        Args:
            shape: Of one sample.
            source: For messages.

        Raises:
            DataError: It does not fit.
        """
        if self.tree:
            raise DataError(
                f"{source}: is one array, and the model takes {self}: give those together, or a file such "
                "as it was trained on"
            )
        target = (-1, *self.shape)
        if shape == self.shape:
            return lambda values: values
        if self.is_image:
            channels, height, width = self.shape
            if shape == (height, width, channels):
                return lambda values: values.permute(0, 3, 1, 2).contiguous()
            if shape == (height, width) and channels == 1:
                return lambda values: values[:, None]
        is_like = len(shape) == len(self.shape) and (not self.is_image or shape[0] == self.shape[0])
        if self.varies and is_like:
            return lambda values: values
        if len(shape) == 1 and shape[0] == math.prod(self.shape):
            return lambda values: values.reshape(target)
        raise DataError(f"{source}: each sample is of shape {shape}; the model needs {self}")

    def check_dtype(self, dtype: torch.dtype, source: str) -> None:
        """Check that it can be told what the numbers of an array mean to the model.

        Raises:
            DataError: They are fractions where it takes bytes, or bytes of an image where it takes fractions.
        """
        if self.in_bytes and dtype.is_floating_point:
            raise DataError(f"{source}: is of {dtype}, and the model takes images of bytes; {_AS_BYTES}")
        if not self.in_bytes and self.is_image and dtype == torch.uint8:
            raise DataError(f"{source}: is of {dtype}, and the model takes images of float32; {_AS_NUMBERS}")

    def convert(self, values: Tensor, first: int, source: str) -> Tensor:
        """Return samples in the form's dtype.

        Args:
            values: (B, …) of the form's shape, any kind of number.
            first: Index of the first one, for messages.
            source: Likewise.

        Raises:
            DataError: A number cannot be one of this form's; the message names the sample.
        """
        if self.whole:
            return self._to_whole(values, first, source)
        if self.in_bytes:
            if values.dtype == torch.uint8:
                return values
            fits = (values >= 0) & (values <= _LARGEST_BYTE) & (values == values.to(torch.uint8))
            _check(fits, values, first, source, f"which is no byte; {_AS_BYTES}")
            return values.to(torch.uint8)
        values = to_float32(values, source)
        if not is_finite(values):
            _check(values.isfinite(), values, first, source, "which is not finite; remove or replace it")
        return values

    def _to_whole(self, values: Tensor, first: int, source: str) -> Tensor:
        dtype: torch.dtype = getattr(torch, self.whole)
        if values.dtype == dtype:
            return values
        found = values.nan_to_num().to(dtype) if values.is_floating_point() else values.to(dtype)
        _check(found == values, values, first, source, f"which is no number of {self.whole}")
        return found


def _check(fits: Tensor, values: Tensor, first: int, source: str, what: str) -> None:
    if fits.all():
        return
    sample, number = first_wrong(values, ~fits)
    raise DataError(f"{source}: sample {first + sample}, counted from 0, holds {number:g}, {what}")


def form_of(record: ModelRecord, preprocessing: Preprocessing | None = None) -> SampleForm:
    """Return the form of a sample that ``model.json`` tells of, and ``preprocessing.json``."""
    if record.input.path:
        return SampleForm(
            record.input.shape, in_bytes=False, preprocessing=preprocessing, tree=tuple(record.inputs)
        )
    return leaf_form(record.input, preprocessing)


def leaf_form(form: InputForm, preprocessing: Preprocessing | None = None) -> SampleForm:
    """Return the form of one tensor of a sample."""
    whole = "" if form.dtype in {"uint8", "float32"} else form.dtype
    return SampleForm(form.shape, form.dtype == "uint8", preprocessing, whole, varies=form.varies)
