"""Samples that are read as they are asked for, by worker processes: data that need not fit into memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..hooks.errors import DataError
from ..hooks.trees import Tree, map_tensors
from ..hooks.types import derive_seed
from ..imports.user_frames import user_frame
from ..reproducibility.generator_states import DrawWatch, preserved_rng
from ..reproducibility.seeding import seed_everything
from ..tensors.finite import is_finite
from ..tensors.precision import to_single
from ..tensors.tree_form import TreeError, named_tensors, to_tree
from .sequential_samples import Mark, SequentialSamples

#: Batches that each worker reads ahead.
_AHEAD = 2
_PAIR = 2
_PR_SET_PDEATHSIG = 1
_CPU = torch.device("cpu")
#: Which samples make a batch: the seed of the pass that they belong to, and their places.
Wanted = tuple[int, Tensor]


class Samples(Protocol):
    """A map-style data set of torch's: samples by their place."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the user's code in a worker; an exception would bring the worker's frames as text."""

    message: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """A batch.

    Attributes:
        trees: Inputs and targets.
        end: The place behind its last sample.
        mark: Of a stream: what is to be known to go on from there.
    """

    trees: tuple[Tree, Tree]
    end: int
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class SampleReader:
    """A data set of the user's, and how batches are made of it.

    What a sample draws from the global generators of torch, numpy and ``random`` follows from the seed of the
    pass and its place: not from who reads it, nor from what was read before.

    Attributes:
        samples: What is read; in order alone if it is ``SequentialSamples``, by one worker at most.
        source: Where they come from, for messages.
        collate: Makes inputs and targets of the items of a batch; by default torch's own.
        workers: Processes that read; 0: the trainer itself.
        target: Of items that are dicts, the keys of the targets; the rest are inputs.
    """

    samples: Samples | SequentialSamples
    source: str
    collate: Callable[[list[Any]], Any] | None = None
    workers: int = 0
    target: tuple[str, ...] = ()

    def read(self, wanted: Iterable[Wanted]) -> Iterator[tuple[Tree, Tree]]:
        """Yield inputs and targets of batches, in order; workers read some ahead, and end with the iterator.

        Raises:
            DataError: A sample or a batch cannot be made, or a worker has died; the message names it.
        """
        made = self._by_workers(wanted) if self.workers else self._by_trainer(wanted)
        for result in made:
            if isinstance(result, Fault):
                raise DataError(f"{self.source}: {result.message}")
            if result.mark is not None and isinstance(self.samples, SequentialSamples):
                self.samples.keep(result.end, result.mark)
            yield result.trees

    def read_one(self, places: Tensor) -> tuple[Tree, Tree]:
        """Return inputs and targets of samples that belong to no pass; by a worker, if there are such."""
        return next(replace(self, workers=min(self.workers, 1)).read([(0, places)]))

    def _by_trainer(self, wanted: Iterable[Wanted]) -> Iterator[Fetched | Fault]:
        fetcher = _Fetcher(self)
        for each in wanted:
            with preserved_rng(_CPU):
                made = fetcher.fetch(each)
            yield made

    def _by_workers(self, wanted: Iterable[Wanted]) -> Iterator[Fetched | Fault]:
        from torch.utils.data import DataLoader  # noqa: PLC0415 - for those who read by workers

        fetched: Any = _Fetcher(self)
        with warnings.catch_warnings(), _own_handler():
            # That they are more than there are cores: how many wait for a disk, the user knows.
            warnings.simplefilter("ignore")
            loader: Any = DataLoader(
                fetched,
                batch_sampler=([each] for each in wanted),
                num_workers=self.workers,
                collate_fn=_as_it_is,
                worker_init_fn=functools.partial(_end_with, os.getpid()),
                prefetch_factor=_AHEAD,
                # Of its own: what it draws for its workers must not change what the model draws.
                generator=torch.Generator().manual_seed(0),
            )
            batches = iter(loader)
        while True:
            try:
                result = next(batches)
            except StopIteration:
                return
            except (EOFError, OSError, RuntimeError) as error:
                # The first two where it died with a batch half handed over.
                raise DataError(
                    f"{self.source}: a worker that reads samples has died: {error}. With workers: 0 the "
                    "trainer reads them itself, which shows why; fewer workers need less memory"
                ) from error
            yield result

    def fetch(self, wanted: Wanted, *, seeded: bool) -> Fetched | Fault:
        """Return inputs and targets of one batch, or what is wrong with it.

        Args:
            wanted: Which.
            seeded: Whether the generators are seeded for each sample.
        """
        seed, places = wanted
        items = []
        for place in places.tolist():
            if seeded:
                seed_everything(derive_seed(seed, place))
            try:
                items.append(self._take(place, seed))
            except Exception as error:  # noqa: BLE001 - it is the user's code, which may raise anything
                return Fault(f"sample {place} could not be read: {_told(error)}")
        samples = self.samples
        try:
            mark = samples.mark() if isinstance(samples, SequentialSamples) else None
            return Fetched(self._batch(items, places), int(places[-1]) + 1, mark)
        except (DataError, TreeError) as error:
            return Fault(f"the batch of samples {_few(places)}: {error}")
        except Exception as error:  # noqa: BLE001 - likewise
            whose = "collate" if self.collate is not None else "putting them together"
            return Fault(f"the batch of samples {_few(places)}: {whose} failed: {_told(error)}")

    def _take(self, place: int, seed: int) -> Any:
        samples = self.samples
        return samples.take(place, seed) if isinstance(samples, SequentialSamples) else samples[place]

    def _batch(self, items: list[Any], places: Tensor) -> tuple[Tree, Tree]:
        if self.collate is None:
            from torch.utils.data import default_collate  # noqa: PLC0415 - likewise

            made = default_collate(items)
        else:
            made = self.collate(items)
        trees = (to_tree(part, name) for part, name in self._parted(made))
        inputs, targets = (map_tensors(lambda tensor: to_single(tensor.detach()), tree) for tree in trees)
        for tree, name in ((inputs, "inputs"), (targets, "targets")):
            if not _holds(tree, len(places)):
                forms = ", ".join(f"{path} {tuple(t.shape)}" for path, t in named_tensors(tree, name))
                raise DataError(
                    f"{len(places)} samples make {forms}; each tensor needs one row a sample, or each list "
                    "one item: did collate drop a sample?"
                )
            for path, tensor in named_tensors(tree, name):
                if not is_finite(tensor):
                    raise DataError(f"{path} of {_first_not_finite(tensor, places)} are not finite")
        return inputs, targets

    def _parted(self, made: Any) -> tuple[tuple[Any, str], tuple[Any, str]]:
        """Return inputs and targets of what items were made, each with its name."""
        if isinstance(made, Mapping):
            missing = [key for key in self.target if key not in made]
            if missing or not (self.target or {"inputs", "targets"} <= made.keys()):
                raise DataError(
                    f"a sample is a dict of {', '.join(map(repr, made))}; say which are targets by "
                    "target: KEY, or a list of keys"
                )
            if not self.target:
                return (made["inputs"], "inputs"), (made["targets"], "targets")
            rest = {key: value for key, value in made.items() if key not in self.target}
            wanted = {key: made[key] for key in self.target}
            return (rest, "inputs"), (wanted[self.target[0]] if len(wanted) == 1 else wanted, "targets")
        if isinstance(made, Tensor):
            # Data that are to be told from themselves, as an autoencoder learns them.
            return (made, "inputs"), (made, "targets")
        if isinstance(made, tuple | list) and len(made) == _PAIR:
            return (made[0], "inputs"), (made[1], "targets")
        count = f" of {len(made)}" if isinstance(made, tuple | list) else ""
        raise DataError(f"a sample is a {type(made).__name__}{count}; expected (inputs, targets), or a dict")


