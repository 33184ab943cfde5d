"""Photos as samples: decoded on threads, ahead of the model."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...datasets.image_file import BYTES, MAX_PIXELS, SUFFIXES, Photo, read_image
from ...datasets.image_set import DeepPhotos, deep_photos
from ...hooks.errors import DataError, visible
from ...plugins.number_words import counted
from ...tracking.one_line import one_line
from .sample_form import SampleForm
from .source import Chunk

#: Channels of the model to whether a photo is read in greyscale.
_CHANNELS = {1: True, 3: False}
#: More decode no faster than a model takes what they make.
_MOST_THREADS = 8
#: Photos that a thread is given at once: one by one, handing them over takes longer than decoding small ones.
_AT_ONCE = 8
#: Of photos that were decoded and wait.
_AHEAD_BYTES = 256 << 20
_LISTED = 3
_SMALL_PIXELS = 1 << 18


def find_photos(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the images below a folder in the order of their names, and notes of what lies there besides.

    No link to a folder is followed; names that begin with a dot are passed over.

    Raises:
        DataError: There are none.
    """
    found: list[Path] = []
    others: list[str] = []
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in SUFFIXES and path.is_file():
                found.append(path)
            else:
                others.append(str(path.relative_to(folder)))
    if not found:
        raise DataError(f"{folder}: holds no images ({', '.join(sorted(SUFFIXES))})")
    notes = []
    if others:
        listed = ", ".join(f"'{visible(name)}'" for name in sorted(others)[:_LISTED])
        more = ", …" if len(others) > _LISTED else ""
        is_one = len(others) == 1
        what = "is no image by name and is" if is_one else "are no images by name and are"
        notes.append(f"{folder}: {counted(len(others), 'file')} {what} not read: {listed}{more}")
    return sorted(found), notes


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error


class _PixelRoom:
    """Lets threads decode side by side as long as all their photos together have no more than one may."""

    def __init__(self) -> None:
        self._held = 0
        self._changed = threading.Condition()

    def hold_large(self, pixels: int) -> AbstractContextManager[None]:
        """Hold what is not so small that as many as there are threads do not matter."""
        return contextlib.nullcontext() if pixels < _SMALL_PIXELS else self.hold(pixels)

    @contextlib.contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for a photo, and take it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + pixels <= MAX_PIXELS)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


@dataclass(slots=True)
class _Batch:
    """Photos of one batch while threads decode them.

    Attributes:
        pixels: (B, C, H, W) in the form of the model.
        indices: Place of each among all.
        faults: Position in the batch to why it could not be read.
        sizes: Position to the size that it had, where it is another.
        cut: Positions of those that had more bits.
        tasks: What is not decoded yet.
    """

    pixels: Tensor
    indices: range
    faults: dict[int, DataError] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)
    tasks: list[Future[None]] = field(default_factory=list)


