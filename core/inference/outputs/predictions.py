"""Predictions: what a model's outputs say of samples."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from ...hooks.trees import map_tensors, tensors_of
from ...tensors.tree_form import grow, paths_of


@dataclass(frozen=True)
class OutputMeaning:
    """What the outputs of a model stand for.

    Attributes:
        shape: Of one sample's: (K,) with K classes, otherwise the numbers that are predicted.
        is_classes: They are logits of classes.
        class_names: One a class, or none.
        by_position: They are logits of classes at each position, (K, …).
        classes_last: Those are (…, K).
        varies: Sizes may differ from sample to sample; that of the classes does not.
        is_any: They are whatever the model returns, as the loss of the run was its own.
    """

    shape: tuple[int, ...]
    is_classes: bool
    class_names: tuple[str, ...] = ()
    by_position: bool = False
    classes_last: bool = False
    varies: bool = False
    is_any: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each class: its number where it has none."""
        return self.class_names or tuple(map(str, range(self.shape[0])))


@dataclass(frozen=True)
class Predictions:
    """What a model says of samples.

    Attributes:
        outputs: (N, K) float32: a logit for each class, or the numbers that are predicted; (N, K, …) of
            classes at each position, or (N, …, K) as the model has it. Of a run with a loss of its own what
            the model returns: a tensor (N, …), or dicts and lists of such. Where sizes differ from sample to
            sample: a list with those of each.
        meaning: What they stand for.
        indices: Place of each sample among all that were given, (N,) int64: there are gaps where photos were
            passed over.
        files: Name of each one's file, or None.
        notes: What the user should know of how the samples were read, as sentences.
        by_sample: Whether ``outputs`` is a list with an item for each sample.
    """

    outputs: Any
    meaning: OutputMeaning
    indices: Tensor
    files: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    by_sample: bool = False

    @classmethod
    def joined(cls, parts: Sequence[Self], notes: tuple[str, ...]) -> Self:
        """Return those of several batches as one."""
        files = [file for part in parts for file in part.files or ()]
        trees = [part.outputs for part in parts]
        sizes = [[(path, leaf.shape[1:]) for path, leaf in paths_of(tree)] for tree in trees]
        by_sample = any(each != sizes[0] for each in sizes)
        outputs: Any
        if by_sample:
            outputs = [item for part in parts for item in part.each()]
        else:
            leaves = zip(*(tensors_of(tree) for tree in trees), strict=True)
            outputs = grow((path, torch.cat(of)) for (path, _), of in zip(sizes[0], leaves, strict=True))
        indices = torch.cat([part.indices for part in parts])
        return cls(outputs, parts[0].meaning, indices, files or None, notes, by_sample)

    def __len__(self) -> int:
        return len(self.indices)

    def each(self) -> list[Any]:
        """Return the outputs of each sample."""
        if self.by_sample:
            found: list[Any] = self.outputs
            return found
        return [map_tensors(operator.itemgetter(i), self.outputs) for i in range(len(self))]

    @property
    def finite(self) -> Tensor:
        """Whether all outputs of a sample are finite, (N,) bool."""
        if self.by_sample:
            return torch.tensor(
                [all(leaf.isfinite().all() for leaf in tensors_of(one)) for one in self.outputs]
            )
        found = torch.ones(len(self), dtype=torch.bool)
        for leaf in tensors_of(self.outputs):
            found &= leaf.flatten(1).isfinite().all(1) if leaf.dim() > 1 else leaf.isfinite()
        return found

    def __repr__(self) -> str:
        is_classes = self.meaning.is_classes or self.meaning.by_position
        kind = f"{self.meaning.shape[0]} classes" if is_classes else "numbers"
        kind = "outputs" if self.meaning.is_any else kind
        return f"<Predictions of {kind} for {len(self):,} samples>"

    @cached_property
    def probabilities(self) -> Any:
        """Of each class, of the shape of ``outputs``.

        Raises:
            ValueError: The model predicts numbers.
        """
        if not self.meaning.is_classes and not self.meaning.by_position:
            raise ValueError("the model predicts numbers, which have no probabilities; see .outputs")
        return self._of_tensors(self.outputs, lambda outputs: outputs.softmax(self._class_dim))

    @cached_property
    def classes(self) -> Any:
        """The most probable class of each, (N,) int64, or at each position, (N, …); -1 where not finite.

        Where sizes differ from sample to sample a list with those of each.

        Raises:
            ValueError: The model predicts numbers.
        """
        dim = self._class_dim
        # Of the outputs: two that differ may be of one probability.
        likeliest = self._of_tensors(self.outputs, lambda outputs: outputs.argmax(dim))
        has_one = self._of_tensors(self.probabilities, lambda each: each.isfinite().all(dim))
        if self.by_sample:
            return [torch.where(*each, -1) for each in zip(has_one, likeliest, strict=True)]
        return torch.where(has_one, likeliest, -1)

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

    @property
    def _class_dim(self) -> int:
        """Where the classes lie in the outputs, or in those of a sample."""
        if self.meaning.classes_last:
            return -1
        return 0 if self.by_sample else 1

    def _of_tensors(self, values: Any, function: Callable[[Tensor], Tensor]) -> Any:
        return [function(each) for each in values] if self.by_sample else function(values)
