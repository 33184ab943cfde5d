"""Predictions: what a model's outputs say of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class OutputMeaning:
    """What the outputs of a model stand for.

    Attributes:
        shape: Of one sample's: (K,) with K classes, otherwise the numbers that are predicted.
        is_classes: They are logits of classes.
        class_names: One a class, or none.
        by_position: They are logits of classes at each position, (K, …).
    """

    shape: tuple[int, ...]
    is_classes: bool
    class_names: tuple[str, ...] = ()
    by_position: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each class: its number where it has none."""
        return self.class_names or tuple(map(str, range(self.shape[0])))


@dataclass(frozen=True)
class Predictions:
    """What a model says of samples.

    Attributes:
        outputs: (N, K) float32: a logit for each class, or the numbers that are predicted; (N, K, …) of
            classes at each position.
        meaning: What they stand for.
        indices: Place of each sample among all that were given, (N,) int64: there are gaps where photos were
            passed over.
        files: Name of each one's file, or None.
        notes: What the user should know of how the samples were read, as sentences.
    """

    outputs: Tensor
    meaning: OutputMeaning
    indices: Tensor
    files: Sequence[str] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.outputs)

    def __repr__(self) -> str:
        is_classes = self.meaning.is_classes or self.meaning.by_position
        kind = f"{self.meaning.shape[0]} classes" if is_classes else "numbers"
        return f"<Predictions of {kind} for {len(self):,} samples>"

    @cached_property
    def probabilities(self) -> Tensor:
        """Of each class, (N, K) float32, or (N, K, …) at each position.

        Raises:
            ValueError: The model predicts numbers.
        """
        if not self.meaning.is_classes and not self.meaning.by_position:
            raise ValueError("the model predicts numbers, which have no probabilities; see .outputs")
        return self.outputs.softmax(1)

    @cached_property
    def classes(self) -> Tensor:
        """The most probable class of each, (N,) int64, or at each position, (N, …); -1 where not finite.

        Raises:
            ValueError: The model predicts numbers.
        """
        return torch.where(self.probabilities.isfinite().all(1), self.outputs.argmax(1), -1)

    @property
    def class_names(self) -> list[str]:
        """The name of the most probable class of each; empty where outputs are not finite.

        Raises:
            ValueError: The model predicts numbers, or a class at each position.
        """
        if self.meaning.by_position:
            raise ValueError("the model predicts a class at each position: .classes are their numbers")
        names = (*self.meaning.names, "")
        return [names[i] for i in self.classes.tolist()]
