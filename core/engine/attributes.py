"""Python attributes of modules, neither parameters nor buffers: note them, restore them, tell what changed.

A module that counts in an attribute computes something else once it is resumed. Whether a model has such
state shows when it is run: what it held before is compared with what it holds after.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections import deque
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .extra_state import has_extra_state

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (list, dict, set, deque, bytearray)


#: Of a tensor or an array that is looked into and put back: who keeps data in a module does not count in it.
MAX_BYTES = 64 << 20
#: Stands for an object that is not put back.
_OTHER = object()


class Attributes:
    """The attributes of a model's modules at one moment.

    Args:
        model: Whose.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        # Known by what they are, and not by what is in them: that is looked after already.
        parts = (*self._modules.values(), *model.parameters(), *model.buffers())
        self._known = {id(part): part for part in parts}
        self._marks = {place: self._mark(value) for place, value in self._values()}
        self._copies = {place: self._copy(value) for place, value in self._values()}

    def changed(self) -> list[str]:
        """Return which attributes hold something else now, as ``"attribute 'x' of module 'a.b' (Class)"``.

        One whose module has ``get_extra_state`` is left out: that is what this is for.
        """
        found = [(name, key, self._modules[name]) for name, key in self._differing()]
        return [
            f"attribute '{key}' of module '{name}' ({type(module).__name__})"
            if name
            else f"attribute '{key}' of the model ({type(module).__name__})"
            for name, key, module in found
            if not has_extra_state(module)
        ]

    def restore(self) -> None:
        """Put back what is plain data, and take away what is new; objects of other kinds stay as they are."""
        for name, key in self._differing():
            attributes = self._modules[name].__dict__
            if (name, key) in self._copies:
                copied = self._copies[name, key]
            elif isinstance(attributes[key], (*_SCALARS, *_CONTAINERS, Tensor, np.ndarray)):
                del attributes[key]
                continue
            else:
                continue
            if copied is not _OTHER:
                attributes[key] = _refill(attributes.get(key), copied)

    def _differing(self) -> list[tuple[str, str]]:
        now = {place: self._mark(value) for place, value in self._values()}
        return [place for place in {**self._marks, **now} if self._marks.get(place) != now.get(place)]

    def _values(self) -> Iterator[tuple[tuple[str, str], Any]]:
        for name, module in self._modules.items():
            for key, value in module.__dict__.items():
                if key not in _MODULE_ATTRIBUTES:
                    yield (name, key), value

    def _mark(self, value: Any) -> Any:
        """Return what is equal exactly while ``value`` holds the same; None of what cannot be told."""
        if isinstance(value, _SCALARS):
            return type(value), repr(value)
        found = hashlib.blake2b()
        try:
            _Digest(found, self._known).dump(value)
        except Exception:  # noqa: BLE001 - whatever an object of the user's raises, it cannot be looked into
            return None
        return found.digest()

    def _copy(self, value: Any) -> Any:
        if isinstance(value, _SCALARS):
            return value
        if isinstance(value, Tensor):
            # One that belongs to a graph is made anew by each pass.
            is_left = value.requires_grad or id(value) in self._known or value.nbytes > MAX_BYTES
            return _OTHER if is_left else value.clone()
        if isinstance(value, np.ndarray):
            return _OTHER if value.nbytes > MAX_BYTES else value.copy()
        if not isinstance(value, _CONTAINERS):
            return _OTHER
        try:
            return copy.deepcopy(value, dict(self._known))
        except Exception:  # noqa: BLE001 - as above
            return _OTHER


class _Digest(pickle.Pickler):
    """Feeds an object's bytes to a hash, and what is known of it elsewhere by name; nothing is unpickled.

    Args:
        found: The hash.
        known: The model's modules, parameters and buffers, by ``id``.
    """

    def __init__(self, found: Any, known: Mapping[int, Any]) -> None:
        super().__init__(SimpleNamespace(write=found.update), protocol=5)
        # By what they hold, not by whether two places hold one object.
        self.fast = True
        self._known = known

    def persistent_id(self, obj: Any) -> Any:
        """Return what stands for an object; None of one that is looked into."""
        if id(obj) in self._known:
            return id(obj)
        if not isinstance(obj, Tensor):
            return None
        if obj.requires_grad:  # made anew by each pass
            return "graph"
        if obj.nbytes > MAX_BYTES:
            raise ValueError
        values = obj.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return str(obj.dtype), tuple(obj.shape), values.tobytes()


def _refill(present: Any, value: Any) -> Any:
    """Return ``value``, in the object that is there if it is of the same kind: others may hold it too."""
    if type(present) is not type(value):
        return value
    if isinstance(present, Tensor) and present.shape == value.shape and present.dtype == value.dtype:
        with torch.no_grad():
            return present.copy_(value)
    if isinstance(present, np.ndarray) and (present.shape, present.dtype) == (value.shape, value.dtype):
        np.copyto(present, value)
        return present
    if isinstance(present, _CONTAINERS):
        present.clear()
        (present.update if isinstance(present, dict | set) else present.extend)(value)
        return present
    return value
