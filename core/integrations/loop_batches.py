"""Batches as a loop has them, and as plugins are given them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor

from ..hooks.errors import DataError
from ..hooks.types import Batch
from ..tensors.byte_batch import ByteBatch

_Item = TypeVar("_Item")
_PAIR = 2
#: Key of a dict, beside those of inputs and targets.
_INDICES = "indices"


@dataclass(frozen=True, slots=True)
class BatchForm:
    """How to read a loop's batches, and to write them back.

    Attributes:
        keys: Of inputs and targets, where a batch is a dict.
        num_classes: K, where targets are classes; None where they are numbers.
    """

    keys: tuple[str, str] = ("inputs", "targets")
    num_classes: int | None = None

    def read(self, item: object) -> Batch:
        """Return a batch as plugins are given it, in host memory.

        Raises:
            DataError: It is none of the forms that there are, or has no samples in common.
        """
        if isinstance(item, Batch):
            return item
        inputs, targets = (_tensor(item, part) for part in self._parts(item))
        if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets):
            raise DataError(
                f"a batch has inputs of shape {tuple(inputs.shape)} and targets of shape "
                f"{tuple(targets.shape)}; both need one entry a sample"
            )
        kind = ByteBatch if inputs.dtype == torch.uint8 else Batch
        return kind(inputs, targets, _indices(item, len(inputs)), self.num_classes)

    def read_from_loader(self, item: object, number: int) -> Batch:
        """Return a batch as ``read`` does, before any plugin has seen it.

        Args:
            item: As the loader gave it.
            number: Its place in the pass, from 0.

        Raises:
            DataError: As in ``read``, or its targets are none of the classes that there are.
        """
        batch = self.read(item)
        if batch.num_classes is not None and not batch.targets.is_floating_point() and len(batch.targets):
            low, high = map(int, batch.targets.aminmax())
            if low < 0 or high >= batch.num_classes:
                raise DataError(
                    f"batch {number} of the loader has the target {low if low < 0 else high}; with "
                    f"num_classes={batch.num_classes} classes are 0 … {batch.num_classes - 1}. Number the "
                    "targets from 0, or give plugin_host as many classes as there are (None for numbers)"
                )
        return batch

    def write(self, item: _Item, batch: Batch) -> _Item:
        """Return ``item`` with the inputs and targets of ``batch``, on the devices where its own were."""
        if isinstance(item, Batch):
            return cast("_Item", batch)
        old = self._parts(item)
        new = [
            tensor.to(was.device) if isinstance(was, Tensor) else tensor
            for tensor, was in zip((batch.inputs, batch.targets), old, strict=True)
        ]
        whole: Any = item
        if isinstance(item, Mapping):
            return cast("_Item", {**whole, **dict(zip(self.keys, new, strict=True))})
        return cast("_Item", type(whole)(new))

    def _parts(self, item: object) -> tuple[object, object]:
        if type(item) in {tuple, list}:
            pair: Any = item
            if len(pair) == _PAIR:
                return pair[0], pair[1]
        if isinstance(item, Mapping):
            missing = [key for key in self.keys if key not in item]
            if not missing:
                return item[self.keys[0]], item[self.keys[1]]
            raise DataError(
                f"a batch is a dict without {' and '.join(map(repr, missing))}; it has "
                f"{', '.join(map(repr, item))}. Say where inputs and targets are: "
                "plugin_host(…, batch_keys=(INPUTS, TARGETS))"
            )
        raise DataError(
            f"a batch is a {type(item).__name__}; plugins can be given (inputs, targets), a dict that has "
            "both, or a ringfence.Batch. Have the loader give one of these, its collate_fn for example"
        )


def _indices(item: object, count: int) -> Tensor:
    """Return the places of samples in the training data, where a dict tells them; in the batch otherwise."""
    given = item.get(_INDICES) if isinstance(item, Mapping) else None
    if isinstance(given, Tensor) and given.dtype == torch.int64 and given.shape == (count,):
        return given.cpu()
    # A call's seed holds its step and batch already: within that, places tell samples apart.
    return torch.arange(count)


def _tensor(item: object, part: object) -> Tensor:
    if not isinstance(part, Tensor):
        raise DataError(
            f"a batch, a {type(item).__name__}, holds a {type(part).__name__} where a tensor is needed; "
            "plugins are given inputs and targets that are a tensor each"
        )
    return part.detach().cpu()


class BatchSource(Protocol):
    """Runs plugins over the batches of a loader, one pass after another."""

    def run_pass(self, loader: Iterable[_Item]) -> Iterator[_Item]:
        """Yield what plugins make of the batches of a loader, each in the form in which it came."""


class AugmentedLoader(Generic[_Item]):
    """A loader whose batches plugins have changed; each ``iter`` is a pass over the other loader.

    Whatever else is asked of it, such as ``dataset``, is the other's.

    Args:
        source: Runs the plugins.
        loader: Of batches.
    """

    def __init__(self, source: BatchSource, loader: Iterable[_Item]) -> None:
        self._source = source
        self._loader = loader

    def __iter__(self) -> Iterator[_Item]:
        return self._source.run_pass(self._loader)

    def __len__(self) -> int:
        loader: Any = self._loader
        return len(loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)