class _Fetcher:
    """Makes batches, in a worker of torch's loader, which fetches by keys, or in the trainer.

    Seeding for each sample takes as long as reading a short one. So the first batch is read without, and all
    that come after it, as long as nothing was drawn; where something was, it is read again, and seeded.
    """

    def __init__(self, reader: SampleReader) -> None:
        self._reader = reader
        # A stream would have to begin anew.
        self._draws = isinstance(reader.samples, SequentialSamples)
        self._watch: DrawWatch | None = None

    def __getitem__(self, key: Wanted) -> Any:
        return self.fetch(key)

    def __getitems__(self, keys: list[Wanted]) -> Any:
        (key,) = keys
        return self.fetch(key)

    def fetch(self, wanted: Wanted) -> Fetched | Fault:
        if not self._draws:
            # Of a worker, in which nobody else draws, what one look has seen is where the next begins.
            if self._watch is None or not self._reader.workers:
                self._watch = DrawWatch()
            made = self._reader.fetch(wanted, seeded=False)
            if not isinstance(made, Fault) and not self._watch.has_seen():
                return made
            self._draws = True
        return self._reader.fetch(wanted, seeded=True)


@contextlib.contextmanager
def _own_handler() -> Iterator[None]:
    """Keep what handles the end of a child: torch's would raise in whatever line the trainer is just then.

    That a worker has died is seen all the same, by who waits for it.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)


def _end_with(trainer: int, _worker: int) -> None:
    """Have the kernel end this worker with the trainer, whose locks and sockets it holds as well."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != trainer:
        os._exit(1)


def _as_it_is(batch: Any) -> Any:
    return batch


def _holds(tree: Tree, samples: int) -> bool:
    """Tell whether a tree is of so many samples: rows of its tensors, or items of a list."""
    if isinstance(tree, Tensor):
        return tree.dim() > 0 and len(tree) == samples
    if isinstance(tree, list) and len(tree) == samples:
        return True
    return all(_holds(item, samples) for item in (tree.values() if isinstance(tree, dict) else tree))


def _first_not_finite(tensor: Tensor, places: Tensor) -> str:
    if tensor.dim() == 0 or len(tensor) != len(places):
        return f"one of samples {_few(places)}"
    rows = (~tensor.isfinite()).reshape(len(tensor), -1).any(1).nonzero()
    return f"sample {int(places[int(rows[0])])}"


def _few(places: Tensor) -> str:
    listed = places.tolist()
    return ", ".join(map(str, listed[:3])) + (f" … {listed[-1]}" if len(listed) > 3 else "")  # noqa: PLR2004


def _told(error: Exception) -> str:
    if isinstance(error, DataError):
        # It says what happened itself.
        return str(error)
    with contextlib.suppress(OSError, UnicodeError):
        return f"{type(error).__name__}: {error}; at {user_frame(error)}"
    return f"{type(error).__name__}: {error}"
