"""Make one self-contained page of a run's folder."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..hooks.errors import shorten
from ..hooks.permissions import KINDS, Need, covers
from ..plugins.notices import describe_denials
from ..plugins.number_words import counted
from ..plugins.result_checks import MAX_IMAGE_SIDE, MAX_PICTURE_BYTES
from ..tracking.metrics_log import REPORTS, SAMPLES
from ..tracking.predictions import picture_of
from ..tracking.run_folder import RECORD, REPORT, write_text
from ..tracking.untrusted_folder import Tree
from . import formats, judgement
from .charts import WHOLE_MODEL, heat_map, line_chart
from .entries import PluginEntry
from .fault_table import fault_rows, other_events, restart_steps
from .job_words import commands, job_words
from .layer_kinds import kind_of
from .run_data import Curve, Layer, RunData, read_run
from .template import fill

T = TypeVar("T")

MAX_HEAT_MAPS = 48
MAX_CHARTS = 12
MAX_PICTURES = 24
#: Of the training images, each of which is as large as the data's.
MAX_SAMPLE_BYTES = 16 << 20
MAX_SAMPLE_SIDE = 4096
#: Of a mistake, which is written small.
MAX_MISTAKE_BYTES = 128 << 10
MAX_MISTAKE_SIDE = 128
BATCHES_TOLD = "Training: of single batches, augmented, and before they were learned from."
#: Of each kind, of one plugin; and characters of the reasons for one.
MAX_GRANTS = 32
MAX_REASONS = 1000
MAX_DOTTED_LINES = 100
_MIN_PICTURE_WIDTH_PX = 220
#: Signature of a PNG, and the head of its first chunk; width and height follow.
_PNG_BEGINS = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_CLOSE_TO_BUDGET = 0.8

_STATUS = {
    "completed": ("good", "completed"),
    "stopped_early": ("good", "stopped early"),
    "interrupted": ("warn", "interrupted"),
    "running": ("warn", "still running, or killed"),
    "aborted": ("bad", "aborted"),
    "failed": ("bad", "failed"),
}
#: How a plugin ended, and what is said of it.
_STATES = {
    "running": ("good", "running"),
    "closed": ("good", "ended"),
    "disabled": ("warn", "disabled"),
    "failed": ("bad", "failed"),
}
#: Number of the colour of a line, the same in all charts of the run.
_TRAINING, _JUDGING = 0, 1
_AVERAGES = {"ema": 2, "swa": 3}
#: What the first part of a monitor's names means; charts come in this order, others after them.
_FAMILIES = {
    "grad_norm": "Gradient norm",
    "update_ratio": "Update-to-weight ratio",
    "norm": "Gradient norm before clipping",
    "clipped_fraction": "Share of steps clipped",
    "weight_norm": "Weight norm",
    "weight_std": "Spread of weights",
    "weight_mean": "Mean of weights",
    "accuracy": "Batch accuracy",
    "confidence": "Confidence",
    "entropy": "Entropy of predictions (nats)",
    "lr": "Learning rate",
}
_RANK = {family: i for i, family in enumerate(_FAMILIES)}
#: Words in names whose numbers span orders of magnitude.
_FAR_APART = ("loss", "norm", "ratio")


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart and its caption."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and its caption; ``data`` is a data URI, ``width`` in CSS pixels where there is room."""

    data: str
    caption: str
    width: int = 0
    is_enlarged: bool = False


def write_report(folder: Path, told: Callable[[str], None] = lambda _: None) -> Path:
    """Write ``report.html`` from what ``folder`` holds, and return its path.

    Works on a run that was killed, too, and on whatever else lies there: what is missing is left out, and
    what is not as a run writes it is named on the page.

    Args:
        folder: The run's, which may come from anybody.
        told: Given each sentence about what was left out.

    Raises:
        OSError: The page cannot be written.
    """
    path, run = folder / REPORT, read_run(folder)
    write_text(path, render(run))
    for sentence in run.left_out.told():
        told(sentence)
    return path


