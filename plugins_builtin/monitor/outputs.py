"""How sure a classifier is of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ringfence import Batch


def classification(batch: Batch, outputs: Tensor) -> dict[str, float]:
    """Return accuracy, confidence and entropy, each a mean over the batch.

    Args:
        batch: Targets are class numbers, or probabilities whose largest counts as the class.
        outputs: (B, K) logits.

    Returns:
        ``accuracy``; ``confidence``, the mean largest probability; ``entropy`` in
        nats, between 0 and log K. Nothing for a regression.
    """
    if batch.num_classes is None or outputs.shape != (len(batch), batch.num_classes) or not len(batch):
        return {}
    logs = torch.log_softmax(outputs.float(), dim=1)
    probabilities = logs.exp()
    targets = batch.targets.argmax(dim=1) if batch.targets.is_floating_point() else batch.targets
    return {
        "accuracy": float((outputs.argmax(dim=1) == targets).float().mean()),
        "confidence": float(probabilities.amax(dim=1).mean()),
        # 0 · log 0 is 0: entr knows that where a product does not.
        "entropy": float(torch.special.entr(probabilities).sum(dim=1).mean()),
    }
