"""Losses of tasks whose targets are no class and no numbers a sample: segmentation, sequences, embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..hooks.types import IGNORED
from .loss import Loss, by_sample

_PAIR = 2


@dataclass(frozen=True, slots=True)
class Dice(Loss):
    """One less the overlap of what is predicted and what is there, a mean over classes or labels and samples.

    Of logits (B, K, …) with class numbers (B, …), of which only one can be right; or with labels (B, K, …)
    from 0 to 1, of which several may be.

    Attributes:
        smooth: Added to overlap and sizes, above 0, so that a class that is nowhere counts as found.
        background: Whether class 0 counts.
        ignore_index: Class number of positions that do not count.

    Source: Sudre et al. 2017, arXiv:1707.03237, without weights of classes.
    """

    classes: ClassVar[bool | None] = None
    smooth: float = 1.0
    background: bool = True
    ignore_index: int = IGNORED

    def __post_init__(self) -> None:
        if not self.smooth > 0:
            raise ValueError(f"smooth is {self.smooth}; it must be above 0")

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        if targets.is_floating_point():
            said, there = outputs.sigmoid(), targets
        else:
            counted = targets != self.ignore_index
            classes = functional.one_hot(targets.where(counted, 0), outputs.shape[1])  # (B, …, K)
            said = outputs.softmax(1) * counted.unsqueeze(1)
            there = (classes * counted.unsqueeze(-1)).movedim(-1, 1).to(outputs.dtype)
        first = 0 if self.background else 1
        said, there = said.flatten(2)[:, first:], there.flatten(2)[:, first:]  # (B, K, P)
        overlap = (said * there).sum(2)
        sizes = said.sum(2) + there.sum(2)
        return (1 - (2 * overlap + self.smooth) / (sizes + self.smooth)).mean(1)

    def misfit(self, targets: Tensor, num_classes: int | None) -> str:
        """Say so if targets have no positions, or only the class that does not count."""
        if targets.dim() < (_PAIR if not targets.is_floating_point() else _PAIR + 1):
            return f"needs a class or labels at each position, and targets have shape {tuple(targets.shape)}"
        if not self.background and num_classes == 1:
            return "has background: false, which leaves no class of the one that the data have"
        return ""

    def outputs_shape(self, outputs: Tensor, targets: Tensor, num_classes: int | None) -> tuple[int, ...]:
        """Return (B, K, …)."""
        if targets.is_floating_point():
            return tuple(targets.shape)
        classes = num_classes or (outputs.shape[1] if outputs.dim() > 1 else 1)
        return (targets.shape[0], classes, *targets.shape[1:])


@dataclass(frozen=True, slots=True)
class CTC(Loss):
    """Connectionist temporal classification: a sequence of classes that may lie anywhere in a longer one.

    Outputs are logits (B, T, K), or a dict with those under ``logits`` and under ``lengths`` how many of the
    T count, (B,) int64. Targets are a dict: ``targets`` (B, S) int64, padded with anything, and ``lengths``
    (B,) int64. Each sample's loss is divided by the length of its target, as torch's mean is.

    Attributes:
        blank: Class that stands for none.
        zero_infinity: Count a sample whose target is longer than its outputs as 0, and not as infinite.

    Source: Graves et al. 2006, doi:10.1145/1143844.1143891.
    """

    classes: ClassVar[bool | None] = None
    takes_any: ClassVar[bool] = True
    blank: int = 0
    zero_infinity: bool = False

    def __post_init__(self) -> None:
        if self.blank < 0:
            raise ValueError(f"blank is {self.blank}; it must be a class number, at least 0")

    def per_sample(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs
        if isinstance(outputs, Mapping):
            lengths = outputs["lengths"]
        else:
            lengths = torch.full((len(logits),), logits.shape[1], dtype=torch.int64, device=logits.device)
        losses = functional.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            targets["targets"],
            lengths,
            targets["lengths"],
            blank=self.blank,
            reduction="none",
            zero_infinity=self.zero_infinity,
        )
        lengths_of_targets: Tensor = targets["lengths"]
        return losses / lengths_of_targets.clamp(min=1)

    def misfit(self, targets: Any, num_classes: int | None) -> str:  # noqa: ARG002 - of the targets' form alone
        """Say so if targets are no sequences with lengths."""
        if isinstance(targets, Mapping) and {"targets", "lengths"} <= targets.keys():
            return ""
        return "needs targets that are a dict of 'targets' (N, S) and 'lengths' (N,), int64 both"


@dataclass(frozen=True, slots=True)
class Cosine(Loss):
    """One less the cosine of the angle between outputs and targets, (B, …, D) both."""

    classes: ClassVar[bool | None] = False

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        cosines = functional.cosine_similarity(outputs, targets, dim=-1)
        return by_sample(1 - cosines)

    def misfit(self, targets: Tensor, num_classes: int | None) -> str:  # noqa: ARG002 - of the targets alone
        """Say so if targets are single numbers, which have no angle."""
        return "" if targets.dim() > 1 else "needs vectors, and targets are one number a sample"


@dataclass(frozen=True, slots=True)
class InfoNCE(Loss):
    """Contrastive loss of pairs: which of a batch's second embeddings belongs to each first one, and back.

    Outputs are two embeddings (B, D), as a tuple, a list or the values of a dict; row i of the one belongs to
    row i of the other, and all others of the batch are its negatives. Targets are not looked at. The batches
    of a step are not compared with each other: accumulating them is not the same as a larger batch.

    Attributes:
        temperature: What cosines are divided by, above 0.

    Source: van den Oord et al. 2018, arXiv:1807.03748; in both directions as Radford et al. 2021,
    arXiv:2103.00020.
    """

    classes: ClassVar[bool | None] = None
    takes_any: ClassVar[bool] = True
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")

    def per_sample(self, outputs: Any, targets: Any) -> Tensor:  # noqa: ARG002 - the pairs are in the outputs
        """Return the loss of each pair among those of the batch, shape (B,)."""
        pair = list(outputs.values() if isinstance(outputs, Mapping) else outputs)
        if len(pair) != _PAIR:
            raise ValueError(f"loss 'info_nce' takes two embeddings (B, D); the model returned {len(pair)}")
        first, second = (functional.normalize(embedding, dim=1) for embedding in pair)
        logits = first @ second.T / self.temperature  # (B, B)
        own = torch.arange(len(logits), device=logits.device)
        forth, back = (functional.cross_entropy(each, own, reduction="none") for each in (logits, logits.T))
        return (forth + back) / 2
