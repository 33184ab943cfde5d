"""What follows the pixels of images: masks and boxes among the targets.

A mask is (B, H, W) int64, the class of each pixel. Boxes are ``{"boxes": (B, M, 4), "labels": (B, M)}``,
x0, y0, x1, y1 in pixels from the upper left corner of the image; a label below 0 says that there is no box.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ringfence import Batch, tensors_of

from .warp import Move

#: Label of what is not there, or counts for nothing.
IGNORED = -100
#: Pixels a side of the smallest box that is kept, as torchvision's ``SanitizeBoundingBoxes`` has it.
LEAST_SIDE = 1.0
_MASK_DIMS = 3
_BOX_ENDS = 4


def has_mask(batch: Batch) -> bool:
    """Tell whether the targets are a class for each pixel, or for each of some other picture."""
    targets = batch.targets
    classes = batch.num_classes is not None and isinstance(targets, Tensor)
    return classes and targets.dim() == _MASK_DIMS and not targets.is_floating_point()


def has_boxes(batch: Batch) -> bool:
    """Tell whether the targets are boxes."""
    return isinstance(batch.targets, dict) and "boxes" in batch.targets


def kind_of(batch: Batch) -> str | None:
    """Return ``masks``, ``boxes``, or None if the targets are neither."""
    if has_mask(batch):
        return "masks"
    return "boxes" if has_boxes(batch) else None


def check_kind(kind: str | None, *, moves: bool, follows: bool, mixes: bool) -> None:
    """Check that ``masks`` or ``boxes`` can go with what an operation does; see ``check_targets``.

    Raises:
        ValueError: They cannot.
    """
    if kind and mixes:
        raise ValueError(f"it mixes samples and their classes, and the targets are {kind}; leave it out")
    if kind and moves and not follows:
        raise ValueError(f"it moves pixels, and the targets are {kind}, which cannot follow; leave it out")


def check_targets(batch: Batch, *, moves: bool, follows: bool, mixes: bool) -> None:
    """Check that the targets can go with what an operation does.

    Args:
        batch: Its inputs are the images, (B, C, H, W), if the operation moves their pixels.
        moves: It moves pixels.
        follows: It moves masks and boxes with them.
        mixes: It mixes samples.

    Raises:
        ValueError: They cannot; the message completes "<operation>: ".
    """
    check_kind(kind_of(batch), moves=moves, follows=follows, mixes=mixes)
    if mixes and not isinstance(batch.targets, Tensor):
        kind = type(batch.targets).__name__
        raise ValueError(f"it mixes samples and their classes, and the targets are a {kind}; leave it out")
    if moves:
        _check_moves(batch)


def moved_targets(batch: Batch, rows: Tensor, move: Move) -> Any:
    """Return the targets after images moved.

    Args:
        batch: Images and targets of the same batch.
        rows: (n,) samples that moved, int64.
        move: How they did, one after the other or all alike.
    """
    if has_mask(batch):
        targets: Tensor = batch.targets
        return targets.index_copy(0, rows, move_masks(targets[rows], move))
    if has_boxes(batch):
        size = batch.inputs.shape[2:]
        return with_boxes(batch.targets, rows, lambda boxes: move_boxes(boxes, move, *size))
    return batch.targets


def with_boxes(targets: dict[str, Any], rows: Tensor, move: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Return targets whose boxes moved; what leaves the picture gets the label -100 and zeros.

    Args:
        targets: With ``boxes`` and ``labels``.
        rows: (n,) samples that moved, int64.
        move: Takes boxes, (n, M, 4) float32, and returns them, cut at the edges of the picture.
    """
    old, labels = targets["boxes"][rows], targets["labels"][rows]
    new = move(old.float())
    there = labels >= 0
    gone = there & ((new[..., 2:] - new[..., :2]) < LEAST_SIDE).any(-1)
    new = new if old.is_floating_point() else new.round()
    new = torch.where(there[..., None], new.to(old.dtype), old).masked_fill(gone[..., None], 0)
    return {
        **targets,
        "boxes": targets["boxes"].index_copy(0, rows, new),
        "labels": targets["labels"].index_copy(0, rows, labels.masked_fill(gone, IGNORED)),
    }


