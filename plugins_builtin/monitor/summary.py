"""Numbers that describe a tensor, in two passes over its memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ringfence import Histogram

#: 256 KiB of float32: what one core keeps close by, so that the second look at a chunk is cheap.
CHUNK = 1 << 16
#: Ranges that float32 divides into bins without running over or under.
_FLOAT32_RANGES = (1e-30, 1e30)


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary of a tensor; mean, spread and range are of the finite numbers, NaN if there are none.

    Attributes:
        mean: Mean.
        std: Standard deviation, of the numbers as the whole population.
        low: Smallest.
        high: Largest.
        norm: L2 norm; NaN if any number is not finite.
        zeros: Share of zeros, in [0, 1].
        nonfinite: Share of numbers that are not finite, in [0, 1].
        histogram: Of the finite numbers, from the smallest to the largest; None if
            there are none, or none was asked for.
    """

    mean: float
    std: float
    low: float
    high: float
    norm: float
    zeros: float
    nonfinite: float
    histogram: Histogram | None


@dataclass(slots=True)
class _Moments:
    """Moments of some numbers: how many, mean, summed squares of the distance from it, range, non-zeros."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    nonzero: int = 0

    def add(self, other: _Moments) -> None:
        """Join two parts; in float64, so that parts of very different means lose nothing.

        Source: Chan, Golub & LeVeque 1983, equation 2.1, doi:10.1080/00031305.1983.10483115.
        """
        count = self.count + other.count
        if not count:
            return
        distance = other.mean - self.mean
        self.squares += other.squares + distance * distance * self.count * other.count / count
        self.mean += distance * other.count / count
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        self.nonzero += other.nonzero
        self.count = count


def summarise(tensor: Tensor, bins: int = 0) -> Summary:
    """Describe ``tensor``.

    Args:
        tensor: Any shape and dtype, real.
        bins: Bins of the histogram; 0 for none.
    """
    total = tensor.numel()
    found = _Moments()
    for chunk in _chunks(tensor):
        found.add(_moments(chunk))
    nonfinite = total - found.count
    none = found.count == 0
    norm = math.nan if nonfinite else math.sqrt(found.squares + found.count * found.mean * found.mean)
    return Summary(
        mean=math.nan if none else found.mean,
        std=math.nan if none else math.sqrt(found.squares / found.count),
        low=math.nan if none else found.low,
        high=math.nan if none else found.high,
        norm=norm,
        zeros=(found.count - found.nonzero) / max(total, 1),
        nonfinite=nonfinite / max(total, 1),
        histogram=None if none or not bins else _histogram(tensor, found, bins),
    )


def norm_of(tensor: Tensor) -> float:
    """Return the L2 norm; NaN if any number is not finite."""
    norm = float(torch.linalg.vector_norm(tensor))
    if norm == 0.0 or not math.isfinite(norm):
        # Squares run under or over float32 long before the numbers do.
        norm = float(torch.linalg.vector_norm(tensor.double()))
    return norm if math.isfinite(norm) else math.nan


def joint_norm(norms: Iterable[float]) -> float:
    """Return the norm of all numbers together from the norms of their parts."""
    return math.sqrt(math.fsum(norm * norm for norm in norms))


def ratio(update: float, weight: float) -> float:
    """Return ``update / weight``; infinite for a change of weights that are zero."""
    if weight:
        return update / weight
    return math.inf if update else 0.0


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        chunk = flat[start : start + CHUNK]
        yield chunk if chunk.dtype in {torch.float32, torch.float64} else chunk.float()


def _moments(chunk: Tensor) -> _Moments:
    fast = _moments_as_is(chunk)
    ran_under = fast.squares == 0.0 and fast.low != fast.high
    if math.isfinite(fast.mean) and math.isfinite(fast.squares) and not ran_under:
        return fast
    finite = chunk[torch.isfinite(chunk)].double()
    return _moments_as_is(finite) if finite.numel() else _Moments()


def _moments_as_is(chunk: Tensor) -> _Moments:
    count = chunk.numel()
    mean = float(chunk.sum()) / count
    centred = chunk - mean
    low, high = chunk.aminmax()
    return _Moments(
        count=count,
        mean=mean,
        squares=float(torch.dot(centred, centred)),
        low=float(low),
        high=float(high),
        nonzero=int(chunk.count_nonzero()),
    )


def _histogram(tensor: Tensor, found: _Moments, bins: int) -> Histogram:
    low, high = found.low, found.high
    if low == high:
        half = max(0.5, 0.01 * abs(low))
        low, high = low - half, high + half
    width = (high - low) / bins
    least, most = _FLOAT32_RANGES
    wide = not least < high - low < most
    counts = torch.zeros(bins, dtype=torch.int64)
    for chunk in _chunks(tensor):
        numbers = chunk if found.count == tensor.numel() else chunk[torch.isfinite(chunk)]
        numbers = numbers.double() if wide else numbers
        places = numbers.sub(low).mul_(1.0 / width).clamp_(0, bins - 1).to(torch.int32)
        counts += torch.bincount(places, minlength=bins)
    edges = [low + width * i for i in range(bins)]
    return Histogram(counts=counts.tolist(), edges=[*edges, high])
