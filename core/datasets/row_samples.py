"""Samples made of rows by what is learned from the rows that are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..engine.data import Dataset
from ..engine.preprocessing import Preprocessing
from ..hooks.trees import Tree
from .row_file import Rows


class Encoder(Protocol):
    """Makes samples of rows, of any file, by what was learned once."""

    @property
    def values(self) -> Mapping[str, tuple[int, ...]]:
        """How many values inputs of whole numbers can take; see ``Data.values``."""

    @property
    def learned(self) -> str:
        """What was learned, in a sentence."""

    @property
    def gaps(self) -> tuple[str, ...]:
        """What of all rows so far could not be taken as it is, as sentences."""

    def inputs(self, rows: Rows, indices: Tensor) -> Tree:
        """Return the inputs of the rows at ``indices``, (M,) int64.

        Raises:
            DataError: A column is missing, or a cell does not fit; the message names its line.
        """

    def samples(self, rows: Rows, indices: Tensor) -> Dataset:
        """Return inputs and targets; raises as ``inputs``."""


class Learner(Protocol):
    """Learns from the rows that are trained on, once it is clear which these are."""

    @property
    def reader(self) -> str:
        """Name of the reader."""

    @property
    def rows(self) -> Rows:
        """The rows of all parts."""

    def learn(self, indices: Tensor) -> Mapping[str, Any]:
        """Return what is to be known to make samples, learned from ``indices``, (M,) int64; plain data."""

    def encoder(self, state: Mapping[str, Any]) -> Encoder:
        """Return what makes samples by what ``learn`` has returned, or by that of anybody's run.

        Raises:
            DataError: It is no such.
        """


def placeholder(rows: range, targets: Tensor, num_classes: int | None) -> Dataset:
    """Return a part of rows that are not yet samples: each one's number in place of its inputs.

    Args:
        rows: Which.
        targets: What parts are drawn by: (N,) int64 classes, or (N, …) float32.
        num_classes: None: they are numbers.
    """
    return Dataset(torch.arange(rows.start, rows.stop)[:, None], targets, num_classes)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Samples made of placeholders, and what of them the data tell.

    Attributes:
        parts: To train on, to judge by, to test on.
        preprocessing: What was learned, or given.
        encoder: What made them.
    """

    parts: tuple[Dataset, Dataset | None, Dataset | None]
    preprocessing: Preprocessing
    encoder: Encoder


def encode_parts(
    learner: Learner,
    train: Dataset,
    validation: Dataset | None,
    test: Dataset | None,
    known: Preprocessing | None,
) -> Encoded:
    """Learn from the rows that are trained on, and make samples of all.

    Args:
        learner: Of the reader.
        train: Placeholders of those to train on.
        validation: Of those to judge by.
        test: Of those to test on.
        known: What an earlier run has learned, where that is to be used instead.

    Raises:
        DataError: A row does not fit.
    """
    if known is None or known.reader != learner.reader:
        known = Preprocessing(learner.reader, learner.learn(_indices(train)))
    encoder = learner.encoder(known.state)

    def samples(part: Dataset) -> Dataset:
        return encoder.samples(learner.rows, _indices(part))

    parts = (
        samples(train),
        None if validation is None else samples(validation),
        None if test is None else samples(test),
    )
    return Encoded(parts, known, encoder)


def _indices(part: Dataset) -> Tensor:
    rows: Tensor = part.inputs[:, 0]
    return rows if part.rows is None else rows[part.rows]
