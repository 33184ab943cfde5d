"""Entries of a run's files that its page shows, each of its kind and within bounds.

A run's folder may come from anybody. What is not of its kind is left out, key by key, so that the page shows
what is whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, TypedDict, TypeVar, cast, get_type_hints

import msgspec

from ..plugins.result_checks import MAX_BINS

#: More is no count, and readers of JSON differ about it.
LARGEST_COUNT = 2**53
MAX_PLUGINS = 256

Name = Annotated[str, msgspec.Meta(max_length=400)]
Text = Annotated[str, msgspec.Meta(max_length=64 << 10)]
Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNT)]
#: Finite: what was not is null.
Number = Annotated[float, msgspec.Meta(ge=-1.7e308, le=1.7e308)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
_Names = Annotated[list[Name], msgspec.Meta(max_length=256)]
_Reasons = Annotated[dict[Text, Text], msgspec.Meta(max_length=256)]

#: What is of another kind; half a pair of UTF-16, which JSON may hold; an integer that no float holds.
_ODD = (msgspec.ValidationError, UnicodeEncodeError, OverflowError)

T = TypeVar("T", bound=Mapping[str, Any])


class PermissionsEntry(TypedDict, total=False):
    """The permissions of a plugin in ``run.json``."""

    needs: Annotated[dict[Name, _Reasons], msgspec.Meta(max_length=16)]
    granted: Annotated[
        dict[Name, Annotated[list[Text], msgspec.Meta(max_length=1024)]], msgspec.Meta(max_length=16)
    ]


class PluginEntry(TypedDict, total=False):
    """One plugin of ``run.json``."""

    name: Name
    distribution: Name
    version: Name
    role: Name
    isolation: Name
    layers: _Names
    permissions: PermissionsEntry
    workers: Count
    sha256: Name
    budget_bytes: Count
    peak_bytes: Count
    calls: Count
    seconds: Amount
    restarts: Count
    skipped: Count
    attempts: Annotated[dict[Name, Count], msgspec.Meta(max_length=1024)]
    attempts_at_least: bool
    state: Name


class FaultEntry(TypedDict, total=False):
    """One fault of ``run.json``."""

    step: Count
    plugin: Name
    hook: Name
    error: Name
    message: Text
    traceback: Text
    decision: Name
    steps_lost: Count
    recovery_s: Amount


class ReductionEntry(TypedDict, total=False):
    """How a run of ``run.json`` was cut down."""

    kind: Name
    samples: Count


class RunEntry(TypedDict, total=False):
    """``run.json``, but for its plugins and faults."""

    status: Name
    error: Text
    final_metrics: Annotated[dict[Name, Number | None], msgspec.Meta(max_length=64)]
    final_metrics_step: Count
    judged_by: Name
    test_metrics: Annotated[dict[Name, Number | None], msgspec.Meta(max_length=64)]
    best_metric: Number
    best_step: Count
    steps: Count
    epochs: Count
    weights_sha256: Name
    checkpoint: Text
    data_notes: Annotated[list[Text], msgspec.Meta(max_length=256)]
    seconds: Amount
    steps_per_second: Amount
    started: Name
    resumed: Count
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    ringfence_version: Name
    torch_version: Name
    python_version: Name
    platform: Name
    device: Name
    threads: Count
    faults_left_out: Count
    steps_lost: Count
    reduction: ReductionEntry


class InfoEntry(TypedDict, total=False):
    """The line ``run`` of ``metrics.jsonl``."""

    steps_total: Count
    train_samples: Count
    validation_samples: Count
    test_samples: Count
    parameters: Count
    metric: Name
    higher_is_better: bool
    directions: Annotated[dict[Name, bool], msgspec.Meta(max_length=64)]
    device: Name


class EventEntry(TypedDict, total=False):
    """A line of ``events.jsonl``."""

    time: Name
    step: Count
    message: Text


class SampleEntry(TypedDict):
    """An image of ``samples.json``."""

    file: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{2,4}\.png\Z")]
    target: (
        Name
        | Number
        | Annotated[list[Number], msgspec.Meta(max_length=64)]
        | Annotated[dict[Name, Number], msgspec.Meta(max_length=4096)]
    )


class HistogramEntry(TypedDict):
    """A histogram of ``reports/``."""

    counts: Annotated[list[Number], msgspec.Meta(min_length=1, max_length=MAX_BINS)]
    edges: Annotated[list[Number], msgspec.Meta(min_length=2, max_length=MAX_BINS + 1)]


class ReportEntry(TypedDict):
    """A line of ``reports/``; its histograms are looked at one by one."""

    step: Count
    plugin: Name
    histograms: dict[Name, Any]
    images: dict[Name, Name]


def fitting(value: Mapping[str, Any], kind: type[T]) -> tuple[T, list[str]]:
    """Return the keys of ``value`` that are of their kind, and the names of those that are not.

    Args:
        value: Of a file; what is null counts as missing.
        kind: One of the classes above.
    """
    found, odd = {}, []
    for key, wanted in _types(kind).items():
        if value.get(key) is not None:
            try:
                found[key] = msgspec.convert(value[key], wanted)
            except _ODD:
                odd.append(key)
    return cast("T", found), odd


def whole(value: object, kind: type[T]) -> T | None:
    """Return ``value`` if all of it is of its kind."""
    try:
        return cast("T", msgspec.convert(value, kind))
    except _ODD:
        return None


def objects(value: object, most: int) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list, at most so many."""
    if isinstance(value, list):
        yield from (item for item in value[:most] if isinstance(item, dict))


@cache
def _types(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)
