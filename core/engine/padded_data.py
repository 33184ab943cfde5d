"""Sequences of different lengths in memory, of which a batch is as long as its longest."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..hooks.trees import Tree, map_tensors
from ..hooks.types import Batch, derive_seed
from ..tensors.buffer_pool import BufferPool
from .data import Dataset

#: Batches whose samples are sorted together: enough to find neighbours of like length, few enough that those
#: of a batch differ from epoch to epoch.
_SORTED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class PaddedDataset(Dataset):
    """Sequences that are stored at one length L: inputs are (N, L), and so are targets at positions.

    Attributes:
        lengths: (N,) int64: at how many positions of each row something stands; the others come after.
        by_length: Whether an epoch puts sequences of like lengths into a batch: less of it is padding.
    """

    lengths: Tensor = field(kw_only=True)
    by_length: bool = False

    @property
    def varies(self) -> bool:
        """Whether sizes of a batch may differ from those of the next."""
        return True

    def arranged(self, places: Tensor, batch_size: int, seed: int, epoch: int) -> Tensor:
        """Return ``places`` by length, where that is asked for.

        Windows of them are sorted and cut into batches, and these shuffled; a last one that is short stays
        the last.
        """
        if not self.by_length:
            return places
        generator = torch.Generator().manual_seed(derive_seed(seed, "order of batches", epoch))
        lengths = self.lengths[self.rows_at(places)]
        arranged = []
        for begin in range(0, len(places), _SORTED_AT_ONCE * batch_size):
            window = slice(begin, begin + _SORTED_AT_ONCE * batch_size)
            found = places[window][lengths[window].argsort(stable=True)]
            count = len(found) // batch_size
            whole = found[: count * batch_size].view(count, batch_size)
            shuffled = whole[torch.randperm(count, generator=generator)]
            arranged += [shuffled.flatten(), found[count * batch_size :]]
        return torch.cat(arranged)

    def stored(self, indices: Tensor, spares: BufferPool | None = None) -> Batch:
        """Copy the samples at ``indices``, (B,) int64, as far as the longest of them reaches."""
        del spares
        longest = max(1, int(self.lengths[indices].max()))

        def take(tree: Tree, *, cut: bool) -> Tree:
            return map_tensors(
                lambda tensor: (tensor[:, :longest] if cut else tensor).index_select(0, indices), tree
            )

        targets = take(self.targets, cut=self.at_positions)
        return Batch(take(self.inputs, cut=True), targets, indices, self.num_classes)
