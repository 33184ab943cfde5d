"""Measure `ringfence predict` beside a plain loop over the same batches, and what memory it takes.

    python bench/predictions.py [--images 100000] [--parts 20] [--device cpu]

For arrays in files and for folders of photos, of 28x28 each. Both sides take turns, part by part, in one
process: samples a second of each, the median of the ratios, and the ratio of the processor's time, which
others on the machine disturb less. The plain loop reads the same samples with numpy, or with Pillow,
upright as in training; it has the same module, and keeps the class of each, but writes no file. Then all
parts at once are predicted by one call, and the memory of the process (resident, without what is mapped from
files) is told at each tenth of the way.

Exit status 1 if the median is below 0.9, or memory grows by more than 16 MiB from the first tenth on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import torch
from PIL import Image, ImageOps
from torch import Tensor

import ringfence
from ringfence.inference.inputs.open_source import open_source
from ringfence.inference.load import LoadedModel, load
from ringfence.inference.predict import form_of, meaning_of
from ringfence.inference.prediction_loop import Predictor, write_predictions

_BATCH = 256
_GOAL = 0.9
_GROWTH_MB = 16.0
_TENTHS = 10
_MB = 2**20
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Times:
    """How long one side took.

    Attributes:
        wall_s: By the clock.
        cpu_s: Of the processor, all threads together.
    """

    wall_s: float
    cpu_s: float


def main() -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        optim = {"optim": {"algorithm": "sgd", "lr": 0.1}, "isolation": "trusted"}
        data, model = {"name": "mnist10k", "limit": 64}, {"name": "cnn", "width": 8}
        run = ringfence.train(
            model=model, data=data, steps=1, plugins=[optim], out=folder / "run", progress=False
        )
        loaded = load(run.folder, device=asked.device)
        write_data(folder, asked.images, asked.parts)
        arrays = sorted((folder / "arrays").iterdir())
        photos = sorted((folder / "photos").iterdir())
        return max(
            compare("arrays", arrays, folder / "images.npy", batches_of_array, loaded, folder),
            compare("photos", photos, folder / "photos", batches_of_photos, loaded, folder),
        )


def write_data(folder: Path, count: int, parts: int) -> None:
    """Write images of noise, all to one file, and each part to a file and to a folder."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 256, (64, 28, 28), dtype=np.uint8)
    images = patterns[generator.integers(0, len(patterns), count)]
    np.save(folder / "images.npy", images)
    (folder / "arrays").mkdir()
    for i, part in enumerate(np.array_split(images, parts)):
        np.save(folder / "arrays" / f"{i:03}.npy", part)
        place = folder / "photos" / f"{i:03}"
        place.mkdir(parents=True)
        for j, image in enumerate(part):
            Image.fromarray(image).save(place / f"{j:06}.png", compress_level=1)


def batches_of_array(path: Path) -> Iterator[Tensor]:
    """Yield the batches of an array in a file, as anybody would write it."""
    images = np.load(path)
    for begin in range(0, len(images), _BATCH):
        yield torch.from_numpy(images[begin : begin + _BATCH])[:, None]


def batches_of_photos(folder: Path) -> Iterator[Tensor]:
    """Yield the batches of a folder of photos, as anybody would write it."""
    files = sorted(folder.rglob("*.png"))
    for begin in range(0, len(files), _BATCH):
        part = []
        for file in files[begin : begin + _BATCH]:
            with Image.open(file) as image:
                part.append(np.array(ImageOps.exif_transpose(image).convert("L")))
        yield torch.from_numpy(np.stack(part))[:, None]


def compare(
    what: str,
    parts: list[Path],
    whole: Path,
    plain: Callable[[Path], Iterator[Tensor]],
    model: LoadedModel,
    folder: Path,
) -> int:
    """Measure both sides in turns, then memory, and tell; returns 1 if a goal is missed."""
    device = model.scale.device
    predictor = Predictor(model, form_of(model.record), meaning_of(model.record), device)
    count = 0
    theirs, ours = [], []

    def plain_loop(path: Path) -> list[int]:
        found: list[int] = []
        with torch.no_grad():
            for batch in plain(path):
                found += model(batch.to(device)).argmax(1).tolist()
        return found

    def predict(path: Path, out: Path, progress: Callable[[int], None] | None = None) -> int:
        source = open_source(path, predictor.form)
        written = write_predictions(
            predictor, source, out, batch_size=_BATCH, overwrite=True, progress=progress
        )
        return written.count

    out = folder / f"{what}.csv"
    for i, path in enumerate(parts):
        # Whoever comes second finds the files in memory.
        if i % 2:
            ours.append(timed(predict, path, out)[0])
        taken, classes = timed(plain_loop, path)
        theirs.append(taken)
        if not i % 2:
            ours.append(timed(predict, path, out)[0])
        rows = out.read_text().splitlines()[1:]
        assert [int(row.split(",")[2]) for row in rows] == classes, "both sides predict the same"
        count += len(classes)
    ratio = statistics.median(a.wall_s / b.wall_s for a, b in zip(theirs, ours, strict=True))
    cpu = sum(a.cpu_s for a in theirs) / sum(b.cpu_s for b in ours)
    print(
        f"{what}: {count:,} images of 28x28: plain loop {count / sum(t.wall_s for t in theirs):,.0f}/s, "
        f"predict {count / sum(t.wall_s for t in ours):,.0f}/s; ratio {ratio:.2f} (goal {_GOAL}), of the "
        f"processor's time {cpu:.2f}",
        flush=True,
    )
    curve: list[float] = []
    predict(whole, out, watching(curve, count))
    growth = max(curve) - curve[0]
    print(
        f"{what}: MiB at each tenth of {count:,} images: {' '.join(f'{mb:.0f}' for mb in curve)}; grown by "
        f"{growth:.1f} (goal {_GROWTH_MB:g})",
        flush=True,
    )
    return int(ratio < _GOAL or growth > _GROWTH_MB)


def timed(act: Callable[..., _Result], *arguments: object) -> tuple[Times, _Result]:
    """Return how long it took, and what it gave."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = act(*arguments)
    return Times(time.perf_counter() - wall, time.process_time() - cpu), result


def watching(curve: list[float], count: int) -> Callable[[int], None]:
    """Return what notes the memory at each tenth of the way."""
    process = psutil.Process()

    def note(done: int) -> None:
        if done * _TENTHS >= count * (len(curve) + 1):
            info = process.memory_info()
            curve.append((info.rss - info.shared) / _MB)

    return note


if __name__ == "__main__":
    sys.exit(main())