class PhotoSource:
    """Photos, read as those of training were: upright, of as many bits a channel, resized.

    Args:
        files: Which, in order.
        form: What the model takes; decides on greyscale and size.
        root: What names are relative to; None names files as they were given.
        skip_unreadable: Pass over what cannot be read, and tell of it.
        notes: What is known of them already.

    Raises:
        DataError: The model takes no photos.
    """

    def __init__(
        self,
        files: Sequence[Path],
        form: SampleForm,
        *,
        root: Path | None = None,
        skip_unreadable: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        if not form.is_image or form.shape[0] not in _CHANNELS:
            raise DataError(f"{root or files[0]}: photos are given, and the model takes samples of {form}")
        deep = None if form.in_bytes else deep_photos(form.preprocessing)
        if not form.in_bytes and deep is None:
            raise DataError(
                f"{root or files[0]}: photos are bytes, and the model was trained on images of float32: how "
                "those were made of bytes is not known here. Make them as for training, and give a .npz file"
            )
        self._channels, *(self._height, self._width) = form.shape
        self._greyscale = _CHANNELS[self._channels]
        self._form = deep or DeepPhotos(BYTES)
        self._files, self._root = files, root
        self._prefix = f"{root}{os.sep}"
        self._skips = skip_unreadable
        self._resized, self._first_resized = 0, ""
        self._cut, self._first_cut = 0, ""
        self._unread: list[str] = []
        self._unread_count = 0
        self._room = _PixelRoom()
        colour = "greyscale" if self._greyscale else "colour"
        self._told = [*notes, f"photos are read as {self._height}x{self._width} (height x width) in {colour}"]
        self.count: int | None = len(files)

    @property
    def notes(self) -> list[str]:
        """What the user should know of how they are read."""
        told = list(self._told)
        if self._resized:
            were = "was" if self._resized == 1 else "were"
            told.append(
                f"{self._resized:,} of {counted(len(self._files), 'photo')} {were} resized to "
                f"{self._height}x{self._width} (height x width), what the model takes; the first: "
                f"{self._first_resized}"
            )
        if self._cut:
            told.append(
                f"{counted(self._cut, 'photo')} in colour of 16 bits a channel, read as 8: the first is "
                f"'{self._first_cut}'"
            )
        if self._unread_count:
            more = "; …" if self._unread_count > len(self._unread) else ""
            are = "is" if self._unread_count == 1 else "are"
            told.append(
                f"{self._unread_count:,} of {counted(len(self._files), 'photo')} could not be read and "
                f"{are} left out: {'; '.join(self._unread)}{more}"
            )
        return told

    def chunks(self, batch_size: int) -> Generator[Chunk, None, None]:
        """Yield the photos, of which a batch or more is decoded ahead.

        Raises:
            DataError: One cannot be read; or none, where such are passed over.
        """
        sample_bytes = self._channels * self._height * self._width * self._dtype.itemsize
        ahead = max(1, min(2, _AHEAD_BYTES // (sample_bytes * batch_size)))
        threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        starts = range(0, len(self._files), batch_size)
        any_read = False
        pool = ThreadPoolExecutor(threads, thread_name_prefix="ringfence-photos")
        try:
            todo = (self._start(pool, range(s, min(s + batch_size, len(self._files)))) for s in starts)
            waiting = deque(itertools.islice(todo, ahead))
            while waiting:
                batch = waiting.popleft()
                for task in batch.tasks:
                    task.result()
                waiting.extend(itertools.islice(todo, 1))
                chunk = self._finish(batch)
                if chunk is not None:
                    any_read = True
                    yield chunk
        finally:
            pool.shutdown(cancel_futures=True)
        if not any_read:
            raise DataError(
                f"{self._root or self._files[0]}: none of the photos can be read: {self._unread[0]}"
            )

    @property
    def _dtype(self) -> torch.dtype:
        return torch.uint8 if self._form.kind == BYTES else torch.float32

    def _start(self, pool: ThreadPoolExecutor, indices: range) -> _Batch:
        shape = (len(indices), self._channels, self._height, self._width)
        batch = _Batch(torch.empty(shape, dtype=self._dtype), indices)
        batch.tasks = [
            pool.submit(self._decode, batch, range(begin, min(begin + _AT_ONCE, len(indices))))
            for begin in range(0, len(indices), _AT_ONCE)
        ]
        return batch

    def _decode(self, batch: _Batch, positions: range) -> None:
        size = (self._height, self._width)
        pixels = batch.pixels.numpy()
        for i in positions:
            try:
                photo = self._read(self._files[batch.indices[i]], size)
            except DataError as error:
                batch.faults[i] = error
                if not self._skips:
                    return
                continue
            pixels[i] = photo.pixels.transpose(2, 0, 1)
            if photo.size != size:
                batch.sizes[i] = photo.size
            if photo.is_cut:
                batch.cut.add(i)

    def _read(self, file: Path, size: tuple[int, int]) -> Photo:
        photo = read_image(
            file,
            size,
            greyscale=self._greyscale,
            window=self._form.window,
            hold=self._room.hold_large,
        )
        if photo.kind != self._form.kind:
            raise DataError(
                f"{file}: is of {photo.kind}, and the model was trained on images of {self._form.kind}"
            )
        return photo

    def _finish(self, batch: _Batch) -> Chunk | None:
        if batch.faults and not self._skips:
            first = batch.faults[min(batch.faults)]
            raise DataError(
                f"{first}. To go on without such photos, skip them (--skip-unreadable, skip_unreadable=True)"
            ) from first
        self._note(batch)
        positions = [i for i in range(len(batch.indices)) if i not in batch.faults]
        if not positions:
            return None
        indices = [batch.indices[i] for i in positions]
        inputs = batch.pixels[positions] if batch.faults else batch.pixels
        return Chunk(inputs, indices, [self._name(index) for index in indices])

    def _note(self, batch: _Batch) -> None:
        for i in sorted(batch.faults):
            self._unread_count += 1
            if len(self._unread) < _LISTED:
                self._unread.append(visible(str(batch.faults[i])))
        if batch.sizes and not self._resized:
            first = min(batch.sizes)
            height, width = batch.sizes[first]
            self._first_resized = f"'{self._name(batch.indices[first])}', {height}x{width}"
        self._resized += len(batch.sizes)
        if batch.cut and not self._cut:
            self._first_cut = self._name(batch.indices[min(batch.cut)])
        self._cut += len(batch.cut)

    def _name(self, index: int) -> str:
        name = str(self._files[index])
        if self._root is not None:
            # A path that is made relative by pathlib takes as long as a small photo.
            name = name.removeprefix(self._prefix)
        return one_line(name)
