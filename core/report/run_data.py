"""Read a run's folder for its report; whatever is missing, damaged or endless is left out, and named.

The folder may come from anybody: files are read below it only (``tree``), each up to a bound, and what they
say is used where it is of its kind (``entries``).
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..hooks.errors import shorten, visible
from ..plugins.failure_policy import FAULTS_KEPT
from ..plugins.number_words import counted
from ..plugins.result_checks import MAX_NAMES
from ..tensors.tensor_file import MAX_HEADER_BYTES, SIZE_BYTES
from ..tracking.json_lines import MAX_METRICS_BYTES, Bounds, LongJournalError, bounds_of, read_lines
from ..tracking.metrics_log import (
    AVERAGED_KINDS,
    MAX_REPORTERS,
    MAX_SAMPLES,
    REPORTS,
    SAMPLES,
    SAMPLES_TOLD,
)
from ..tracking.model_files import LAST
from ..tracking.numpy_archive import DamagedArchiveError
from ..tracking.plugin_reports import MAX_READ, file_name, picture_name
from ..tracking.predictions import TEST_PREDICTIONS, Predictions, read_predictions
from ..tracking.run_folder import CHECKPOINTS, EVENTS, JOB, MAX_JOB_BYTES, MAX_RECORD_BYTES, METRICS, RECORD
from ..tracking.untrusted_folder import OddFileError, Tree
from .entries import (
    LARGEST_COUNT,
    MAX_PLUGINS,
    EventEntry,
    FaultEntry,
    HistogramEntry,
    InfoEntry,
    PluginEntry,
    ReportEntry,
    RunEntry,
    SampleEntry,
    fitting,
    objects,
    whole,
)

#: Of one journal: each costs more than one that is whole.
MAX_ODD_LINES = 10_000
MAX_EVENTS_BYTES = 64 << 20
MAX_SAMPLES_BYTES = 1 << 20
#: Of all files of ``reports/`` together; each has an equal share.
MAX_REPORTS_BYTES = 256 << 20
#: Numbers of one origin that are held; a chart has some hundred points.
MAX_POINTS = 500_000
#: Of all origins together.
MAX_ALL_NAMES, MAX_ALL_POINTS = 65_536, 4_000_000
#: First and last of all events.
MAX_EVENTS = 1000
#: Layers of one family of histograms, and of all families of a plugin.
MAX_LAYERS = 16
MAX_LAYERS_OF_ONE = 32
MAX_NOTES = 100
_NOTE_CHARACTERS = 400
_NOT_NUMBERS = frozenset(("kind", "step", "epoch", "plugin", "best", "time", "samples"))

T = TypeVar("T")
M = TypeVar("M", bound=Mapping[str, Any])


@dataclass(frozen=True, slots=True)
class Curve:
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


class LeftOut:
    """The parts of a folder that the page goes without, told in one sentence each."""

    def __init__(self) -> None:
        self._told: dict[str, None] = {}
        self._more = 0

    def add(self, sentence: str) -> None:
        """Take a sentence."""
        text = visible(shorten(sentence, _NOTE_CHARACTERS))
        if text in self._told or len(self._told) < MAX_NOTES:
            self._told[text] = None
        else:
            self._more += 1

    def told(self) -> list[str]:
        """Return all that were taken, or the first of them and how many more there are."""
        return [*self._told, *([f"and {self._more} more"] if self._more else [])]


@dataclass(frozen=True, slots=True)
class RunData:
    """The contents of a run's folder.

    Attributes:
        path: The folder.
        record: ``run.json`` without its plugins and faults; empty if it is not there.
        entries: Its plugins.
        info: What was known before the first step; empty if it never came to that.
        train: ``loss`` and ``lr_factor`` over steps.
        validation: Metric to its values over steps.
        test: Likewise; one value of each, at the end, where validation data judge.
        averaged: Likewise with averages of the weights, by part and average, such as ``("test", "ema")``.
        plugins: Plugin to name to numbers over steps.
        layers: Plugin to histograms over steps.
        pictures: Plugin to name to its latest picture's file, among the reports.
        events: In order.
        faults: Of plugins, in order, as ``run.json`` has them.
        samples: File and target of some training images.
        job: The resolved job as text.
        predictions: What the finished model made of the test data; None if that is not there.
        shapes: Parameter or buffer to its shape; none before the run's end.
        left_out: What is not taken from the folder, and why.
    """

    path: Path
    record: RunEntry
    entries: Sequence[PluginEntry]
    info: InfoEntry
    train: Mapping[str, Curve]
    validation: Mapping[str, Curve]
    test: Mapping[str, Curve]
    averaged: Mapping[tuple[str, str], Mapping[str, Curve]]
    plugins: Mapping[str, Mapping[str, Curve]]
    layers: Mapping[str, Mapping[str, Layer]]
    pictures: Mapping[str, Mapping[str, str]]
    events: Sequence[EventEntry]
    faults: Sequence[FaultEntry]
    samples: Sequence[SampleEntry]
    job: str
    predictions: Predictions | None
    shapes: Mapping[str, tuple[int, ...]]
    left_out: LeftOut

    @property
    def judging(self) -> tuple[str, Mapping[str, Curve]]:
        """The part of the data that judges the run, and the curves of it."""
        return ("validation", self.validation) if self.validation else ("test", self.test)

    @property
    def cut_down(self) -> str:
        """How the run was cut down to try its job out; ``""`` if it is a whole one."""
        reduction = self.record.get("reduction")
        if reduction is None:
            return ""
        kind, samples = reduction.get("kind"), reduction.get("samples")
        if kind == "overfit" and samples is not None:
            return f"overfit, {counted(samples, 'sample')}"
        return "fast-dev-run" if kind == "fast_dev_run" else "cut down"


@dataclass(slots=True)
class _Room:
    """What is left for the numbers of a run, of all origins together."""

    names: int = MAX_ALL_NAMES
    points: int = MAX_ALL_POINTS


@dataclass(slots=True)
class _Numbers:
    """Numbers of one origin over steps; once they are very many, every other record goes."""

    room: _Room
    series: dict[str, Curve] = field(default_factory=dict)
    _points: int = 0
    _records: int = 0
    _every: int = 1

    def add(self, step: int, values: Mapping[str, Any], prefix: str) -> None:
        """Take the numbers of one record."""
        self._records += 1
        if self._records % self._every:
            return
        for key, value in values.items():
            name = key.removeprefix(prefix)
            if key in _NOT_NUMBERS:
                continue
            one = self.series.get(name)
            if one is None:
                if len(self.series) >= MAX_NAMES or not self.room.names:
                    continue
                self.room.names -= 1
                one = self.series[name] = Curve(name)
            one.steps.append(step)
            one.values.append(_number(value))
            self._points += 1
            self.room.points -= 1
        if self._points > MAX_POINTS or self.room.points < 0:
            self._halve()

    def _halve(self) -> None:
        self._every *= 2
        before = self._points
        for one in self.series.values():
            if len(one.steps) > 1:
                del one.steps[::2], one.values[::2]
        self._points = sum(len(one.steps) for one in self.series.values())
        self.room.points += before - self._points


class _Reader:
    """Reads the files of one run; notes what is left out."""

    def __init__(self, folder: Path) -> None:
        self.tree = Tree(folder)
        self.left_out = LeftOut()

    def text(self, name: str, most: int) -> str:
        """Return what a file holds; ``""`` if it cannot be had."""
        try:
            return self.tree.read(name, most).decode(errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            self.refuse(name, error)
            return ""

    def json(self, name: str, most: int) -> dict[str, Any]:
        """Return the object that a file holds; an empty one if it cannot be had."""
        text = self.text(name, most)
        if not text:
            return {}
        try:
            # What is not finite is null in these files.
            value = json.loads(text, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self.left_out.add(f"{name} is damaged")
            return {}
        return value

    def records(self, name: str, most: Bounds, take: Callable[[dict[str, Any]], T | None]) -> Iterator[T]:
        """Yield what ``take`` makes of a journal's records within its bounds.

        Lines without a record of a step, and those of which it makes None, are noted.
        """
        odd = _OddLines(name, self.left_out)
        try:
            for line in read_lines(self.tree, name, most):
                odd.number += 1
                is_one = line.record is not None and _is_count(line.record.get("step"))
                taken = take(line.record) if line.record is not None and is_one else None
                if taken is None:
                    odd.add()
                    if odd.count == MAX_ODD_LINES:
                        self.left_out.add(f"{name} is read no further than {MAX_ODD_LINES} damaged lines")
                        break
                else:
                    yield taken
        except LongJournalError as error:
            self.left_out.add(str(error))
        except OSError as error:
            self.refuse(name, error)
        odd.tell()

    def refuse(self, name: str, error: OSError) -> None:
        """Note a file that cannot be read."""
        why = error.strerror or str(error)
        self.left_out.add(why if isinstance(error, OddFileError) else f"{name} cannot be read: {why}")

    def fitting(self, where: str, value: Mapping[str, Any], kind: type[M]) -> M:
        """Return the keys of an object that are of their kind, and note the others."""
        found, odd = fitting(value, kind)
        for key in odd:
            self.left_out.add(f"{where}: {key} is not what it is in a run of ringfence")
        return found


@dataclass(slots=True)
class _OddLines:
    """The lines of one journal that are not as they are written: how many, and which comes first."""

    name: str
    left_out: LeftOut
    number: int = 0
    count: int = 0
    first: int = 0

    def add(self) -> None:
        """Take the current line."""
        self.first = self.first or self.number
        self.count += 1

    def tell(self) -> None:
        """Note them, if there are any."""
        if self.count == 1:
            self.left_out.add(f"{self.name}: line {self.first} is damaged")
        elif self.count:
            self.left_out.add(f"{self.name}: {self.count} lines are damaged, the first is line {self.first}")


def read_run(folder: Path) -> RunData:
    """Return what ``folder`` holds, as far as it is what a run writes."""
    reader = _Reader(folder)
    _look_around(reader)
    info: dict[str, Any] = {}
    room = _Room()
    numbers = {kind: _Numbers(room) for kind in ("train", "validation", "test", *AVERAGED_KINDS)}
    plugins: dict[str, _Numbers] = {}
    for record in reader.records(METRICS, bounds_of(MAX_METRICS_BYTES), _of_metrics):
        kind = record["kind"]
        if kind == "run":
            info = record
        elif kind == "plugin":
            plugin = record["plugin"]
            if plugin in plugins or len(plugins) < MAX_PLUGINS:
                plugins.setdefault(plugin, _Numbers(room)).add(record["step"], record, f"{plugin}/")
        else:
            numbers[kind].add(record["step"], record, "")
    averaged = {}
    for kind in sorted(AVERAGED_KINDS):
        if numbers[kind].series:
            part, _, name = kind.partition("_")
            averaged[part, name] = numbers[kind].series
    layers, pictures = _read_reports(reader)
    run = reader.json(RECORD, MAX_RECORD_BYTES)
    return RunData(
        path=folder,
        record=reader.fitting(RECORD, run, RunEntry),
        entries=_plugin_entries(reader, run),
        info=reader.fitting(f"{METRICS}, kind run", info, InfoEntry),
        train=numbers["train"].series,
        validation=numbers["validation"].series,
        test=numbers["test"].series,
        averaged=averaged,
        plugins={name: one.series for name, one in plugins.items()},
        layers=layers,
        pictures=pictures,
        events=_events(reader),
        faults=[fitting(fault, FaultEntry)[0] for fault in objects(run.get("faults"), 2 * FAULTS_KEPT)],
        samples=_samples(reader),
        job=reader.text(JOB, MAX_JOB_BYTES),
        predictions=_predictions(reader),
        shapes=_shapes(reader),
        left_out=reader.left_out,
    )


def _of_metrics(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return a record of a kind that there is, a plugin's with its name."""
    kind, plugin = record.get("kind"), record.get("plugin")
    is_known = kind in ("run", "train", "validation", "test", *AVERAGED_KINDS) or (
        kind == "plugin" and isinstance(plugin, str)
    )
    return record if is_known else None


