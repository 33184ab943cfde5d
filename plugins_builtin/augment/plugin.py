"""The plugin: a list of operations from the job, applied to each batch in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ringfence import Batch, StepInfo, passthrough

from . import colour, erase, geometry, mix, policy, tokens
from .draw import Draw
from .external import PREFIX, Chain, Transform, make_transform
from .follow import check_kind, check_targets
from .locate import Path, at, find, is_image, others, put
from .op import Op, option_names
from .options import nearest

_CLASSES: tuple[type[Op], ...] = (
    mix.MixUp,
    mix.CutMix,
    mix.FMix,
    mix.Mosaic,
    erase.Cutout,
    erase.RandomErasing,
    erase.GridMask,
    erase.HideAndSeek,
    policy.AugMix,
    policy.RandAugment,
    policy.TrivialAugment,
    geometry.Flip,
    geometry.Crop,
    geometry.ResizedCrop,
    geometry.Affine,
    geometry.Rotate,
    geometry.Perspective,
    geometry.Elastic,
    colour.Brightness,
    colour.Contrast,
    colour.Saturation,
    colour.Sharpness,
    colour.Gamma,
    colour.Jitter,
    colour.Solarize,
    colour.Posterize,
    colour.Equalize,
    colour.AutoContrast,
    colour.Invert,
    colour.Greyscale,
    colour.GaussianNoise,
    colour.GaussianBlur,
)
#: On images.
OPS: dict[str, type[Op]] = {cls.name: cls for cls in _CLASSES}
#: On token ids and their embeddings.
TOKEN_OPS: dict[str, type[Op]] = {
    cls.name: cls for cls in (tokens.TokenDropout, tokens.TokenSwap, tokens.TokenMixUp)
}
_KNOWN = {**OPS, **TOKEN_OPS}

_IMAGE_DIMS = 4
#: What rounding may have added is no other range.
_HALF_A_LEVEL = 0.5 / 255
_LEVELS = 255


def names() -> tuple[str, ...]:
    """Return the names of the operations on images, without albumentations', in the documentation's order."""
    return tuple(OPS)


def token_names() -> tuple[str, ...]:
    """Return the names of the operations on tokens, in the order of the documentation."""
    return tuple(TOKEN_OPS)


class Augment:
    """Change batches of images, or of tokens, before the model sees them.

    Of inputs that are a dict or a list, the images are changed and the rest is left alone. Masks, (B, H, W)
    classes, and boxes, ``{"boxes": (B, M, 4), "labels": (B, M)}`` in pixels, move with the images.

    Args:
        ops: What to do, in order. Each is a name, or a mapping of one name to its options; ``names()`` lists
            them, and ``docs/augment.md`` their options. A name in capitals, or one that starts with
            ``albumentations.``, is that transform of albumentations.
        input_range: Least and largest number of the training inputs. ringfence fills it in; without it the
            first batch is looked at.
        inputs_key: Which of the inputs the images are, if these are no tensor: keys and places joined by
            points, such as ``pixel_values`` or ``views.0``. The only one that can be images, if left out.
        target_kind: What moves with the images: ``masks`` or ``boxes``. ringfence fills it in; without it the
            batches are looked at.

    Raises:
        ValueError: An operation or option is unknown or out of range; the message says where.
    """

    role = "augment"
    backward = passthrough
    takes_trees = True

    def __init__(
        self,
        ops: list[str | dict[str, Any]],
        input_range: tuple[float, float] | None = None,
        inputs_key: str | None = None,
        target_kind: Literal["masks", "boxes"] | None = None,
    ) -> None:
        if not isinstance(ops, (list, tuple)) or not ops:
            raise ValueError("ops must be a list of at least one operation, such as [mixup]")
        self._ops = _joined([_parse(item, i) for i, item in enumerate(ops)])
        # Bytes as they are, which the core of the same release honours: albumentations is made for them.
        self.reads_bytes = isinstance(self._ops[0][1], Chain)
        self._inputs_key = inputs_key
        for label, op in self._ops:
            try:
                check_kind(target_kind, moves=op.moves, follows=op.follows, mixes=op.mixes)
                if isinstance(op, Chain):
                    op.check_kind(target_kind)
            except ValueError as error:
                raise ValueError(f"{label}{error}") from error
        self._range_is_known = input_range is not None
        if input_range is not None:
            self._check_range(*input_range)

    def forward(self, batch: Batch, step: StepInfo) -> Batch | None:
        """Return the changed batch, or None if nothing changed.

        Raises:
            ValueError: An operation does not fit the batch; the message names it.
        """
        path = self._find_images(batch)
        start = _in_numbers(batch, path)
        if path is not None:
            self._look_at_range(at(start.inputs, path))
        draw = Draw(step)
        result = start
        for label, op in self._ops:
            try:
                result = _change(op, result, path, draw)
            except ValueError as error:
                raise ValueError(f"{label}{error}") from error
        return None if result is start else _as_given(result, batch, path)

    def _find_images(self, batch: Batch) -> Path | None:
        """Return where the images are; None if no operation asks for any."""
        if all(isinstance(op, tokens.TokenOp) for _, op in self._ops):
            return None
        if isinstance(batch.inputs, Tensor):
            return ()
        # What is named need not be images for those operations that take anything.
        fits = is_image if self._inputs_key is None else _is_numbers
        what = "images, (B, C, H, W) in [0, 1] or bytes"
        return find(batch.inputs, self._inputs_key, fits, what, "inputs_key")

    def _look_at_range(self, images: Tensor) -> None:
        if not self._range_is_known and images.dtype != torch.uint8:
            low, high = images.aminmax()
            self._check_range(low.item(), high.item())
            self._range_is_known = True

    def _check_range(self, low: float, high: float) -> None:
        """Refuse numbers that an operation would cut, or take for others, without a word."""
        if low >= -_HALF_A_LEVEL and high <= 1 + _HALF_A_LEVEL:
            return
        for label, op in self._ops:
            if op.needs_levels:
                where = op.label if isinstance(op, Chain) else label
                raise ValueError(
                    f"{where}it works on grey levels from 0 to 1, and the inputs reach from {low:g} to "
                    f"{high:g}; give images of 0 to 255 as uint8 or divide them by 255, and leave it to mean "
                    "and std of the data, which come after augmentation, to standardise them"
                )


def _parse(item: str | dict[str, Any], position: int) -> tuple[str, Op | Transform]:
    """Return a label for messages and the operation."""
    name, options = _split(item, position)
    label = f"ops[{position}] {name}: "
    try:
        if name in _KNOWN:
            return label, _make_op(_KNOWN[name], options)
        if name.startswith(PREFIX) or name[:1].isupper():
            return label, make_transform(name, options, position)
    except ValueError as error:
        own = name.removeprefix(PREFIX).lower()
        hint = f" (ringfence's own operation is '{own}')" if name not in OPS and own in OPS else ""
        raise ValueError(f"{label}{error}{hint}") from error
    raise ValueError(
        f"ops[{position}]: no operation '{name}'{nearest(name, _KNOWN)}; known are {', '.join(_KNOWN)}, and "
        "the transforms of albumentations by their own names, such as ElasticTransform"
    )


def _split(item: object, position: int) -> tuple[str, Mapping[str, Any]]:
    if isinstance(item, str):
        return item, {}
    if isinstance(item, Mapping) and len(item) == 1:
        ((name, options),) = item.items()
        if isinstance(name, str) and (options is None or isinstance(options, Mapping)):
            return name, options or {}
    raise ValueError(
        f"ops[{position}] is {item!r:.80}; it must be a name, or one name with its options, such as "
        "{mixup: {alpha: 0.2}}"
    )


def _make_op(cls: type[Op], options: Mapping[str, Any]) -> Op:
    known = option_names(cls)
    for option in options:
        if option not in known:
            raise ValueError(
                f"no option '{option}'{nearest(str(option), known)}; it takes {', '.join(known)}"
            )
    return cls(**options)


def _joined(items: list[tuple[str, Op | Transform]]) -> list[tuple[str, Op | Chain]]:
    """Join transforms of albumentations that follow each other, so that a batch is converted once for all."""
    joined: list[tuple[str, Op | Chain]] = []
    for label, item in items:
        if isinstance(item, Op):
            joined.append((label, item))
        elif joined and isinstance(joined[-1][1], Chain):
            joined[-1] = ("", Chain((*joined[-1][1].transforms, item)))
        else:
            joined.append(("", Chain((item,))))  # says itself which of its transforms failed
    return joined


def _is_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.dtype == torch.uint8


def _in_numbers(batch: Batch, path: Path | None) -> Batch:
    """Return the batch with images of bytes in a dict or a list as float32 in [0, 1]."""
    if not path or at(batch.inputs, path).dtype != torch.uint8:
        return batch
    images = at(batch.inputs, path).to(torch.float32).div_(_LEVELS)
    return batch.with_(inputs=put(batch.inputs, path, images))


def _as_given(result: Batch, batch: Batch, path: Path | None) -> Batch:
    """Return the result with such images in bytes again."""
    if not path or at(batch.inputs, path).dtype != torch.uint8:
        return result
    images = at(result.inputs, path).mul(_LEVELS).round_().clamp_(0, _LEVELS).to(torch.uint8)
    return result.with_(inputs=put(result.inputs, path, images))


def _change(op: Op | Chain, batch: Batch, path: Path | None, draw: Draw) -> Batch:
    """Return the batch after one operation, ``batch`` itself if nothing changed.

    Raises:
        ValueError: The operation does not fit the batch.
    """
    if path is None or isinstance(op, tokens.TokenOp):
        check_targets(batch, moves=False, follows=False, mixes=op.mixes)
        return op.change(batch, draw)
    images = batch.with_(inputs=at(batch.inputs, path)) if path else batch
    _check_fit(op, images)
    if op.moves and path:
        _check_others(batch, path)
    changed = op.change(images, draw)
    if changed is images:
        return batch
    return changed.with_(inputs=put(batch.inputs, path, changed.inputs)) if path else changed


def _check_others(batch: Batch, path: Path) -> None:
    """Refuse to move images away from what lies over them in the inputs; images beside them are others."""
    size = at(batch.inputs, path).shape[2:]
    for name, tensor in others(batch.inputs, path).items():
        if tensor.shape[2:] and tensor.shape[-2:] == size and not is_image(tensor):
            raise ValueError(
                f"it moves pixels, and '{name}' of the inputs has the size of the images, which it would no "
                "longer fit"
            )


def _check_fit(op: Op | Chain, batch: Batch) -> None:
    inputs = batch.inputs
    # Bytes are what a chain is given in place of the numbers that they stand for.
    is_bytes = isinstance(op, Chain) and inputs.dtype == torch.uint8
    dtype = torch.float32 if is_bytes else inputs.dtype
    if op.needs_images and (inputs.dim() != _IMAGE_DIMS or dtype != torch.float32):
        raise ValueError(
            f"it works on images, (B, C, H, W) torch.float32; this batch is {tuple(inputs.shape)} {dtype}"
        )
    check_targets(batch, moves=op.moves, follows=op.follows, mixes=op.mixes)
