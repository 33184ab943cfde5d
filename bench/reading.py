"""Measure how fast data sets of torch's are read, beside a `DataLoader` of as many workers.

    python bench/reading.py [--workers 2] [--rounds 8]

A folder of JPEG files that are decoded and cropped at random, and lines of text of different lengths that are
turned into numbers and padded. Both sides read all samples in the same order, with the same collate, in
turns: the median of samples a second of each, and the median of their ratios. ringfence seeds what samples
draw, and looks for numbers that are not finite; a `DataLoader` does neither.

Exit status 1 if a median of ratios is below 1 by more than what two runs of one side differ by.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ringfence.engine.data import Plan, batches, epoch_order
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


class Lines:
    """Lines of text as numbers of their words."""

    def __init__(self) -> None:
        lengths = np.random.default_rng(0).integers(5, 60, LINES)
        self.lines = [" ".join(str((i * j) % 997) for j in range(n)) for i, n in enumerate(lengths)]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([int(word) for word in self.lines[index].split()]), index % 2


def pad(items: list[Any]) -> Any:
    """Return a batch of lines, padded to the longest."""
    tokens = torch.nn.utils.rnn.pad_sequence([tokens for tokens, _ in items], batch_first=True)
    return {"input_ids": tokens, "attention_mask": (tokens != 0).long()}, torch.tensor([y for _, y in items])


def ours(data: ReadDataset, seed: int) -> Iterable[object]:
    """Return the batches of one pass as a run reads them."""
    plan = Plan(len(data), BATCH)
    total = plan.steps_per_epoch
    return batches(data, plan, seed, first_step=0, steps_total=total, lr_factor=lambda _: 1.0, as_stored=True)


def theirs(samples: Any, collate: Any, workers: int, seed: int) -> Iterable[object]:
    """Return the batches of a `DataLoader` in the same order."""
    order = epoch_order(len(samples), seed, 0).split(BATCH)  # type: ignore[no-untyped-call]
    rows = [part.tolist() for part in order]
    return DataLoader(samples, batch_sampler=rows, num_workers=workers, collate_fn=collate)


def rate(made: Iterable[object], samples: int) -> float:
    """Return samples a second, over all of them."""
    begin = time.perf_counter()
    for _ in made:
        pass
    return samples / (time.perf_counter() - begin)


def compare(name: str, samples: Any, collate: Any, workers: int, rounds: int) -> bool:
    """Print one row, and return whether ringfence reads as fast."""
    # The first samples are looked at before a run starts.
    data = ReadDataset.of(SampleReader(samples, "bench", collate, workers), 10)
    sides: dict[str, Callable[[int], Iterable[object]]] = {
        "ringfence": lambda seed: ours(data, seed),
        "DataLoader": lambda seed: theirs(samples, collate, workers, seed),
    }
    found: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            found[side].append(rate(sides[side](number), len(samples)))
    ratio = statistics.median(a / b for a, b in zip(*found.values(), strict=True))
    rates = ", ".join(f"{side} {statistics.median(each):,.0f}" for side, each in found.items())
    print(f"{name}: samples a second: {rates}; median of ratios {ratio:.3f}")
    return ratio >= 1 - SLACK


def main() -> int:
    """Run all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0)
        for i in range(IMAGES):
            pixels = noise.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((SIDE, SIDE)).save(Path(folder, f"{i:04}.jpg"))
        sides = (("photos", Photos(Path(folder)), None), ("text", Lines(), pad))
        fast = [compare(*each, given.workers, given.rounds) for each in sides]
        return int(not all(fast))


if __name__ == "__main__":
    sys.exit(main())
