"""Measure how fast samples are read, beside a `DataLoader` of as many workers.

    python bench/reading.py [--workers 2] [--rounds 6] [--passes 4]

A folder of JPEG files that are decoded and cropped at random by a data set of the user's, and the reader
`text` beside the token ids that it makes, padded to the longest of a batch by a `DataLoader`'s collate. Both
sides read all samples in the same order, several passes with the same workers, in turns: the median of
samples a second of each, and the median of their ratios. ringfence seeds what samples draw, and looks for
numbers that are not finite; a `DataLoader` does neither.

Exit status 1 if a median of ratios is below 1 by more than what two runs of one side differ by.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ringfence.datasets.dataset_registry import load_data
from ringfence.engine.data import Dataset, Plan, batches, epoch_order
from ringfence.engine.read_data import ReadDataset
from ringfence.engine.sample_reader import SampleReader

IMAGES, SIDE = 600, 160
LINES = 20_000
BATCH = 32
#: What two runs of one side differ by on a machine that is used for nothing else.
SLACK = 0.03


class Photos:
    """Photos of a folder, cropped at random."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = np.asarray(Image.open(self.files[index]).convert("RGB"))
        top, left = torch.randint(16, (2,)).tolist()
        cut = pixels[top : top + 128, left : left + 128]
        return torch.from_numpy(cut.transpose(2, 0, 1).copy()), index % 10


class Tokens:
    """Token ids of texts, and their classes: what the reader has made, text by text."""

    def __init__(self, part: Dataset) -> None:
        ids, mask = part.inputs["input_ids"], part.inputs["attention_mask"]
        rows = part.rows_at(torch.arange(len(part)))
        self.ids = [ids[row, : int(mask[row].sum())].tolist() for row in rows.tolist()]
        self.classes = part.targets[rows].tolist()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor(self.ids[index]), self.classes[index]


def pad(items: list[Any]) -> Any:
    """Return a batch of texts, padded to the longest."""
    tokens = torch.nn.utils.rnn.pad_sequence([tokens for tokens, _ in items], batch_first=True)
    return {"input_ids": tokens, "attention_mask": (tokens != 0).long()}, torch.tensor([y for _, y in items])


def read_texts(folder: Path) -> Dataset:
    """Write lines of 5 to 60 words, and read them by the reader."""
    lengths = np.random.default_rng(0).integers(5, 60, LINES)
    lines = [f"{' '.join(str((i * j) % 997) for j in range(n))},{i % 2}" for i, n in enumerate(lengths)]
    (folder / "lines.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    options = {"path": "lines.csv", "group_by_length": False}
    return load_data("text", options, base=folder).train


def ours(data: Dataset, seed: int, passes: int) -> Iterable[object]:
    """Return the batches of some passes as a run reads them."""
    plan = Plan(len(data), BATCH)
    total = plan.steps_per_epoch * passes
    return batches(data, plan, seed, first_step=0, steps_total=total, lr_factor=lambda _: 1.0, as_stored=True)


def theirs(samples: Any, collate: Any, workers: int, seed: int, passes: int) -> Iterable[object]:
    """Return the batches of a `DataLoader` in the same order, whose workers stay for all passes."""
    sampler = _Order(len(samples), seed)
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )
    for epoch in range(passes):
        sampler.epoch = epoch
        yield from loader


class _Order:
    """Batches of places, in the order of an epoch."""

    def __init__(self, samples: int, seed: int) -> None:
        self._samples, self._seed, self.epoch = samples, seed, 0

    def __iter__(self) -> Iterator[list[int]]:
        order = epoch_order(self._samples, self._seed, self.epoch)
        return iter([part.tolist() for part in order.split(BATCH)])  # type: ignore[no-untyped-call]


def rate(made: Iterable[object], samples: int) -> float:
    """Return samples a second, over all of them."""
    begin = time.perf_counter()
    for _ in made:
        pass
    return samples / (time.perf_counter() - begin)


def compare(name: str, data: Dataset, samples: Any, collate: Any, given: argparse.Namespace) -> bool:
    """Print one row, and return whether ringfence reads as fast."""
    sides: dict[str, Callable[[int], Iterable[object]]] = {
        "ringfence": lambda seed: ours(data, seed, given.passes),
        "DataLoader": lambda seed: theirs(samples, collate, given.workers, seed, given.passes),
    }
    found: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(given.rounds):
        for side in sides if number % 2 else reversed(sides):
            found[side].append(rate(sides[side](number), len(samples) * given.passes))
    ratio = statistics.median(a / b for a, b in zip(*found.values(), strict=True))
    rates = ", ".join(f"{side} {statistics.median(each):,.0f}" for side, each in found.items())
    print(f"{name}: samples a second: {rates}; median of ratios {ratio:.3f}")
    return ratio >= 1 - SLACK


def main() -> int:
    """Run all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--passes", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, noise = Path(name), np.random.default_rng(0)
        for i in range(IMAGES):
            pixels = noise.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((SIDE, SIDE)).save(folder / f"{i:04}.jpg")
        photos, texts = Photos(folder), read_texts(folder)
        # The first samples are looked at before a run starts.
        read = ReadDataset.of(SampleReader(photos, "bench", None, given.workers), 10)
        fast = [
            compare("photos", read, photos, None, given),
            compare("text", texts, Tokens(texts), pad, given),
        ]
        return int(not all(fast))


if __name__ == "__main__":
    sys.exit(main())
