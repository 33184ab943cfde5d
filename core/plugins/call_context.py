"""The context of a trusted plugin's calls, as in a sandbox; the trainer is given back its own."""

from __future__ import annotations

import _random
import ctypes
import random
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.random import mtrand

from ..hooks.types import StepInfo
from ..reproducibility.seeding import seed_everything
from .result_checks import ResultError

#: Bytes of the state of numpy's Mersenne Twister: 624 words and a position.
_TWISTER_BYTES = 625 * 4
#: The generator behind the functions of ``random``.
_PYTHONS: Any = random.getstate.__self__  # type: ignore[attr-defined]
#: The object behind numpy's, which keeps the second number of a pair of normal ones.
_NUMPYS: Any = np.random.get_state.__self__  # type: ignore[attr-defined]
#: Calls from one in which it is seen that a plugin does not draw to the next: a look takes 20 µs.
_LOOK_EVERY = 16

#: What ``torch.no_grad`` calls; by itself it takes a third of the time.
_enable_grad = torch._C._set_grad_enabled  # noqa: SLF001

#: What tells how many threads a pool has, and what sets that.
_Pool = tuple[Callable[[], int], Callable[[int], object]]


def openblas_pools() -> list[_Pool]:
    """Return the thread pools of numpy and others; of the libraries loaded by now only."""
    # It changes the environment as it is imported.
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # noqa: PLC0415

    return [
        _pool(library) for library in ThreadpoolController().select(internal_api="openblas").lib_controllers
    ]


def _pool(library: Any) -> _Pool:
    """Look up its functions once: threadpoolctl does so in each call, which takes longer than they do."""
    if library.threading_layer == "openmp":
        return library.get_num_threads, library.set_num_threads
    look_up = library._get_symbol  # noqa: SLF001 - it knows how this library writes the names
    return look_up("openblas_get_num_threads"), look_up("openblas_set_num_threads")


class DrewError(ResultError):
    """A plugin that says of itself that it draws no random numbers has drawn some."""

    def __init__(self) -> None:
        super().__init__(
            "drew from a global generator of random numbers, and says by its attribute draws that it never "
            "does; leave draws out, or draw from step.generator()"
        )


class CallContext:
    """Gives each call of one plugin seeded generators, its threads and its autograd, and takes them back.

        with context(seed):
            ...

    It is entered before each call, so what the trainer seldom touches is not saved and put
    back each time: numpy's and Python's generators take 170 µs for that. A plugin that says that it never
    draws is believed, and looked at in its first call and now and then: one that draws in other calls moves
    the trainer's generators unseen.

    Args:
        threads: Threads of torch.
        autograd: Whether torch records graphs.

    Attributes:
        draws: Whether the plugin may draw.
        pools: Thread pools of BLAS, set to one thread as a sandbox's are.
    """

    def __init__(self, threads: int, *, autograd: bool = False) -> None:
        self.draws = True
        self.pools = openblas_pools()
        self._threads = threads
        self._seed = 0
        self._seeded = True
        self._looks = False
        self._calls = 0
        self._autograd, self._had_autograd = autograd, True
        self._numpy = _Numpy()
        self._python = _Python()
        self._torch_state: torch.Tensor | None = None
        self._before: tuple[object, ...] = ()
        self._torch_threads = threads
        self._pool_threads: list[tuple[Callable[[int], object], int]] = []

    def __call__(self, seed: int) -> Self:
        """Let what is done next draw from ``seed``."""
        self._seed, self._seeded, self._looks = seed, True, False
        return self

    def for_call(self, step: StepInfo) -> Self:
        """Let the call of ``step`` draw, or see to it that it does not: then ``DrewError`` is raised."""
        if self.draws:
            self(step.call_seed)
            return self
        self._seeded = self._looks = self._calls % _LOOK_EVERY == 0
        if self._seeded:
            self._seed = step.call_seed
        self._calls += 1
        return self

    def __enter__(self) -> None:
        if self._seeded:
            self._torch_state = torch.get_rng_state()
            self._numpy.lend()
            self._python.save()
            seed_everything(self._seed)
            self._before = self._states() if self._looks else ()
        self._torch_threads = torch.get_num_threads()
        if self._torch_threads != self._threads:
            torch.set_num_threads(self._threads)
        for get_threads, set_threads in self.pools:
            threads = get_threads()
            if threads != 1:
                self._pool_threads.append((set_threads, threads))
                set_threads(1)
        self._had_autograd = torch.is_grad_enabled()
        _enable_grad(self._autograd)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        _enable_grad(self._had_autograd)
        while self._pool_threads:
            set_threads, threads = self._pool_threads.pop()
            set_threads(threads)
        if torch.get_num_threads() != self._torch_threads:
            torch.set_num_threads(self._torch_threads)
        if not self._seeded:
            return
        drew = self._looks and self._before != self._states()
        self._python.restore()
        self._numpy.take_back()
        if self._torch_state is not None:
            torch.set_rng_state(self._torch_state)
            self._torch_state = None
        if drew and kind is None:
            raise DrewError

    def _states(self) -> tuple[object, ...]:
        """Return what changes as anybody draws from what this call was given."""
        return torch.get_rng_state().numpy().tobytes(), self._numpy.lent_state(), self._python.state()


class _Numpy:
    """Lends numpy's global functions a generator, so that the trainer's own is not touched.

    numpy drops the second number of a pair of normal ones as it changes generators. Whether
    the trainer had one waiting its whole state tells, which is asked for whenever the trainer has
    drawn, or gone back to an earlier state, since the last call: the memory of its generator shows
    that, and of the object that keeps the second number.
    """

    def __init__(self) -> None:
        self._lent = np.random.MT19937(0)
        self._lent_memory = _Memory(self._lent.ctypes.state_address, _TWISTER_BYTES)
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

    def lent_state(self) -> bytes:
        """Return the state of what is lent."""
        return self._lent_memory.read()

    def take_back(self) -> None:
        mtrand.set_bit_generator(self._own)
        if self._waiting is not None:
            np.random.set_state(self._waiting)  # noqa: NPY002


class _Python:
    """Keeps the state of ``random``, as it lies in memory: its own functions take many times as long."""

    def __init__(self) -> None:
        # Of the class in C: what comes after that is the interpreter's.
        self._memory = _Memory.of(_PYTHONS, _random.Random)
        self._saved = self.state()

    def state(self) -> tuple[bytes, float | None]:
        return self._memory.read(), _PYTHONS.gauss_next

    def save(self) -> None:
        self._saved = self.state()

    def restore(self) -> None:
        words, _PYTHONS.gauss_next = self._saved
        self._memory.write(words)


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
    def of(cls, thing: object, kind: type | None = None) -> Self:
        """What follows the head of an object of CPython: for generators of random numbers, their states."""
        head = object.__basicsize__
        return cls(id(thing) + head, (kind or type(thing)).__basicsize__ - head)

    def read(self) -> bytes:
        """Return a copy of what is there now."""
        return self._bytes.raw

    def write(self, content: bytes) -> None:
        """Put back what was read."""
        self._bytes.raw = content
