"""Samples of tar shards in the form of WebDataset: members that share a key, by where they lie."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..hooks.errors import DataError, shorten, visible
from .image_file import SUFFIXES
from .tar_members import Member, members

#: Endings of images; DICOM files have no place here, as they are read by their path.
IMAGES = SUFFIXES - {".dcm"}
#: Members that others unpickle.
_PICKLES = frozenset(("joblib", "pickle", "pkl", "pt", "pth", "pyd"))
#: Key, with its folders, and ending, as WebDataset divides names.
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
#: Of one member that is read.
_MOST_BYTES = 1 << 28
_MOST_SHARDS = 100_000
_SHOWN = 100


@dataclass(slots=True)
class ShardIndex:
    """Where the samples of some shards lie; 36 bytes a sample.

    Attributes:
        shards: The files.
        shard: Of each sample its file's number.
        inputs: Place and size of its input, one after the other.
        targets: Likewise of its target.
    """

    shards: Sequence[Path]
    shard: array[int] = field(default_factory=lambda: array("i"))
    inputs: array[int] = field(default_factory=lambda: array("q"))
    targets: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.shard)

    def place(self, sample: int, *, target: bool) -> tuple[Path, int, int]:
        """Return file, place and size of a sample's input or target."""
        places = self.targets if target else self.inputs
        return self.shards[self.shard[sample]], places[2 * sample], places[2 * sample + 1]


def expand(path: Path) -> list[Path]:
    """Return the files that a pattern names, such as ``train-{000..009}.tar``.

    Raises:
        DataError: One is missing, or the pattern is none.
    """
    found = [str(path)]
    while match := re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", found[0]):
        first, last = match.groups()
        if not 0 <= int(last) - int(first) < _MOST_SHARDS // len(found):
            raise DataError(f"{path}: the pattern names no files, or more than {_MOST_SHARDS:,}")
        width = len(first) if first.startswith("0") else 0
        numbers = [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
        found = [name.replace(match[0], number, 1) for name in found for number in numbers]
    shards = [Path(name) for name in found]
    for shard in shards:
        if shard.suffix.lower() != ".tar":
            raise DataError(f"{shard}: is no .tar; a packed one has to be unpacked, to be read in any order")
        if not shard.is_file():
            raise DataError(f"{shard}: no such file")
    return shards


def index_shards(shards: Sequence[Path], inputs: str | None, target: str) -> ShardIndex:
    """Look through tar files, of which only the headers are read.

    Args:
        shards: The files.
        inputs: Ending of what is the input; None: of the one image that a sample has.
        target: Ending of what is to be predicted.

    Raises:
        DataError: A file is damaged, a sample lacks a member or has one twice, or a member is a pickle.
    """
    index = ShardIndex(shards)
    for number, shard in enumerate(shards):
        seen: set[str] = set()
        for key, found in _samples(shard):
            if key in seen:
                raise DataError(
                    f"{shard}: sample '{_show(key)}' is there twice, or its members lie apart; write "
                    "the shard anew, sorted by name"
                )
            seen.add(key)
            index.shard.append(number)
            for places, ending in ((index.inputs, inputs), (index.targets, target)):
                member = _choose(shard, key, found, ending)
                if member.size > _MOST_BYTES:
                    raise DataError(
                        f"{shard}: '{_show(member.name)}' has {member.size:,} bytes; at most "
                        f"{_MOST_BYTES:,} are read"
                    )
                places.extend((member.offset, member.size))
        if not seen:
            raise DataError(f"{shard}: holds no samples")
    return index


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield the samples of a shard: key, and its members by ending."""
    current, found = "", dict[str, Member]()
    for member in members(shard):
        match = _NAME.fullmatch(member.name)
        if match is None:
            raise DataError(
                f"{shard}: '{_show(member.name)}' is no member of a sample, which has a key, a dot and an "
                "ending"
            )
        key, ending = match[1], match[2].lower()
        if ending.rpartition(".")[2] in _PICKLES:
            raise DataError(
                f"{shard}: '{_show(member.name)}' is a pickle, which can run code as it is read; write it as "
                ".npy, .json or .txt"
            )
        if key != current and found:
            yield current, found
            found = {}
        current = key
        if ending in found:
            raise DataError(f"{shard}: sample '{_show(key)}' has two members '.{_show(ending)}'")
        found[ending] = member
    if found:
        yield current, found


def _choose(shard: Path, key: str, found: dict[str, Member], ending: str | None) -> Member:
    if ending in found:
        return found[ending]
    images = [name for name in found if f".{name.rpartition('.')[2]}" in IMAGES]
    if ending is None and len(images) == 1:
        return found[images[0]]
    lacks = f"no member '.{_show(ending)}'" if ending else f"{len(images)} images"
    raise DataError(
        f"{shard}: sample '{_show(key)}' has {lacks}, but {_show(', '.join(f'.{name}' for name in found))}; "
        "write the shard anew, or name the ending by option 'inputs' or 'target'"
    )


def _show(text: str) -> str:
    return visible(shorten(text, _SHOWN))
