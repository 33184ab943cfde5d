"""Write what happens in a run to its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ..hooks.errors import visible
from ..hooks.types import Batch, Report, StepInfo
from ..plugins.interface import Plugin
from ..plugins.number_words import counted
from ..plugins.observer import Observer, RunInfo
from .json_lines import (
    MAX_LINE_BYTES,
    MAX_METRICS_BYTES,
    Bounds,
    Journal,
    LongJournalError,
    bounds_of,
    read_lines,
)
from .plugin_reports import PluginStore, file_name
from .png import from_batch, size_of, to_png
from .run_folder import EVENTS, METRICS, explain_disk_faults
from .tensorboard import Board, NoBoard, is_installed
from .untrusted_folder import Tree

REPORTS = "reports"
SAMPLES = "samples"
SAMPLES_TOLD = "samples.json"
BOARD = "tensorboard"
#: Plugins whose reports are gone on with, and drawn.
MAX_REPORTERS = 64
#: How far the first report of a plugin is looked for, behind damaged lines.
_FIRST_REPORT = Bounds(2 * MAX_LINE_BYTES, 16)
#: Evaluations of averages of the weights.
AVERAGED_KINDS = frozenset(f"{part}_{name}" for part in ("validation", "test") for name in ("ema", "swa"))
#: What the tags of the run's own curves and pictures begin with.
OWN_TAGS = frozenset({"train", "validation", "test", SAMPLES, *AVERAGED_KINDS})

#: Images of the first batch that are kept.
MAX_SAMPLES = 32
#: On a GPU, reading the loss makes the host wait: not at every step.
GPU_LOSS_EVERY = 10
_IMAGE_DIMS = 4
_SMALLEST_SHARE = 0.005


class MetricsLog(Observer):
    """Writes what happens in a run into its folder.

    ======================  ==================================================
    ``metrics.jsonl``       every number, one line a step and origin
    ``events.jsonl``        resumes, restarts, disabled plugins, why the run ended …
    ``reports/``            histograms and pictures of monitors, bounded
    ``samples/``            images of the first batch, as the model saw them
    ``tensorboard/``        all of it for TensorBoard, if that is installed
    ======================  ==================================================

    Numbers of a step go to disk when the step is finished: augment plugins run
    ahead, and what they log for a step that is rolled back must not stay.

    Args:
        folder: Of the run; exists.
        class_names: Of the data, to label the samples.
        resumed: Whether the run goes on from a checkpoint.

    Raises:
        RunAbortedError: From any method: the disk is full or the folder unwritable.
    """

    def __init__(self, folder: Path, *, class_names: tuple[str, ...] = (), resumed: bool = False) -> None:
        self._folder = folder
        self._tree = tree = Tree(folder)
        self._resumed = resumed
        self._class_names = class_names
        self._metrics = Journal(tree, METRICS)
        self._events = Journal(tree, EVENTS)
        self._board = (Board if is_installed() else NoBoard)(tree, BOARD)
        self._stores: dict[str, PluginStore] = {}
        self._earlier: list[str] | None = None
        self._finished = 0
        self._judged_by = "test"
        self._loss_every = 1
        self._ahead: dict[int, dict[str, _Logged]] = {}
        self._observers: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # from the engine

    def plugins_started(self, plugins: Sequence[Plugin], order: Mapping[str, Sequence[str]]) -> None:
        """Note which plugins only observe."""
        del order
        self._observers = {plugin.spec.name for plugin in plugins if plugin.spec.role_info.observes}

    def started(self, info: RunInfo) -> None:
        """Write what is known before the first step."""
        self._finished, self._judged_by = info.first_step, info.judged_by
        self._loss_every = GPU_LOSS_EVERY if info.device.startswith("cuda") else 1
        with explain_disk_faults(self._folder):
            if info.first_step == 0:
                self._start_over()
            self._metrics.append({"kind": "run", "step": info.first_step, **dataclasses.asdict(info)})
            self._events.open()
        if self._resumed:
            self.event(f"resumed after {counted(info.first_step, 'step')}")

    def sampled(self, batch: Batch, step: StepInfo) -> None:
        """Keep some images of the first batch."""
        inputs, targets = batch.inputs, batch.targets
        if not isinstance(inputs, Tensor) or inputs.dim() != _IMAGE_DIMS or not inputs.is_floating_point():
            return
        with explain_disk_faults(self._folder):
            self._tree.make(SAMPLES)
            images = []
            for i, image in enumerate(inputs[:MAX_SAMPLES]):
                pixels = from_batch(image)
                png = to_png(pixels)
                self._tree.write(f"{SAMPLES}/{i:02}.png", [png])
                self._board.image(f"samples/{i:02}", png, size_of(pixels), step.global_step)
                one = isinstance(targets, Tensor) and (targets.dim() == 1 or targets.is_floating_point())
                target = self._target(targets[i], batch.num_classes) if one else None
                images.append({"file": f"{i:02}.png", "index": int(batch.indices[i]), "target": target})
            told = json.dumps({"step": step.global_step, "images": images})
            self._tree.write(f"{SAMPLES}/{SAMPLES_TOLD}", [told.encode()])

    def wants_loss(self, step: StepInfo) -> bool:
        """Ask for the loss of every step on a CPU, of every tenth on a GPU."""
        return step.global_step % self._loss_every == 0

    def step(self, step: StepInfo, loss: float | None, samples: int) -> None:
        """Write the loss, and what plugins logged for this step."""
        self._finished = step.global_step + 1
        with explain_disk_faults(self._folder):
            if loss is not None:
                values = {"loss": loss, "lr_factor": step.lr_factor}
                self._write("train", step.global_step, step.epoch, values, samples=samples)
            for number in sorted(n for n in self._ahead if n < self._finished):
                for plugin, logged in self._ahead.pop(number).items():
                    self._write_plugin(plugin, number, logged.epoch, logged.means())

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, float], *, best: bool) -> None:
        """Write the numbers of an evaluation."""
        with explain_disk_faults(self._folder):
            self._write(self._judged_by, step, epoch, metrics, best=best, time=round(time.time(), 3))
            self._board.flush()

    def tested(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the numbers of the test at the end."""
        with explain_disk_faults(self._folder):
            self._write("test", step, epoch, metrics, time=round(time.time(), 3))
            self._board.flush()

    def evaluated_beside(
        self, step: int, epoch: int, metrics: Mapping[str, float], *, part: str, name: str
    ) -> None:
        """Write the numbers of an evaluation of an average of the weights."""
        with explain_disk_faults(self._folder):
            self._write(f"{part}_{name}", step, epoch, metrics, time=round(time.time(), 3))

    def position(self) -> Any:
        """Return the length of ``metrics.jsonl``; everything else is cut back by step."""
        with explain_disk_faults(self._folder):
            self._board.flush()
            return {"metrics_bytes": self._metrics.size()}

    def rolled_back(self, to_step: int, position: Any) -> None:
        """Drop the lines after ``position``, and what was kept for ``to_step`` and later."""
        self._ahead.clear()
        self._finished = to_step
        with explain_disk_faults(self._folder):
            size = position.get("metrics_bytes") if isinstance(position, dict) else None
            if not isinstance(size, int) or not self._metrics.truncate(size):
                # The file is shorter than it was, as after a power failure: whole steps are kept.
                self._metrics.keep(self._whole_steps(to_step))
            for plugin in self._reporters():
                self._store(plugin).roll_back(to_step)
            self._board.purge(to_step)

    # from the plugins

    def reported(
        self, plugin: str, step: StepInfo, scalars: Mapping[str, float], report: Report | None
    ) -> None:
        """Write what a plugin logged or reported."""
        numbers = {**scalars, **(report.scalars if report else {})}
        number = step.global_step
        if plugin in self._observers and number > self._finished:
            # Asked before a roll-back, answered after: it will be asked again.
            return
        with explain_disk_faults(self._folder):
            if report is not None and (report.histograms or report.images):
                self._keep(plugin, number, report)
            if number < self._finished:
                self._write_plugin(plugin, number, step.epoch, numbers)
            elif numbers:
                logged = self._ahead.setdefault(number, {}).setdefault(plugin, _Logged(step.epoch))
                logged.add(numbers)

    def event(self, message: str) -> None:
        """Write a decision about a plugin or the run; a roll-back leaves it."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with explain_disk_faults(self._folder):
            self._events.append({"time": now, "step": self._finished, "message": visible(message)})

    def close(self) -> None:
        """Write what is left and close all files; safe to call twice."""
        with explain_disk_faults(self._folder):
            self._board.close()
        self._metrics.close()
        self._events.close()
        for store in self._stores.values():
            store.close()

    # inside

    def _whole_steps(self, to_step: int) -> Iterator[tuple[int, int]]:
        """Yield where lines of the first steps lie; a file that is too long is set aside, all of it."""
        begin = end = 0
        try:
            for line in self._metrics.lines(bounds_of(MAX_METRICS_BYTES)):
                if not _is_before(line.record, to_step):
                    continue
                if line.begin != end:
                    yield begin, end
                    begin = line.begin
                end = line.end
        except LongJournalError as error:
            self.event(f"{error}, to go on with; all of it is kept as {self._metrics.set_aside()}")
        yield begin, end

    def _start_over(self) -> None:
        """Remove what an earlier start left that came to no checkpoint."""
        if self._metrics.size():
            self._metrics.truncate(0)
        for plugin in self._reporters():
            self._store(plugin).roll_back(0)
        for name in (SAMPLES, BOARD):
            self._tree.remove_folder(name)

    def _write(self, kind: str, step: int, epoch: int, values: Mapping[str, float], **more: Any) -> None:
        self._metrics.append({"kind": kind, "step": step, "epoch": epoch, **values, **more})
        self._board.scalars({f"{kind}/{name}": value for name, value in values.items()}, step)

    def _write_plugin(self, plugin: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        if not values:
            return
        named = {f"{plugin}/{name}": value for name, value in values.items()}
        self._metrics.append({"kind": "plugin", "step": step, "epoch": epoch, "plugin": plugin, **named})
        tag = tag_of(plugin)
        self._board.scalars(named if tag == plugin else {f"{tag}/{n}": v for n, v in values.items()}, step)

    def _keep(self, plugin: str, step: int, report: Report) -> None:
        store, tag = self._store(plugin), tag_of(plugin)
        if not store.is_due(step):
            # What is written for TensorBoard is never dropped again: it would fill the disk.
            return
        pictures = {name: to_png(image) for name, image in report.images.items()}
        store.add(step, report.histograms, pictures)
        self._board.histograms({f"{tag}/{name}": h for name, h in report.histograms.items()}, step)
        for name, image in report.images.items():
            self._board.image(f"{tag}/{name}", pictures[name], size_of(image), step)

    def _store(self, plugin: str) -> PluginStore:
        if plugin not in self._stores:
            self._stores[plugin] = PluginStore(self._tree, REPORTS, plugin, self.event)
        return self._stores[plugin]

    def _reporters(self) -> set[str]:
        """Return the plugins that have reported, those of an earlier process included."""
        if self._earlier is None:
            # Looked up once: the first line of each file may be long.
            self._earlier, more = reporters(self._tree)
            if more:
                self.event(
                    f"{REPORTS} has files of {MAX_REPORTERS + more} plugins; {more} are left as they are"
                )
        return {*self._stores, *self._earlier}

    def _target(self, target: Tensor, num_classes: int | None) -> Any:
        """Return a class name, shares of class names, or numbers."""
        if not target.is_floating_point():
            return self._class_name(int(target))
        values = target.flatten().tolist()
        if num_classes is not None:
            shares = {self._class_name(i): round(v, 3) for i, v in enumerate(values) if v >= _SMALLEST_SHARE}
            return next(iter(shares)) if len(shares) == 1 else shares
        return [round(value, 4) for value in values[:8]]

    def _class_name(self, number: int) -> str:
        return self._class_names[number] if number < len(self._class_names) else str(number)


@dataclasses.dataclass(slots=True)
class _Logged:
    """Numbers that one plugin logged in one step: the mean over its calls, as there is one a micro-batch."""

    epoch: int
    values: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def add(self, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.values.setdefault(name, []).append(float(value))

    def means(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in self.values.items()}


def tag_of(plugin: str) -> str:
    """Return what a plugin's tags for TensorBoard begin with: never what those of the run itself do."""
    return f"plugin:{plugin}" if plugin in OWN_TAGS else plugin


def reporters(tree: Tree) -> tuple[list[str], int]:
    """Return the plugins whose reports a run's folder holds, and how many more files there are."""
    names = [name for name in tree.names(REPORTS) if name.endswith(".jsonl")]
    found = ((name, _reporter(tree, f"{REPORTS}/{name}")) for name in names[:MAX_REPORTERS])
    plugins = [plugin for name, plugin in found if name == f"{file_name(plugin)}.jsonl"]
    return plugins, max(len(names) - MAX_REPORTERS, 0)


def _reporter(tree: Tree, name: str) -> str:
    """Return the plugin that the first report of a file is of; "None" where there is none."""
    with contextlib.suppress(LongJournalError):
        for line in read_lines(tree, name, _FIRST_REPORT):
            if line.record is not None:
                return str(line.record.get("plugin"))
    return str(None)


def _is_before(record: Mapping[str, Any] | None, step: int) -> bool:
    """Tell whether a line belongs to the first ``step`` steps; evaluations come after theirs."""
    number = (record or {}).get("step")
    if not isinstance(number, int):
        return False
    kind = str((record or {}).get("kind")).partition("_")[0]
    return number <= step if kind in {"run", "validation", "test"} else number < step