def _look_around(reader: _Reader) -> None:
    try:
        for odd in reader.tree.odd(several_names=[CHECKPOINTS]):
            reader.left_out.add(odd)
    except OSError as error:
        reader.refuse("a folder in it", error)


def _plugin_entries(reader: _Reader, run: Mapping[str, Any]) -> list[PluginEntry]:
    entries = []
    for i, value in enumerate(objects(run.get("plugins"), MAX_PLUGINS)):
        entry = reader.fitting(f"{RECORD}, plugin {i + 1}", value, PluginEntry)
        if "name" in entry:
            entries.append(entry)
        else:
            reader.left_out.add(f"{RECORD}: plugin {i + 1} has no name")
    return entries


def _events(reader: _Reader) -> list[EventEntry]:
    """Return the first and the last events."""
    first: list[dict[str, Any]] = []
    last: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS // 2)
    count = 0
    for record in reader.records(EVENTS, bounds_of(MAX_EVENTS_BYTES), lambda record: record):
        count += 1
        (first if count <= MAX_EVENTS // 2 else last).append(record)
    if count > MAX_EVENTS:
        reader.left_out.add(f"{EVENTS}: {count - MAX_EVENTS} events between the first and the last")
    return [reader.fitting(EVENTS, record, EventEntry) for record in (*first, *last)]


def _samples(reader: _Reader) -> list[SampleEntry]:
    name = f"{SAMPLES}/{SAMPLES_TOLD}"
    images = objects(reader.json(name, MAX_SAMPLES_BYTES).get("images"), MAX_SAMPLES)
    samples = [whole(image, SampleEntry) for image in images]
    if None in samples:
        reader.left_out.add(f"{name}: an image is not named or labelled as they are in a run of ringfence")
    return [sample for sample in samples if sample is not None]


def _predictions(reader: _Reader) -> Predictions | None:
    try:
        return read_predictions(reader.tree)
    except FileNotFoundError:
        return None
    except DamagedArchiveError as error:
        reader.left_out.add(f"{TEST_PREDICTIONS} is damaged: {error}")
    except OSError as error:
        reader.refuse(TEST_PREDICTIONS, error)
    return None


def _shapes(reader: _Reader) -> dict[str, tuple[int, ...]]:
    """Return the shapes in the head of the weights' file; none of their numbers is read."""
    try:
        with os.fdopen(reader.tree.open(LAST, os.O_RDONLY), "rb") as file:
            size = int.from_bytes(file.read(SIZE_BYTES), "little")
            head = json.loads(file.read(size)) if size <= MAX_HEADER_BYTES else None
    except FileNotFoundError:
        return {}
    except OSError as error:
        reader.refuse(LAST, error)
        return {}
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        reader.left_out.add(f"{LAST} is damaged")
        return {}
    entries = {name: entry.get("shape") for name, entry in head.items() if isinstance(entry, dict)}
    return {name: tuple(shape) for name, shape in entries.items() if isinstance(shape, list)}


def _number(value: object) -> float:
    """Return a number of a journal; what is not finite was spelled out, and what is no number is a gap."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_COUNT


def _read_reports(reader: _Reader) -> tuple[dict[str, dict[str, Layer]], dict[str, dict[str, str]]]:
    layers: dict[str, dict[str, Layer]] = {}
    pictures: dict[str, dict[str, str]] = {}
    names = _journals(reader)
    for name in names:
        file = f"{REPORTS}/{name}"
        most = Bounds(MAX_REPORTS_BYTES // len(names), MAX_READ.lines)
        for entry in reader.records(file, most, partial(_of_reports, name)):
            plugin, step = entry["plugin"], entry["step"]
            for label, value in entry["histograms"].items():
                own = layers.setdefault(plugin, {})
                if label not in own and not _has_room(own, label):
                    continue
                histogram = whole(value, HistogramEntry)
                if histogram is None or not _is_increasing(histogram):
                    reader.left_out.add(f"{file}: histogram '{label}' of step {step} is damaged")
                    continue
                layer = own.setdefault(label, Layer(label))
                layer.steps.append(step)
                layer.counts.append(histogram["counts"])
                layer.edges.append(histogram["edges"])
            for label, picture in entry["images"].items():
                # Older pictures may have been dropped; the latest is what is shown.
                if picture == picture_name(plugin, step, label):
                    pictures.setdefault(plugin, {})[label] = picture
                else:
                    reader.left_out.add(
                        f"{file}: picture '{label}' of step {step}: {picture} is not its name"
                    )
    return layers, pictures


def _journals(reader: _Reader) -> list[str]:
    try:
        names = [name for name in reader.tree.names(REPORTS) if name.endswith(".jsonl")]
    except OSError as error:
        reader.refuse(REPORTS, error)
        return []
    if len(names) > MAX_REPORTERS:
        reader.left_out.add(f"{REPORTS} has files of {len(names)} plugins; {MAX_REPORTERS} are read")
    return names[:MAX_REPORTERS]


def _of_reports(name: str, record: dict[str, Any]) -> ReportEntry | None:
    """Return a record of the plugin that a file of ``reports/`` is called after."""
    entry = whole(record, ReportEntry)
    return entry if entry is not None and f"{file_name(entry['plugin'])}.jsonl" == name else None


def _has_room(layers: Mapping[str, Layer], name: str) -> bool:
    """Tell whether one more layer of a plugin is drawn."""
    families = Counter(known.partition("/")[0] for known in layers)
    return families[name.partition("/")[0]] < MAX_LAYERS and len(layers) < MAX_LAYERS_OF_ONE


def _is_increasing(histogram: HistogramEntry) -> bool:
    edges = histogram["edges"]
    fits = len(edges) == len(histogram["counts"]) + 1 and min(histogram["counts"]) >= 0
    return fits and all(a < b for a, b in itertools.pairwise(edges))
