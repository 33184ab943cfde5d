"""What a model returned: how sure a classifier is of a batch, and what its outputs look like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ringfence import Batch

#: Numbers that are looked at together; a batch of large pictures has many more.
_AT_ONCE = 1 << 22
#: Longest side of a picture of a confusion matrix, and of one of its fields, in pixels.
_PICTURE_SIDE, _FIELD_SIDE = 1024, 32


@dataclass(frozen=True, slots=True)
class Classified:
    """How a classifier did on a batch.

    Attributes:
        scalars: ``accuracy``; ``confidence``, the mean largest probability; ``entropy`` in nats, between 0
            and log K. Means over the samples, or over the positions, that count.
        confusion: (K, K) int64, how often the class of a row was taken for that of a column; None if it was
            not asked for, or is too large to be drawn.
    """

    scalars: dict[str, float]
    confusion: Tensor | None


def prediction(outputs: Any) -> Tensor | None:
    """Return the prediction: the tensor itself, ``logits``, the only tensor, or the first of a list."""
    if isinstance(outputs, Tensor):
        return outputs
    first = outputs.get("logits") if isinstance(outputs, dict) else outputs[0] if outputs else None
    if isinstance(first, Tensor):
        return first
    found = [tensor for _, tensor in named(outputs)]
    return found[0] if len(found) == 1 else None


def named(tree: Any, root: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree with where they lie: keys and places joined by points."""
    if isinstance(tree, Tensor):
        yield root, tree
        return
    for step, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from named(item, f"{root}.{step}" if root else str(step))


def classification(batch: Batch, outputs: Tensor, *, confusion: bool) -> Classified | None:
    """Compare outputs with targets; None where these are no classes, or none counts.

    Args:
        batch: Targets are class numbers, (B, …), below 0 where none counts; or probabilities, (B, K), whose
            largest counts as the class.
        outputs: Logits, (B, K, …) or (B, …, K).
        confusion: Whether to count which class was taken for which.
    """
    targets, classes = batch.targets, batch.num_classes
    if classes is None or not isinstance(targets, Tensor):
        return None
    if targets.is_floating_point():
        targets = targets.argmax(dim=1)
    if outputs.shape == (*targets.shape, classes):
        outputs = outputs.movedim(-1, 1)
    if outputs.shape != (len(targets), classes, *targets.shape[1:]) or not outputs.is_floating_point():
        return None
    # A class below 0 counts for nothing, as one beyond the last, which a job that trains has not.
    counts = (targets >= 0) & (targets < classes)
    total = int(counts.sum())
    if not total:
        return None
    sums = torch.zeros(3, dtype=torch.float64)
    fields = classes * classes if confusion and classes <= _PICTURE_SIDE else 0
    matrix = torch.zeros(fields, dtype=torch.int64)
    together = max(1, _AT_ONCE // max(1, outputs[0].numel()))
    for begin in range(0, len(outputs), together):
        logits, given, counted = (tensor[begin : begin + together] for tensor in (outputs, targets, counts))
        logs = torch.log_softmax(logits.float(), dim=1).movedim(1, -1)[counted]  # (n, K)
        probabilities, target, taken = logs.exp(), given[counted], logits.argmax(dim=1)[counted]
        sums[2] += (taken == target).sum()
        sums[0] += probabilities.amax(dim=1).double().sum()
        # 0 · log 0 is 0: entr knows that where a product does not.
        sums[1] += torch.special.entr(probabilities).sum(dim=1).double().sum()
        if fields:
            matrix += torch.bincount(target * classes + taken, minlength=fields)
    confidence, entropy, accuracy = (sums / total).tolist()
    scalars = {"accuracy": accuracy, "confidence": confidence, "entropy": entropy}
    return Classified(scalars, matrix.view(classes, classes) if fields else None)


def confusion_picture(confusion: Tensor) -> Tensor:
    """Return a picture of a confusion matrix, uint8 (H, W), white where all of a row are."""
    side = min(_FIELD_SIDE, _PICTURE_SIDE // len(confusion))
    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    levels = (shares * 255).round().to(torch.uint8)
    return levels.repeat_interleave(side, 0).repeat_interleave(side, 1)
