"""The global random generators: torch's, and those of Python and numpy, which a user's own code may take."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor

#: Of ``random.getstate()``.
PythonState = tuple[int, tuple[int, ...], float | None]
#: Words, position, whether a second normal number waits, and that number: of numpy's global Mersenne Twister.
NumpyState = tuple[tuple[int, ...], int, int, float]
_MERSENNE_TWISTER = "MT19937"


@dataclass(frozen=True, slots=True)
class TorchRng:
    """States of the generators that a forward pass may draw from.

    Attributes:
        cpu: uint8 bytes.
        cuda: uint8 bytes of the loop's device, None on the CPU.
    """

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> TorchRng:
        """Copy the present states; takes about 1 µs on the CPU."""
        return cls(
            torch.default_generator.get_state(),
            torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        )

    def restore(self, device: torch.device) -> None:
        """Make them the present states; a run that moved to another kind of device keeps what fits."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, device)


@dataclass(frozen=True, slots=True)
class RunRng:
    """States of all global generators, for a run to come back to; takes 50 µs.

    Attributes:
        torch_rng: As above.
        python: State of ``random``.
        numpy: State of numpy's global generator. None in a checkpoint of an earlier version, and where the
            user's code has put another kind of generator there: that one is left alone.
    """

    torch_rng: TorchRng
    python: PythonState
    numpy: NumpyState | None

    @classmethod
    def capture(cls, device: torch.device) -> RunRng:
        """Copy the present states."""
        return cls(TorchRng.capture(device), random.getstate(), _numpy_state())

    def restore(self, device: torch.device) -> None:
        """Make them the present states."""
        self.torch_rng.restore(device)
        random.setstate(self.python)
        if self.numpy is not None and _is_numpys_own():
            np.random.set_state(as_numpy(self.numpy))  # noqa: NPY002 - as below


class DrawWatch:
    """Tells whether anything was drawn from the generators of the host; a look takes 15 µs."""

    def __init__(self) -> None:
        self._state = _host_state()

    def has_seen(self) -> bool:
        """Tell whether it was since the last look."""
        before, self._state = self._state, _host_state()
        return any(a != b for a, b in zip(before, self._state, strict=True))


@contextlib.contextmanager
def preserved_rng(device: torch.device) -> Iterator[None]:
    """Put the generators back to where they stood: what is drawn in between changes nothing after it."""
    rng = RunRng.capture(device)
    try:
        yield
    finally:
        rng.restore(device)


def as_numpy(state: NumpyState) -> tuple[str, Any, int, int, float]:
    """Return a state as ``numpy.random.set_state`` takes it."""
    words, position, waiting, number = state
    return _MERSENNE_TWISTER, np.array(words, np.uint32), position, waiting, number


def _host_state() -> tuple[bytes, PythonState, bytes, Any]:
    """Return where the generators of the host stand, to be compared and nothing else."""
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - the one that is shared
    words = {name: value for name, value in state["state"].items() if not isinstance(value, np.ndarray)}
    keys = b"".join(value.tobytes() for value in state["state"].values() if isinstance(value, np.ndarray))
    of_torch = torch.default_generator.get_state().numpy().tobytes()
    return of_torch, random.getstate(), keys, (words, state.get("has_gauss"))


def _numpy_state() -> NumpyState | None:
    if not _is_numpys_own():
        return None
    state: Any = np.random.get_state()  # noqa: NPY002 - the one that is shared
    _, words, position, waiting, number = state
    return tuple(words.tolist()), position, waiting, number


def _is_numpys_own() -> bool:
    """Tell whether numpy's global generator is of the kind that numpy puts there."""
    return isinstance(mtrand.get_bit_generator(), np.random.MT19937)
