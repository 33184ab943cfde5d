"""The plugin: a list of operations from the job, applied to each batch in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ringfence import Batch, StepInfo, passthrough

from . import colour, erase, geometry, mix, policy
from .draw import Draw
from .external import PREFIX, Chain, Transform, make_transform
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
OPS: dict[str, type[Op]] = {cls.name: cls for cls in _CLASSES}

_IMAGE_DIMS = 4
#: What rounding may have added is no other range.
_HALF_A_LEVEL = 0.5 / 255


def names() -> tuple[str, ...]:
    """Return the names of the operations that need no albumentations, in the order of the documentation."""
    return tuple(OPS)


class Augment:
    """Change batches of images before the model sees them.

    Args:
        ops: What to do, in order. Each is a name, or a mapping of one name to its options; ``names()`` lists
            them, and ``docs/augment.md`` their options. A name in capitals, or one that starts with
            ``albumentations.``, is that transform of albumentations.
        input_range: Least and largest number of the training inputs. ringfence fills it in; without it the
            first batch is looked at.

    Raises:
        ValueError: An operation or option is unknown or out of range; the message says where.
    """

    role = "augment"
    backward = passthrough

    def __init__(
        self, ops: list[str | dict[str, Any]], input_range: tuple[float, float] | None = None
    ) -> None:
        if not isinstance(ops, (list, tuple)) or not ops:
            raise ValueError("ops must be a list of at least one operation, such as [mixup]")
        self._ops = _joined([_parse(item, i) for i, item in enumerate(ops)])
        # Bytes as they are, which the core of the same release honours: albumentations is made for them.
        self.reads_bytes = isinstance(self._ops[0][1], Chain)
        self._range_is_known = input_range is not None
        if input_range is not None:
            self._check_range(*input_range)

    def forward(self, batch: Batch, step: StepInfo) -> Batch | None:
        """Return the changed batch, or None if nothing changed.

        Raises:
            ValueError: An operation does not fit the batch; the message names it.
        """
        if not self._range_is_known and batch.inputs.dtype != torch.uint8:
            low, high = batch.inputs.aminmax()
            self._check_range(low.item(), high.item())
            self._range_is_known = True
        draw = Draw(step)
        result = batch
        for label, op in self._ops:
            try:
                _check_fit(op, result)
                result = op.change(result, draw)
            except ValueError as error:
                raise ValueError(f"{label}{error}") from error
        return None if result is batch else result

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
        if name in OPS:
            return label, _make_op(OPS[name], options)
        if name.startswith(PREFIX) or name[:1].isupper():
            return label, make_transform(name, options, position)
    except ValueError as error:
        own = name.removeprefix(PREFIX).lower()
        hint = f" (ringfence's own operation is '{own}')" if name not in OPS and own in OPS else ""
        raise ValueError(f"{label}{error}{hint}") from error
    raise ValueError(
        f"ops[{position}]: no operation '{name}'{nearest(name, OPS)}; known are {', '.join(OPS)}, and the "
        "transforms of albumentations by their own names, such as ElasticTransform"
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


def _check_fit(op: Op | Chain, batch: Batch) -> None:
    inputs, targets = batch.inputs, batch.targets
    # Bytes are what a chain is given in place of the numbers that they stand for.
    is_bytes = isinstance(op, Chain) and inputs.dtype == torch.uint8
    dtype = torch.float32 if is_bytes else inputs.dtype
    if op.needs_images and (inputs.dim() != _IMAGE_DIMS or dtype != torch.float32):
        raise ValueError(
            f"it works on images, (B, C, H, W) torch.float32; this batch is {tuple(inputs.shape)} {dtype}"
        )
    if (
        op.moves
        and batch.num_classes is None
        and targets.shape[2:]
        and targets.shape[-2:] == inputs.shape[-2:]
    ):
        raise ValueError(
            "it moves pixels, and the targets of this job are images, which would no longer fit their inputs"
        )