def render(run: RunData) -> str:
    """Return the page."""
    record, entries = run.record, run.entries
    shared = _layers_of_all(entries)
    mood, status = _STATUS.get(str(record.get("status")), ("warn", "unknown: the run left no record"))
    status += f" ({run.cut_down})" * bool(run.cut_down)
    shown = {"samples": list(_samples(run)), "pictures": list(_pictures(run))}
    return fill(
        "report.html",
        **shown,
        words_of_job=job_words(run),
        commands=commands(run),
        judged=_judged(run),
        name=run.path.resolve().name,
        record=record,
        info=run.info,
        mood=mood,
        status=status,
        cards=list(_cards(run)),
        data_notes=record.get("data_notes", []),
        curves=list(_curves(run)),
        monitors=list(_monitor_charts(run)),
        layers=list(_layers(run)),
        plugins=[_plugin_row(plugin, shared) for plugin in entries],
        layers_of_all=shared,
        trusted=[p["name"] for p in entries if p.get("isolation") == "trusted"],
        disabled=[p["name"] for p in entries if p.get("state") == "disabled"],
        faults=list(fault_rows(run)),
        left_out=record.get("faults_left_out", 0),
        steps_lost=record.get("steps_lost", 0),
        events=list(other_events(run)),
        job=run.job,
        absent=run.left_out.told(),
    )


def _cards(run: RunData) -> Iterator[tuple[str, str, str]]:
    """Yield label, figure and remark of what a reader wants first."""
    record, metric = run.record, str(run.info.get("metric", ""))
    part, judging = run.judging
    metrics = record.get("final_metrics") or {
        name: series.values[-1] for name, series in judging.items() if series.values
    }
    tested = record.get("test_metrics", {}) if part != "test" else {}
    steps = record.get("steps")
    if metric in tested:
        yield (
            f"Test {formats.words(metric)}",
            formats.metric(metric, tested[metric]),
            _remark("looked at once, at the end", _average_words(run, "test", metric)),
        )
    if metric in metrics:
        best = record.get("best_metric")
        remark = (
            f"best {formats.metric(metric, best)} at step {record.get('best_step')}"
            if best is not None
            else ""
        )
        remark = _remark(remark, _average_words(run, part, metric))
        yield f"{part.capitalize()} {formats.words(metric)}", formats.metric(metric, metrics[metric]), remark
    if "loss" in metrics and metric != "loss":
        at = record.get("final_metrics_step")
        remark = "" if at in (None, steps) else f"at step {at}"
        remark = _remark(remark, _average_words(run, part, "loss"))
        yield f"{part.capitalize()} loss", formats.number(metrics["loss"]), remark
    if steps is None and "loss" in run.train:
        steps = run.train["loss"].steps[-1] + 1
    if steps is not None:
        total = run.info.get("steps_total")
        remark = f"of {total:,}" if total and total != steps else ""
        epochs = record.get("epochs")
        yield "Steps", f"{steps:,}", remark or (counted(epochs, "epoch") if epochs else "")
    if record.get("seconds") is not None:
        rate = record.get("steps_per_second")
        yield "Time", formats.duration(record["seconds"]), f"{rate:.1f} steps/s" if rate else ""
    if run.info.get("parameters"):
        remark = f"on {run.info.get('device')}"
        yield "Parameters", f"{run.info['parameters']:,}", remark


