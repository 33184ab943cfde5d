"""Read a run's folder for its report; whatever is missing or cut short is left out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..folder import JOB, RECORD
from .journal import read_journal
from .recorder import EVENTS, METRICS, REPORTS, SAMPLES


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers over steps.

    Attributes:
        name: For the legend.
        steps: Increasing.
        values: As many; NaN where a number was not finite.
    """

    name: str
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Layer:
    """Histograms of one name over steps.

    Attributes:
        name: As the monitor gave it.
        steps: Increasing.
        counts: One list a step, each of N numbers.
        edges: One list a step, each of N + 1 numbers.
    """

    name: str
    steps: list[int] = field(default_factory=list)
    counts: list[list[float]] = field(default_factory=list)
    edges: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What a run's folder holds.

    Attributes:
        path: The folder.
        record: ``run.json``; empty if it is not there.
        info: What was known before the first step; empty if it never came to that.
        train: ``loss`` and ``lr_factor`` over steps.
        test: Metric to its values over steps.
        plugins: Plugin to name to numbers over steps.
        layers: Plugin to histograms over steps.
        pictures: Plugin to name to its latest picture's file.
        events: In order.
        faults: Of plugins, in order, as ``run.json`` has them.
        samples: File and target of some training images.
        job: The resolved job as text.
    """

    path: Path
    record: Mapping[str, Any]
    info: Mapping[str, Any]
    train: Mapping[str, Series]
    test: Mapping[str, Series]
    plugins: Mapping[str, Mapping[str, Series]]
    layers: Mapping[str, Mapping[str, Layer]]
    pictures: Mapping[str, Mapping[str, Path]]
    events: list[Mapping[str, Any]]
    faults: list[Mapping[str, Any]]
    samples: list[Mapping[str, Any]]
    job: str


_NOT_NUMBERS = frozenset(("kind", "step", "epoch", "plugin", "best", "time", "samples"))


def read_run(folder: Path) -> RunFolder:
    """Return what ``folder`` holds."""
    info: dict[str, Any] = {}
    train: dict[str, Series] = {}
    test: dict[str, Series] = {}
    plugins: dict[str, dict[str, Series]] = {}
    for record in read_journal(folder / METRICS):
        kind = record.get("kind")
        if kind == "run":
            info = record
        elif kind == "train":
            _collect(train, record)
        elif kind == "test":
            _collect(test, record)
        elif kind == "plugin":
            _collect(plugins.setdefault(str(record.get("plugin")), {}), record)
    layers, pictures = _read_reports(folder / REPORTS)
    run = _read_json(folder / RECORD)
    return RunFolder(
        path=folder,
        record=run,
        info=info,
        train=train,
        test=test,
        plugins=plugins,
        layers=layers,
        pictures=pictures,
        events=list(read_journal(folder / EVENTS)),
        faults=_objects(run.get("faults")),
        samples=list(_read_json(folder / SAMPLES / "samples.json").get("images", [])),
        job=_read_text(folder / JOB),
    )


def _collect(series: dict[str, Series], record: Mapping[str, Any]) -> None:
    prefix = f"{record.get('plugin')}/"
    for key, value in record.items():
        if key in _NOT_NUMBERS:
            continue
        name = key.removeprefix(prefix)
        one = series.setdefault(name, Series(name))
        one.steps.append(int(record["step"]))
        one.values.append(_number(value))


def _number(value: object) -> float:
    """Return a number of a journal; what is not finite was spelled out."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (OverflowError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _read_reports(folder: Path) -> tuple[dict[str, dict[str, Layer]], dict[str, dict[str, Path]]]:
    layers: dict[str, dict[str, Layer]] = {}
    pictures: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for record in read_journal(path):
            plugin = str(record["plugin"])
            for name, histogram in record["histograms"].items():
                layer = layers.setdefault(plugin, {}).setdefault(name, Layer(name))
                layer.steps.append(record["step"])
                layer.counts.append(histogram["counts"])
                layer.edges.append(histogram["edges"])
            for name, file in record["images"].items():
                # Older pictures may have been dropped; the latest is what is shown.
                pictures.setdefault(plugin, {})[name] = folder / file
    return layers, pictures


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
