"""Read tar shards in the form of WebDataset, sample by sample as they are asked for: larger than memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..engine.data import Dataset
from ..engine.read_data import ReadDataset
from ..engine.sample_reader import SampleReader
from ..hooks.errors import DataError, shorten, visible
from .arrays import Task
from .classes import are_too_many
from .image_set import ImageSet, Size, height_width
from .member_values import MOST_CLASS_BYTES, NUMBERS, TEXTS, class_text, numbers
from .part_names import part_of
from .preparation import Fraction, Limit, Normalize, Parts, SplitSeed, Workers
from .shard_index import IMAGES, ShardIndex, expand, index_shards
from .split import split_dataset
from .tar_members import read_member

_PARTS = ("train", "val", "test")
_SHOWN = 60
Ending = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^./][^/]*$")]


def webdataset(
    *,
    path: Path,
    inputs: Ending | None = None,
    target: Ending = "cls",
    class_names: tuple[str, ...] | None = None,
    task: Task = "auto",
    size: Size = None,
    greyscale: bool = False,
    workers: Workers = 0,
    validation_path: Path | None = None,
    test_path: Path | None = None,
    test_fraction: Fraction = 0.2,
    split_seed: SplitSeed = 0,
    limit: Limit = None,
    normalize: Normalize = "auto",
) -> Parts:
    """Read tar shards whose members share a key a sample, as ``0001.jpg`` and ``0001.cls``.

    Their headers are read at the start, and so are all classes; samples as they are asked for, in any order.

    Args:
        path: One, a pattern as ``train-{000..009}.tar``, or a folder of ``*.tar``, of which those that begin
            with ``train``, ``val`` or ``test`` are these parts.
        inputs: Ending of what a model takes, by default of the one image of a sample; or ``npy`` or ``json``.
        target: Ending of what is to be predicted: ``cls``, ``txt``, ``json`` or ``npy``.
        class_names: Names of classes 0, 1, …; by default numbers, or the names in the training part, sorted.
        task: ``auto`` is what the job's loss is for; without a loss, ``cls`` and ``txt`` are classes.
        size: Height and width of images, or one number for both; needed if they differ in size.
        greyscale: Read one channel instead of three.
        workers: Processes that read ahead; 0: the trainer reads between its steps.
        validation_path: Shards to judge by, as ``path``.
        test_path: Shards to test on at the end, as ``path``.
        test_fraction: Share of the test samples, if there are no parts.
        split_seed: Which samples these are.
        limit: At most so many samples of each part.
        normalize: ``none``, which ``auto`` is here, or ``{mean: …, std: …}``.

    Raises:
        DataError: A shard is missing or damaged, a sample lacks a member, or one cannot be read.
    """
    kinds = tuple((ending or ".png").rpartition(".")[2].lower() for ending in (inputs, target))
    if f".{kinds[0]}" not in IMAGES and kinds[0] not in NUMBERS:
        raise DataError(f"option 'inputs' is '{inputs}'; expected the ending of an image, npy or json")
    if kinds[1] not in NUMBERS | TEXTS:
        raise DataError(f"option 'target' is '{target}'; expected cls, txt, npy or json")
    shards, notes = _find(path, validation_path, test_path)
    indices = {
        part: index_shards(files, inputs and inputs.lower(), target.lower()) for part, files in shards.items()
    }
    images = ImageSet(height_width(size), greyscale=greyscale)
    made = {
        part: ShardSamples(index, kinds[0], kinds[1], images if f".{kinds[0]}" in IMAGES else None)
        for part, index in indices.items()
    }
    # Here, so that all workers hold images to the same first one.
    _ = made["train"].inputs_at(0)
    names: tuple[str, ...] = ()
    count = None
    if task == "classification" or (task == "auto" and kinds[1] in TEXTS):
        made, names, count = _with_classes(made, class_names, str(path))
    elif class_names is not None:
        raise DataError("option 'class_names' is given, and targets are numbers to be predicted")
    read = {
        part: ReadDataset.of(SampleReader(samples, f"{path}: {part}", None, workers), count, names)
        for part, samples in made.items()
    }
    train: Dataset = read["train"]
    test: Dataset | None = read.get("test")
    if len(read) == 1:
        train, test = split_dataset(train, test_fraction, split_seed, str(path))
    total = f"{sum(map(len, made.values())):,} samples in {sum(map(len, shards.values())):,} shards"
    return Parts(
        train=train,
        test=test,
        validation=read.get("val"),
        source=str(path),
        limit=limit,
        normalize=normalize,
        notes=(*notes, total, *images.notes),
        preprocessing=images.preprocessing("webdataset"),
    )


@dataclass(frozen=True, slots=True)
class ShardSamples:
    """Samples by their place, in any process.

    Attributes:
        index: Where they lie.
        inputs: Ending of the input.
        target: Ending of the target.
        images: Reads inputs that are images; None: they are numbers.
        classes: (N,) int64 of the targets; None: they are numbers.
    """

    index: ShardIndex
    inputs: str
    target: str
    images: ImageSet | None
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, sample: int) -> tuple[Tensor, Tensor]:
        inputs = self.inputs_at(sample)
        if self.classes is not None:
            return inputs, self.classes[sample]
        return inputs, numbers(*self._read(sample, target=True)).float()

    def inputs_at(self, sample: int) -> Tensor:
        """Return the input of a sample: an image, (C, H, W), or numbers."""
        place, kind, data = self._read(sample, target=False)
        return numbers(place, kind, data) if self.images is None else self.images.read(Path(place), data)

    def class_at(self, sample: int) -> tuple[str, str]:
        """Return the text of a sample's class, and its place for messages."""
        place, kind, data = self._read(sample, target=True)
        if len(data) > MOST_CLASS_BYTES:
            raise DataError(
                f"{place}: has {len(data):,} bytes, and is the class; expected a number or a name"
            )
        return class_text(place, kind, data), place

    def _read(self, sample: int, *, target: bool) -> tuple[str, str, bytes]:
        shard, offset, size = self.index.place(sample, target=target)
        name, data = read_member(shard, offset, size)
        return f"{shard}: {name}", self.target if target else self.inputs, data