def move_masks(masks: Tensor, move: Move) -> Tensor:
    """Return masks, (n, H, W), by the nearest pixel; what comes from outside is -100."""
    count, height, width = masks.shape
    x, y = ((place + 0.5).floor() for place in move.sources())
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    # What is not inside may be no number at all.
    place = torch.where(inside, y * width + x, 0).long().expand(count, -1, -1).flatten(1)
    return torch.where(inside, masks.flatten(1).gather(1, place).view_as(masks), IGNORED)


def move_boxes(boxes: Tensor, move: Move, height: int, width: int) -> Tensor:
    """Return the smallest boxes around moved ones, (n, M, 4), cut at the edges of the picture."""
    inside = _cut(boxes, height, width)
    if move.points is None:
        return _around_pixels(inside, move, height, width)
    x0, y0, x1, y1 = (inside - 0.5).unbind(-1)  # (n, M)
    x, y = move.points(torch.cat([x0, x1, x1, x0], 1), torch.cat([y0, y0, y1, y1], 1))
    x, y = (place.view(len(boxes), 4, -1) for place in (x, y))
    around = torch.stack([x.amin(1), y.amin(1), x.amax(1), y.amax(1)], -1) + 0.5
    return _cut(around, height, width)


def _around_pixels(boxes: Tensor, move: Move, height: int, width: int) -> Tensor:
    """Return the boxes around the pixels that are read from within each box."""
    x, y = ((place + 0.5).expand(len(boxes), height, width) for place in move.sources())
    result = torch.zeros_like(boxes)
    for i, sample in enumerate(boxes):
        x0, y0, x1, y1 = sample.t()[:, :, None, None]
        read = (x[i] >= x0) & (x[i] < x1) & (y[i] >= y0) & (y[i] < y1)  # (M, H, W)
        (left, right), (top, bottom) = _ends(read.any(1)), _ends(read.any(2))
        result[i] = torch.stack([left, top, right, bottom], -1)
    return result


def _ends(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first place that is True and the one after the last, (M,); twice 0 where none is."""
    first = seen.int().argmax(1)
    last = seen.shape[1] - seen.flip(1).int().argmax(1)
    return first, torch.where(seen.any(1), last, 0)


def _cut(boxes: Tensor, height: int, width: int) -> Tensor:
    return torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))


def _check_moves(batch: Batch) -> None:
    targets, size = batch.targets, batch.inputs.shape[2:]
    if has_boxes(batch):
        _check_boxes(targets, len(batch))
    if has_mask(batch):
        if targets.shape[1:] != size:
            raise ValueError(
                f"it moves pixels of images of {tuple(size)}, and the targets are classes at "
                f"{tuple(targets.shape[1:])}, which cannot follow"
            )
        return
    for tensor in tensors_of(targets):
        if tensor.shape[2:] and tensor.shape[-2:] == size:
            raise ValueError(
                "it moves pixels, and the targets of this job are images, which would no longer fit "
                "their inputs"
            )


def _check_boxes(targets: dict[str, Any], count: int) -> None:
    boxes, labels = targets["boxes"], targets.get("labels")
    shapes = [tuple(tensor.shape) if isinstance(tensor, Tensor) else None for tensor in (boxes, labels)]
    fit = (
        isinstance(boxes, Tensor)
        and isinstance(labels, Tensor)
        and boxes.shape == (count, *labels.shape[1:], _BOX_ENDS)
        and labels.dim() == 2  # noqa: PLR2004 - (B, M)
        and not labels.is_floating_point()
    )
    if not fit:
        raise ValueError(
            "it moves boxes, which are a tensor 'boxes' (B, M, 4), x0, y0, x1, y1 in pixels, and whole "
            f"numbers 'labels' (B, M), below 0 where there is none; these are {shapes[0]} and {shapes[1]}"
        )
    if "keypoints" in targets:
        raise ValueError("it moves pixels, and 'keypoints' of the targets cannot follow; leave it out")
