"""Predictions as JSON Lines: an object for each sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from torch import Tensor

from ...hooks.trees import map_tensors
from .output import Output
from .predictions import Predictions


class JsonOutput(Output):
    """Writes ``index``, ``file``, ``class`` and ``probability``, or ``values``; null is a number not finite.

    Of a model that returns several tensors ``values`` are dicts and lists of those of the sample.

    ``probabilities`` are in the order of the classes.
    """

    def write(self, part: Predictions) -> None:
        """Write lines."""
        self.file.write(msgspec.json.Encoder().encode_lines(list(self._records(part))))

    def _records(self, part: Predictions) -> Iterator[dict[str, Any]]:
        begins = [{"index": index} for index in part.indices.tolist()]
        if part.files is not None:
            begins = [{**begin, "file": file} for begin, file in zip(begins, part.files, strict=True)]
        if not self.meaning.is_classes:
            for begin, values in zip(begins, _values(part), strict=True):
                yield {**begin, "values": values}
            return
        rows = part.probabilities.tolist()
        for begin, name, row in zip(begins, part.class_names, rows, strict=True):
            record = {**begin, "class": name or None, "probability": max(row)}
            yield {**record, "probabilities": row} if self.probabilities else record


def _values(part: Predictions) -> list[Any]:
    if isinstance(part.outputs, Tensor):
        values: list[Any] = part.outputs.tolist()
        return values
    return [map_tensors(Tensor.tolist, one) for one in part.each()]