def _find(
    path: Path, validation_path: Path | None, test_path: Path | None
) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Return the shards of each part, and what to tell of the choice."""
    if not path.is_dir():
        given = {"train": path, "val": validation_path, "test": test_path}
        return {part: _all(place) for part, place in given.items() if place is not None}, ()
    files = _all(path)
    found = {part: [file for file in files if part_of(file.name) == part] for part in _PARTS}
    if not any(found.values()) or validation_path is not None or test_path is not None:
        others = {"val": validation_path, "test": test_path}
        if any(found["val"] + found["test"]):
            raise DataError(
                f"{path}: holds shards of parts; 'validation_path' and 'test_path' are for others"
            )
        return {"train": files, **{part: _all(p) for part, p in others.items() if p is not None}}, ()
    if not found["train"] or not (found["val"] or found["test"]):
        raise DataError(
            f"{path}: holds shards of {', '.join(part for part in _PARTS if found[part])} alone; add "
            "train-*.tar beside val-*.tar or test-*.tar, or name a pattern as 'path': it is then split"
        )
    told = [f"{len(found[part])} of '{part}'" for part in _PARTS if found[part]]
    left = len(files) - sum(map(len, found.values()))
    told += [f"{left} others are not read"] if left else []
    return {part: shards for part, shards in found.items() if shards}, (f"{path}: shards {', '.join(told)}",)


def _all(path: Path) -> list[Path]:
    """Return the shards that a path names."""
    if not path.is_dir():
        return expand(path)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".tar" and file.is_file())
    if not files:
        raise DataError(f"{path}: holds no .tar")
    return files


def _with_classes(
    made: dict[str, ShardSamples], names: tuple[str, ...] | None, source: str
) -> tuple[dict[str, ShardSamples], tuple[str, ...], int]:
    """Return the samples with their classes, the names of these, and how many there are."""
    codes: dict[str, int] = {}
    firsts: list[str] = []
    coded: dict[str, Tensor] = {}
    trained = 0
    for part, samples in made.items():
        found = torch.empty(len(samples), dtype=torch.int64)
        for i in range(len(samples)):
            text, place = samples.class_at(i)
            code = codes.setdefault(text, len(codes))
            if code == len(firsts):
                firsts.append(place)
            found[i] = code
        coded[part] = found
        # The first part is that of training.
        trained = trained or len(codes)
    known = list(codes)
    by_number = all(text.isascii() and text.isdigit() for text in known)
    if names is None and not by_number:
        names = tuple(sorted(known[:trained]))
    if names:
        number = {name: i for i, name in enumerate(names)}
        classes = [
            number.get(text, int(text) if by_number and int(text) < len(names) else -1) for text in known
        ]
        count = len(names)
    else:
        classes = [min(int(text), 2**62) for text in known]
        count = max(classes) + 1
    total = sum(map(len, made.values()))
    if are_too_many(count, total):
        raise DataError(
            f"{source}: targets make {count:,} classes of {total:,} samples; to "
            "predict numbers write loss: mse, or name the classes by 'class_names'"
        )
    if -1 in classes:
        wrong = classes.index(-1)
        raise DataError(
            f"{firsts[wrong]}: holds the class '{visible(shorten(known[wrong], _SHOWN))}', which is none of "
            "those that are trained on, or that 'class_names' names"
        )
    by_code = torch.tensor(classes, dtype=torch.int64)
    return (
        {part: replace(samples, classes=by_code[coded[part]]) for part, samples in made.items()},
        names or (),
        count,
    )
