"""What a trusted plugin finds around its calls, as in a sandbox; the trainer is given back its own."""

from __future__ import annotations

import ctypes
import random
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.random import mtrand

from ..reproducibility.seeding import seed_everything

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

#: Bytes of the state of numpy's Mersenne Twister: 624 words and a position.
_TWISTER_BYTES = 625 * 4
#: The generator behind the functions of ``random``.
_PYTHONS: Any = random.getstate.__self__  # type: ignore[attr-defined]
#: The object behind numpy's, which keeps the second number of a pair of normal ones.
_NUMPYS: Any = np.random.get_state.__self__  # type: ignore[attr-defined]


def openblas_pools() -> ThreadpoolController:
    """Return a handle on the thread pools of numpy and others; of the libraries loaded by now only."""
    # It changes the environment as it is imported.
    from threadpoolctl import ThreadpoolController  # noqa: PLC0415

    return ThreadpoolController().select(internal_api="openblas")


class CallContext:
    """Gives each call of one plugin seeded generators, its threads and no gradients, and takes them back.

        with surroundings(seed):
            ...

    It is entered before each call, so what the trainer seldom touches is not saved and put
    back each time: numpy's and Python's generators take 170 µs for that.

    Args:
        threads: Threads of torch.

    Attributes:
        pools: Thread pools of BLAS, set to one thread as a sandbox's are.
    """

    def __init__(self, threads: int) -> None:
        self.pools = openblas_pools()
        self._threads = threads
        self._seed = 0
        self._no_grad = torch.no_grad()
        self._numpy = _Numpy()
        self._python = _Python()
        self._torch_state: torch.Tensor | None = None
        self._torch_threads = threads
        self._pool_threads: list[tuple[Any, int]] = []

    def __call__(self, seed: int) -> Self:
        """Let the next call draw from ``seed``."""
        self._seed = seed
        return self

    def __enter__(self) -> None:
        self._torch_state = torch.get_rng_state()
        self._numpy.lend()
        self._python.save()
        seed_everything(self._seed)
        self._torch_threads = torch.get_num_threads()
        if self._torch_threads != self._threads:
            torch.set_num_threads(self._threads)
        for pool in self.pools.lib_controllers:
            threads = pool.get_num_threads()
            if threads != 1:
                self._pool_threads.append((pool, threads))
                pool.set_num_threads(1)
        self._no_grad.__enter__()

    def __exit__(self, *error: object) -> None:
        self._no_grad.__exit__(*error)
        for pool, threads in self._pool_threads:
            pool.set_num_threads(threads)
        self._pool_threads.clear()
        torch.set_num_threads(self._torch_threads)
        self._python.restore()
        self._numpy.take_back()
        if self._torch_state is not None:
            torch.set_rng_state(self._torch_state)
            self._torch_state = None


class _Numpy:
    """Lends numpy's global functions a generator, so that the trainer's own is not touched.

    numpy drops the second number of a pair of normal ones as it changes generators. Whether
    the trainer had one waiting its whole state tells, which is asked for whenever the trainer has
    drawn, or gone back to an earlier state, since the last call: the memory of its generator shows
    that, and of the object that keeps the second number.
    """

    def __init__(self) -> None:
        self._lent = np.random.MT19937(0)
        self._own: Any = None
        #: Of its own generator, if that is of numpy's default kind; what is in other kinds nobody can tell.
        self._state: _Memory | None = None
        self._pair = _Memory.of(_NUMPYS)
        self._seen: tuple[bytes, bytes] | None = None
        self._waiting: dict[str, Any] | None = None

    def lend(self) -> None:
        own = mtrand.get_bit_generator()
        if own is not self._own:
            known = type(own) is np.random.MT19937
            self._state = _Memory(own.ctypes.state_address, _TWISTER_BYTES) if known else None
            self._own, self._seen = own, None
        seen = None if self._state is None else (self._state.read(), self._pair.read())
        if seen is None or seen != self._seen or self._waiting is not None:
            state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - the one that is shared
            self._seen = seen
            self._waiting = state if state["has_gauss"] else None
        mtrand.set_bit_generator(self._lent)

    def take_back(self) -> None:
        mtrand.set_bit_generator(self._own)
        if self._waiting is not None:
            np.random.set_state(self._waiting)  # noqa: NPY002


class _Python:
    """Keeps the state of ``random``; asks for it again only if the trainer has drawn since."""

    def __init__(self) -> None:
        self._state: Any = None
        self._memory = _Memory.of(_PYTHONS)
        self._seen: tuple[bytes, float | None] | None = None

    def save(self) -> None:
        seen = self._memory.read(), _PYTHONS.gauss_next
        if seen != self._seen:
            self._state, self._seen = random.getstate(), seen

    def restore(self) -> None:
        random.setstate(self._state)


class _Memory:
    """Some memory of an object that lives as long as this does, at the least.

    Args:
        address: Where it begins.
        nbytes: How much of it.
    """

    __slots__ = ("_bytes",)

    def __init__(self, address: int, nbytes: int) -> None:
        self._bytes = (ctypes.c_char * nbytes).from_address(address)

    @classmethod
    def of(cls, thing: object) -> Self:
        """What follows the head of an object of CPython: for generators of random numbers, their states."""
        head = object.__basicsize__
        return cls(id(thing) + head, type(thing).__basicsize__ - head)

    def read(self) -> bytes:
        """Return a copy of what is there now."""
        return self._bytes.raw
