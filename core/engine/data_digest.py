"""Digests of data, by which a resumed run tells whether the data are the same.

It is to notice what was changed or replaced, not what was forged: checksums, put together.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..tensors.tree_form import named_tensors
from .data import Data, Dataset

#: Up to here every byte counts, at 1 to 2 GB/s and core.
WHOLE_BYTES = 8 << 30
#: Samples that stand for more than that: looking at each costs a disk that is slow 10 ms.
SAMPLED = 4096
_CHUNK_BYTES = 1 << 20
_MAX_THREADS = 8
_DIGITS = 16


def digest_data(data: Data) -> Mapping[str, str]:
    """Return what a resumed run must find again: a phrase for each part, with number of samples and digest.

    Tensors of more than ``WHOLE_BYTES`` are told by their shape and ``SAMPLED`` samples, evenly spread and
    the last one among them.
    """
    told, known = {}, {}
    for name, part in data.parts().items():
        # Parts that were drawn from the same samples are read once.
        key = (id(part.inputs), id(part.targets))
        if key not in known:
            known[key] = _digest(part)
        told[name] = _describe(part, known[key].copy())
    if data.mean is not None:
        told["normalisation"] = f"mean {data.mean}, std {data.std}"
    return told


def _describe(dataset: Dataset, whole: hashlib._Hash) -> str:
    if dataset.rows is not None:
        whole.update(dataset.rows.numpy().tobytes())
    return f"{len(dataset)} samples, {whole.hexdigest()[:_DIGITS]}"


def _digest(dataset: Dataset) -> hashlib._Hash:
    whole = hashlib.sha256()
    if dataset.is_read:
        # What is read may be more than anybody would wait for; what it is like may be drawn.
        whole.update(f"{dataset.stored_rows} samples that are read".encode())
        return whole
    named = [*named_tensors(dataset.inputs, "inputs"), *named_tensors(dataset.targets, "targets")]
    for path, tensor in named:
        # Of one tensor each the digest is what it was before there were trees.
        name = "" if path in {"inputs", "targets"} else f"{path} "
        whole.update(f"{name}{tensor.dtype} {tuple(tensor.shape)}".encode())
        threads = min(len(os.sched_getaffinity(0)), _MAX_THREADS)
        with ThreadPoolExecutor(threads) as pool:
            for checksum in pool.map(_checksum, _chunks(tensor.detach())):
                whole.update(checksum.to_bytes(4, "little"))
    return whole


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    """Yield some samples at a time: as views, so that what is mapped from a file need not fit into memory."""
    count = len(tensor)
    row_bytes = tensor[0].numel() * tensor.itemsize
    if count * row_bytes > WHOLE_BYTES:
        sampled = min(SAMPLED, max(WHOLE_BYTES // row_bytes, 1))
        for i in sorted({count * i // sampled for i in range(sampled)} | {count - 1}):
            yield tensor[i : i + 1]
    else:
        yield from tensor.split(max(_CHUNK_BYTES // max(row_bytes, 1), 1))  # type: ignore[no-untyped-call]


def _checksum(chunk: Tensor) -> int:
    return zlib.crc32(chunk.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