def _remark(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _average_words(run: RunData, part: str, metric: str) -> str:
    """Return the last figure of a metric with each average of the weights in place of the weights."""
    return ", ".join(
        f"{name}\N{NO-BREAK SPACE}{formats.metric(metric, curves[metric].values[-1])}"
        for (measured, name), curves in run.averaged.items()
        if measured == part and metric in curves
    )


def _curves(run: RunData) -> Iterator[Figure]:
    """Yield the charts of what the engine measured, training beside what judges it."""
    marks = sorted(restart_steps(run))[:MAX_DOTTED_LINES]
    note = "Dotted: a plugin was restarted, and the run went back to its last snapshot." if marks else ""
    part, judging = run.judging
    losses = {
        colour: Curve(name, series["loss"].steps, series["loss"].values)
        for colour, name, series in ((_TRAINING, "training", run.train), (_JUDGING, part, judging))
        if "loss" in series
    }
    losses |= _of_averages(run, part, "loss")
    if losses:
        svg = line_chart(
            "loss", "Loss by step", [*losses.values()], marks=marks, smooth=True, log=True, colours=[*losses]
        )
        yield Figure("Loss", svg, note)
    for i, (name, series) in enumerate(itertools.islice(judging.items(), MAX_CHARTS)):
        if name != "loss":
            of_batches = _of_batches(run, name)
            shown = {_TRAINING: of_batches} if of_batches is not None else {}
            shown |= {_JUDGING: Curve(part, series.steps, series.values), **_of_averages(run, part, name)}
            title = f"{part} {formats.words(name)}" if len(shown) == 1 else formats.words(name)
            title = title[:1].upper() + title[1:]
            svg = line_chart(
                f"{part}{i}",
                f"{title} by step",
                [*shown.values()],
                marks=marks,
                smooth=True,
                is_share=formats.is_share(name),
                colours=[*shown],
            )
            yield Figure(title, svg, BATCHES_TOLD if of_batches is not None else "")
    factor = run.train.get("lr_factor")
    if factor is not None and len(set(factor.values)) > 1:
        yield Figure(
            "Learning-rate factor",
            line_chart("factor", "Learning-rate factor by step", [factor]),
            "The schedule multiplies the optimizer's own learning rate by it.",
        )


def _of_batches(run: RunData, metric: str) -> Curve | None:
    """Return the curve of a metric of training batches, which the first plugin that logs it tells."""
    plugin = _who_logs(run, metric)
    if plugin is None:
        return None
    curve = run.plugins[plugin][metric]
    return Curve(f"training, by {plugin}", curve.steps, curve.values)


def _of_averages(run: RunData, part: str, metric: str) -> dict[int, Curve]:
    """Return the curves of a metric with averages of the weights in place of the weights, by colour."""
    return {
        _AVERAGES[name]: Curve(f"{name} weights", curves[metric].steps, curves[metric].values)
        for (measured, name), curves in run.averaged.items()
        if measured == part and metric in curves
    }


def _who_logs(run: RunData, metric: str) -> str | None:
    return next((plugin for plugin, numbers in run.plugins.items() if metric in numbers), None)


def _judged(run: RunData) -> dict[str, Any] | None:
    """Return what there is to show of the predictions."""
    predictions = run.predictions
    if predictions is None:
        return None
    rows, mean = judgement.class_figures(predictions)
    confident, worst = (
        _mistakes(run, judgement.mistakes(predictions, confident=confident)) for confident in (True, False)
    )
    return {
        "part": predictions.part,
        "samples": predictions.samples,
        "classes": predictions.classes,
        "accuracy": judgement.accuracy(predictions),
        "matrix": judgement.confusion(predictions),
        "confused": judgement.most_confused(predictions),
        "rows": rows,
        "mean": mean,
        "calibration": judgement.calibration(predictions),
        "residuals": judgement.residuals(predictions),
        "residual_words": "" if predictions.classes else judgement.residual_words(predictions),
        "confident": confident,
        "worst": worst,
        "has_pictures": any(picture for _, picture in worst),
    }


def _mistakes(run: RunData, mistakes: Iterator[judgement.Mistake]) -> list[tuple[judgement.Mistake, str]]:
    """Return each mistake with its picture, ``""`` where the data are no images."""
    shown = []
    for mistake in mistakes:
        png = _png(run, picture_of(mistake.number), MAX_MISTAKE_BYTES, MAX_MISTAKE_SIDE)
        shown.append((mistake, "" if png is None else _data_uri(png[0])))
    return shown


def _monitor_charts(run: RunData) -> Iterator[Figure]:
    """Yield a chart for each family of names that plugins logged; the first part of a name is its family."""
    found = [
        (family, plugin, members)
        for plugin, numbers in run.plugins.items()
        for family, members in _families(numbers).items()
        # A share of non-finite values that was never above zero needs no chart.
        if any(value != 0 for series in members for value in series.values)
        # Drawn beside the evaluations.
        and not (family in run.judging[1] and len(members) == 1 and plugin == _who_logs(run, family))
    ]
    found.sort(key=lambda item: _RANK.get(item[0], len(_RANK)))
    kinds = kind_of(run.shapes)
    for i, (family, plugin, members) in enumerate(found[:MAX_CHARTS]):
        title = _title(family)
        log = any(word in family for word in _FAR_APART)
        svg = line_chart(
            f"plugin{i}",
            f"{title} by step, from {plugin}",
            members,
            log=log,
            is_share=formats.is_share(family),
            kind_of=kinds,
        )
        yield Figure(title, svg, f"from {plugin}")


def _families(numbers: Mapping[str, Curve]) -> dict[str, list[Curve]]:
    families: dict[str, list[Curve]] = {}
    for name, series in numbers.items():
        family, _, layer = name.partition("/")
        families.setdefault(family, []).append(Curve(layer, series.steps, series.values))
    return {
        family: [Curve(one.name or _unnamed(family, members), one.steps, one.values) for one in members]
        for family, members in families.items()
    }


def _unnamed(family: str, members: Sequence[Curve]) -> str:
    return WHOLE_MODEL if len(members) > 1 else formats.words(family)


def _layers(run: RunData) -> Iterator[tuple[str, list[Figure]]]:
    """Yield each family of histograms with a heat map for each layer, up to a bound that plugins share."""
    families: dict[str, list[Layer]] = {}
    for layers in _share_out(run.layers, MAX_HEAT_MAPS).values():
        for layer in layers.values():
            families.setdefault(layer.name.partition("/")[0], []).append(layer)
    for number, (family, members) in enumerate(
        sorted(families.items(), key=lambda item: item[0] != "weights")
    ):
        figures = []
        for i, layer in enumerate(members):
            name = layer.name.partition("/")[2] or layer.name
            svg = heat_map(f"heat{number}x{i}", f"{_title(family)} of {name} by step", layer)
            figures.append(Figure(name, svg))
        yield _title(family), figures


def _share_out(groups: Mapping[str, Mapping[str, T]], most: int) -> dict[str, dict[str, T]]:
    """Return the first of each group, so many in all: what one has too much takes no other's place."""
    share = most
    while share > 1 and sum(min(len(group), share) for group in groups.values()) > most:
        share -= 1
    return {key: dict(itertools.islice(group.items(), share)) for key, group in groups.items()}


def _samples(run: RunData) -> Iterator[Picture]:
    left = MAX_SAMPLE_BYTES  # of all together
    for sample in run.samples:
        png = _png(run, f"{SAMPLES}/{sample['file']}", left, MAX_SAMPLE_SIDE)
        if png is not None:
            left -= len(png[0])
            yield Picture(_data_uri(png[0]), _target(sample["target"]))


def _pictures(run: RunData) -> Iterator[Picture]:
    for plugin, pictures in _share_out(run.pictures, MAX_PICTURES).items():
        for name, file in pictures.items():
            png = _png(run, f"{REPORTS}/{file}", 2 * MAX_PICTURE_BYTES, MAX_IMAGE_SIDE)
            if png is not None:
                data, width = png
                # What is smaller than its caption is shown in whole multiples of its pixels.
                times = max(1, _MIN_PICTURE_WIDTH_PX // width)
                yield Picture(_data_uri(data), f"{plugin}: {name}", times * width, times > 1)


def _png(run: RunData, name: str, most: int, side: int) -> tuple[bytes, int] | None:
    """Return a picture of the folder and its width; None if it is not there, or no PNG of that size."""
    try:
        data = Tree(run.path).read(name, most)
    except FileNotFoundError:
        return None
    except OSError as error:
        run.left_out.add(str(error.strerror))
        return None
    # Height and width follow the head of the first chunk.
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if not (data.startswith(_PNG_BEGINS) and 0 < width <= side and 0 < height <= side):
        run.left_out.add(f"{name} is no PNG of at most {side} pixels a side")
        return None
    return data, width


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _target(target: object) -> str:
    """Return a label; of mixed classes each with its share."""
    if isinstance(target, Mapping):
        largest = sorted(target.items(), key=lambda item: -float(item[1]))[:3]
        return " + ".join(f"{name} {float(share):.0%}" for name, share in largest)
    if isinstance(target, list):
        return ", ".join(f"{value:.3g}" for value in target)
    return str(target)


def _layers_of_all(plugins: Sequence[PluginEntry]) -> list[str]:
    """Return the layers of any sandbox of the run; a row tells those that its own lacks."""
    return list(dict.fromkeys(str(layer) for plugin in plugins for layer in plugin.get("layers") or []))


def _lacking(plugin: PluginEntry, every: Sequence[str]) -> list[str]:
    # A trusted plugin has no sandbox that could lack anything; its row says so louder.
    if plugin.get("isolation") == "trusted":
        return []
    return [layer for layer in every if layer not in (plugin.get("layers") or [])]


def _plugin_row(plugin: PluginEntry, every: Sequence[str]) -> dict[str, Any]:
    """Return a plugin's entry with what the table shows beside it."""
    budget, peak = plugin.get("budget_bytes", 0), plugin.get("peak_bytes", 0)
    share = min(1.0, peak / budget) if budget else 0.0
    calls, seconds = plugin.get("calls", 0), plugin.get("seconds", 0.0)
    words = dict.fromkeys(("distribution", "version", "role", "isolation"), "")
    told = plugin.get("state", "")
    mood, state = _STATES.get(told, ("warn", told))
    defaults = {**words, "restarts": 0, "skipped": 0}
    return {
        **defaults,
        **plugin,
        "attempts": describe_denials(plugin.get("attempts") or {}),
        "attempts_at_least": plugin.get("attempts_at_least", False),
        "budget_bytes": budget,
        "peak_bytes": peak,
        "calls": calls,
        "seconds": seconds,
        "share": share,
        "close": share >= _CLOSE_TO_BUDGET,
        "ms_per_call": 1000 * seconds / calls if calls else None,
        "lacking": _lacking(plugin, every),
        "mood": mood,
        "state": state,
        "granted": list(_grants(plugin)),
    }


def _grants(plugin: PluginEntry) -> Iterator[tuple[str, str, str]]:
    """Yield what a plugin was granted: kind, what, and the reason that it stated, if it asked."""
    permissions = plugin.get("permissions") or {}
    needs = [
        Need(kind, what, reason)
        for kind in KINDS
        for what, reason in itertools.islice(
            (permissions.get("needs") or {}).get(kind, {}).items(), MAX_GRANTS
        )
    ]
    for kind in KINDS:
        every = dict.fromkeys((permissions.get("granted") or {}).get(kind, []))
        for granted in itertools.islice(every, MAX_GRANTS):
            reasons = dict.fromkeys(need.reason for need in needs if covers(kind, granted, need))
            told = shorten("; ".join(itertools.islice(reasons, MAX_GRANTS)), MAX_REASONS)
            yield kind, granted, told or "it did not ask for this"
        if len(every) > MAX_GRANTS:
            yield kind, f"and {len(every) - MAX_GRANTS} more", f"{RECORD} has them all"


def _title(family: str) -> str:
    told = _FAMILIES.get(family, formats.words(family))
    return told[:1].upper() + told[1:]
