"""Operations on token ids, (B, L) whole numbers, and on their embeddings, (B, L, F)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ringfence import Batch

from .draw import Draw
from .locate import Path, at, find, put
from .mix import MixUp
from .op import Op
from .options import Flag, Integer, Integers, Key, Number, option

_MOST_IDS = 2**31 - 1
_TOKEN_DIMS = 2
_EMBEDDING_DIMS = 3


@dataclass(kw_only=True)
class TokenOp(Op):
    """An operation on the inputs of language models, one tensor or a dict with a mask beside it.

    Attributes:
        inputs_key: The tensor to work on; None: the only one that fits.
        mask_key: What is 0 where there is no token; there need be none.
    """

    needs_images: ClassVar[bool] = False
    needs_levels: ClassVar[bool] = False

    inputs_key: str | None = option(None, Key())
    mask_key: str = option("attention_mask", Key())

    @abstractmethod
    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Return the changed batch, given whole."""

    def mask(self, batch: Batch, shape: torch.Size) -> Tensor | None:
        """Return the mask of the batch, ``shape``, if it has one."""
        inputs = batch.inputs
        mask = inputs.get(self.mask_key) if isinstance(inputs, dict) else None
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.shape != shape:
            raise ValueError(f"'{self.mask_key}' of the inputs must be a tensor {tuple(shape)}, one a token")
        return mask

    def is_ids(self, tensor: Tensor, batch: Batch) -> bool:
        """Tell whether a tensor may be token ids."""
        return (
            tensor.dim() == _TOKEN_DIMS
            and tensor.dtype in {torch.int32, torch.int64}
            and not (isinstance(batch.inputs, dict) and tensor is batch.inputs.get(self.mask_key))
        )


@dataclass(kw_only=True)
class IdOp(TokenOp):
    """An operation on token ids; those in ``keep``, such as the ids of [CLS] and padding, are left alone."""

    keep: tuple[int, ...] = option((), Integers(0, _MOST_IDS, may_be_empty=True))

    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Return the batch with other ids."""
        path: Path = ()
        if not isinstance(batch.inputs, Tensor):
            path = find(
                batch.inputs,
                self.inputs_key or ("input_ids" if "input_ids" in batch.inputs else None),
                lambda tensor: self.is_ids(tensor, batch),
                "token ids, (B, L) int32 or int64",
                "the operation's inputs_key",
            )
        ids = at(batch.inputs, path)
        if not self.is_ids(ids, batch):
            raise ValueError(
                f"it works on token ids, (B, L) int32 or int64; these are {tuple(ids.shape)} {ids.dtype}"
            )
        mask = self.mask(batch, ids.shape)
        free = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask != 0
        if self.keep:
            free = free & ~torch.isin(ids, torch.tensor(self.keep, dtype=ids.dtype))
        self.check(batch, ids)
        changed = self.apply(ids, free, draw)
        return batch if changed is ids else batch.with_(inputs=put(batch.inputs, path, changed))

    def check(self, batch: Batch, ids: Tensor) -> None:
        """Check that the targets can go with what is done."""

    @abstractmethod
    def apply(self, ids: Tensor, free: Tensor, draw: Draw) -> Tensor:
        """Return new ids, (B, L), or ``ids`` itself; changed only where ``free``, (B, L) bool, is True."""


@dataclass(kw_only=True)
class TokenDropout(IdOp):
    """Replace tokens by the id of a mask, or of an unknown word. ``p`` is of a token.

    Source: Bowman et al. 2015, arXiv:1511.06349, section 3.1 (word dropout); p as in Iyyer et al. 2015,
    "Deep Unordered Composition Rivals Syntactic Methods", section 3.2, who found 0.3 best.
    """

    name: ClassVar[str] = "token_dropout"

    p: float = option(0.3, Number(0, 1))
    id: int = option(None, Integer(0, _MOST_IDS))

    def apply(self, ids: Tensor, free: Tensor, draw: Draw) -> Tensor:
        """Return ids with some replaced."""
        if self.p == 0:
            return ids
        dropped = free & (draw.uniform(0, 1, *ids.shape) < self.p)
        return ids.masked_fill(dropped, self.id)


@dataclass(kw_only=True)
class TokenSwap(IdOp):
    """Shuffle tokens so that none moves by more than ``distance`` places. ``p`` is of a sample.

    Places are counted among those tokens that may move; targets with a class for each token are refused.

    Source: Lample et al. 2017, arXiv:1711.00043, section 2.3: the order of i + U(0, k + 1), k 3.
    """

    name: ClassVar[str] = "token_swap"

    distance: int = option(3, Integer(1, 512))

    def check(self, batch: Batch, ids: Tensor) -> None:
        """Refuse targets that would have to move with the tokens."""
        targets = batch.targets
        if isinstance(targets, Tensor) and not targets.is_floating_point() and targets.shape == ids.shape:
            raise ValueError("it moves tokens, and the targets have a class for each token; leave it out")

    def apply(self, ids: Tensor, free: Tensor, draw: Draw) -> Tensor:
        """Return ids in another order."""
        chosen = draw.choose(self.p, len(ids))
        if chosen.numel() == 0:
            return ids
        ids_, free = ids[chosen], free[chosen]
        # In float64, where U(0, k + 1) never rounds up to k + 1 beside a place.
        place = free.cumsum(1) - 1 + draw.uniform(0, self.distance + 1, *ids_.shape).double()
        # Those that may not move come last in both orders, as they were.
        new = place.masked_fill(~free, torch.inf).argsort(dim=1, stable=True)
        old = (~free).to(torch.uint8).argsort(dim=1, stable=True)
        return ids.index_copy(0, chosen, ids_.scatter(1, old, ids_.gather(1, new)))


@dataclass(kw_only=True)
class TokenMixUp(TokenOp):
    """Blend the embeddings of each sample with those of another, and the targets; see ``mixup``.

    There is a token where either has one. ``p`` is of a batch, with ``per_sample`` of a sample.

    Source: Guo et al. 2019, arXiv:1905.08941, section 3.2 (wordMixup); alpha 1 as there.
    """

    name: ClassVar[str] = "token_mixup"
    mixes: ClassVar[bool] = True

    alpha: float = option(1.0, Number(0, 1000, low_included=False))
    per_sample: bool = option(default=False, kind=Flag())

    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Return mixed samples."""
        what = "embeddings, (B, L, F) floating point"
        path: Path = ()
        if not isinstance(batch.inputs, Tensor):
            path = find(batch.inputs, self.inputs_key, _is_embedding, what, "the operation's inputs_key")
        embeddings = at(batch.inputs, path)
        if not _is_embedding(embeddings):
            raise ValueError(f"it works on {what}; these are {tuple(embeddings.shape)} {embeddings.dtype}")
        mask = self.mask(batch, embeddings.shape[:2])
        mixup = MixUp(p=self.p, alpha=self.alpha, per_sample=self.per_sample)
        mixing = mixup.draw_mixing(len(batch), draw)
        if mixing is None:
            return batch
        inputs = put(batch.inputs, path, mixing.blend(embeddings))
        if mask is not None:
            inputs = {**inputs, self.mask_key: mixing.join_masks(mask)}
        return batch.with_(inputs=inputs, targets=mixing.blend_targets(batch))


def _is_embedding(tensor: Tensor) -> bool:
    return tensor.dim() == _EMBEDDING_DIMS and tensor.is_floating_point()
