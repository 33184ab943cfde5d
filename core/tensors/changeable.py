"""The argument that a method changes, with the memory that its result goes to."""

from __future__ import annotations

import torch
from torch import Tensor

from ..hooks.types import AnotherPass, TensorMap

#: What is copied at once, where that is much faster than all of it: half of a small second-level cache.
PIECE_BYTES = 1 << 19


class Changeable(TensorMap):
    """The argument that a method changes, which knows the memory that its result goes to.

    No name that plugins import: one that uses ``draft`` asks whether it is there.

    Args:
        tensors: The argument.
        place: Writable and of the same layout; the argument's own memory where the plugin is trusted.
    """

    __slots__ = ("_draft", "_pieces", "_place")

    def __init__(self, tensors: TensorMap, place: TensorMap) -> None:
        super().__init__(tensors.specs, tensors.buffer)
        self._place = place
        self._draft: TensorMap | None = None
        self._pieces: list[tuple[Tensor, Tensor]] = []
        if place.buffer.data_ptr() != tensors.buffer.data_ptr():
            target = place.buffer[: tensors.buffer.numel()]
            self._pieces = list(
                zip(*(torch.split(each, PIECE_BYTES) for each in (target, tensors.buffer)), strict=True)
            )

    def draft(self) -> TensorMap:
        """Return a writable copy to change and return, which then costs no further copy.

        It is in use until the call ends, and changes after that; ``clone`` is for what is kept.
        """
        for target, source in self._pieces:
            target.copy_(source)
        self._draft = self._place
        if torch.is_grad_enabled():
            # In views of its own: what they keep of a graph that is written there ends with the call.
            self._draft = TensorMap(self._place.specs, self._place.buffer.detach())
        return self._draft

    def begin(self) -> Changeable:
        """Get ready for a call, whatever became of the last one."""
        self._draft = None
        return self

    def result(self, returned: object) -> object:
        """Return the result of a call: what it returned, or a draft that it took and did not return.

        In the memory of a trusted plugin's argument what was changed is changed; it counts in a sandbox too,
        whether the plugin returns nothing or the argument.
        """
        if returned is None or returned is self._draft:
            return None if self._draft is None else self._place
        if returned is self:
            return returned if self._draft is None and self._pieces else self._place
        if isinstance(returned, AnotherPass) and self.result(returned.parameters) is self._place:
            return AnotherPass(self._place)
        return returned
