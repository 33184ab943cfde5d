"""Make one self-contained page of a run's folder."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..folder import REPORT, write_text
from ..hooks.news import described
from ..hooks.permissions import KINDS, Need, covers
from .charts import WHOLE, heat_map, line_chart
from .faults import count, fault_rows, other_events, restart_steps
from .read import Layer, RunFolder, Series, read_run
from .recorder import SAMPLES

MIB = 2**20
MAX_LAYERS = 16
MAX_CHARTS = 12
MAX_PICTURES = 24
#: CSS pixels that a picture of a plugin has at least, about.
_LEAST_WIDTH = 220
#: Signature of a PNG, and the head of its first chunk; width and height follow.
_PNG_BEGINS = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_MINUTE, _HOUR = 60, 3600
_SHORT_SHA = 12
#: Share of the budget from which a peak is shown as close to it.
_CLOSE = 0.8

_STATUS = {
    "completed": ("good", "completed"),
    "stopped_early": ("good", "stopped early"),
    "interrupted": ("warn", "interrupted"),
    "running": ("warn", "still running, or killed"),
    "aborted": ("bad", "aborted"),
    "failed": ("bad", "failed"),
}
_STATES = {"running": "good", "closed": "good", "disabled": "warn", "failed": "bad"}
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


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from what ``folder`` holds, and return its path.

    Works on a run that was killed, too: what is missing is left out.

    Raises:
        OSError: The page cannot be written.
    """
    path = folder / REPORT
    write_text(path, render(read_run(folder)))
    return path


def render(run: RunFolder) -> str:
    """Return the page.

    Names and messages come from plugins nobody needs to trust: everything is
    escaped but the charts, which are made here.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - only a report needs it
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"mib": _mib, "duration": _duration, "number": _number, "moment": _moment}
    files = resources.files(__package__)
    template = environment.from_string((files / "report.html").read_text(encoding="utf-8"))
    record = run.record
    shared = _layers_of_all(record.get("plugins", []))
    mood, status = _STATUS.get(str(record.get("status")), ("warn", "unknown: the run left no record"))
    return template.render(
        css=Markup((files / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        chart=Markup,  # around what charts.py made, which escapes
        name=run.path.resolve().name,
        record=record,
        info=run.info,
        mood=mood,
        status=status,
        cards=list(_cards(run)),
        curves=list(_curves(run)),
        monitors=list(_monitor_charts(run)),
        layers=list(_layers(run)),
        samples=list(_samples(run)),
        pictures=list(_pictures(run)),
        plugins=[_plugin_row(plugin, shared) for plugin in record.get("plugins", [])],
        layers_of_all=shared,
        trusted=[p.get("name") for p in record.get("plugins", []) if p.get("isolation") == "trusted"],
        disabled=[p.get("name") for p in record.get("plugins", []) if p.get("state") == "disabled"],
        faults=list(fault_rows(run)),
        left_out=count(record.get("faults_left_out")),
        steps_lost=count(record.get("steps_lost")),
        events=list(other_events(run)),
        job=run.job,
    )


def _cards(run: RunFolder) -> Iterator[tuple[str, str, str]]:
    """Yield label, figure and remark of what a reader wants first."""
    record, metric = run.record, str(run.info.get("metric", ""))
    metrics = record.get("final_metrics") or {
        name: series.values[-1] for name, series in run.test.items() if series.values
    }
    if metric in metrics:
        best = record.get("best_metric")
        remark = f"best {_metric(metric, best)} at step {record.get('best_step')}" if best is not None else ""
        yield f"Test {_words(metric)}", _metric(metric, metrics[metric]), remark
    if "loss" in metrics:
        yield "Test loss", _number(metrics["loss"]), ""
    steps = record.get("steps")
    if steps is None and "loss" in run.train:
        steps = run.train["loss"].steps[-1] + 1
    if steps is not None:
        total = run.info.get("steps_total")
        remark = f"of {total:,}" if total and total != steps else ""
        epochs = record.get("epochs")
        yield "Steps", f"{steps:,}", remark or (f"{epochs} epoch{'s' * (epochs > 1)}" if epochs else "")
    if record.get("seconds") is not None:
        rate = record.get("steps_per_second")
        yield "Time", _duration(record["seconds"]), f"{rate:.1f} steps/s" if rate else ""
    if run.info.get("parameters"):
        remark = f"on {run.info.get('device')}"
        yield "Parameters", f"{run.info['parameters']:,}", remark


def _curves(run: RunFolder) -> Iterator[Figure]:
    """Yield the charts of what the engine measured."""
    marks = sorted(restart_steps(run))
    note = "Dotted: a plugin was restarted, and the run went back to its last snapshot." if marks else ""
    losses = [
        Series(name, series["loss"].steps, series["loss"].values)
        for name, series in (("train", run.train), ("test", run.test))
        if "loss" in series
    ]
    if losses:
        yield Figure(
            "Loss", line_chart("loss", "Loss by step", losses, marks=marks, smooth=True, log=True), note
        )
    for i, (name, series) in enumerate(run.test.items()):
        if name != "loss":
            title = f"Test {_words(name)}"
            yield Figure(title, line_chart(f"test{i}", f"{title} by step", [series], marks=marks))
    factor = run.train.get("lr_factor")
    if factor is not None and len(set(factor.values)) > 1:
        yield Figure(
            "Learning-rate factor",
            line_chart("factor", "Learning-rate factor by step", [factor]),
            "The schedule multiplies the optimizer's own learning rate by it.",
        )


def _monitor_charts(run: RunFolder) -> Iterator[Figure]:
    """Yield a chart for each family of names that plugins logged; the first part of a name is its family."""
    found = [
        (family, plugin, members)
        for plugin, numbers in run.plugins.items()
        for family, members in _families(numbers).items()
        # A share of non-finite values that was never above zero needs no chart.
        if any(value != 0 for series in members for value in series.values)
    ]
    found.sort(key=lambda item: _RANK.get(item[0], len(_RANK)))
    for i, (family, plugin, members) in enumerate(found[:MAX_CHARTS]):
        title = _title(family)
        log = any(word in family for word in _FAR_APART)
        svg = line_chart(f"plugin{i}", f"{title} by step, from {plugin}", members, log=log)
        yield Figure(title, svg, f"from {plugin}")


def _families(numbers: Mapping[str, Series]) -> dict[str, list[Series]]:
    families: dict[str, list[Series]] = {}
    for name, series in numbers.items():
        family, _, layer = name.partition("/")
        families.setdefault(family, []).append(Series(layer, series.steps, series.values))
    return {
        family: [Series(one.name or WHOLE, one.steps, one.values) for one in members]
        for family, members in families.items()
    }


def _layers(run: RunFolder) -> Iterator[tuple[str, list[Figure]]]:
    """Yield each family of histograms with a heat map for each layer, up to a bound."""
    families: dict[str, list[Layer]] = {}
    for layers in run.layers.values():
        for layer in layers.values():
            families.setdefault(layer.name.partition("/")[0], []).append(layer)
    for number, (family, members) in enumerate(
        sorted(families.items(), key=lambda item: item[0] != "weights")
    ):
        figures = []
        for i, layer in enumerate(members[:MAX_LAYERS]):
            name = layer.name.partition("/")[2] or layer.name
            svg = heat_map(f"heat{number}x{i}", f"{_title(family)} of {name} by step", layer)
            figures.append(Figure(name, svg))
        yield _title(family), figures


def _samples(run: RunFolder) -> Iterator[Picture]:
    for sample in run.samples:
        data = _read(run.path / SAMPLES / Path(str(sample.get("file"))).name)
        if data:
            yield Picture(_data_uri(data), _target(sample.get("target")))


def _pictures(run: RunFolder) -> Iterator[Picture]:
    named = [(p, n, f) for p, pictures in run.pictures.items() for n, f in pictures.items()]
    for plugin, name, file in named[:MAX_PICTURES]:
        data = _read(file)
        if data:
            width = _png_width(data) or _LEAST_WIDTH
            # What is smaller than its caption is shown in whole multiples of its pixels.
            times = max(1, _LEAST_WIDTH // width)
            yield Picture(_data_uri(data), f"{plugin}: {name}", times * width, times > 1)


def _png_width(data: bytes) -> int:
    """Return the width that a PNG says it has; 0 if it is none."""
    return int.from_bytes(data[16:20]) if data.startswith(_PNG_BEGINS) else 0


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


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


def _layers_of_all(plugins: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the layers of any sandbox of the run; a row tells those that its own lacks."""
    return list(dict.fromkeys(str(layer) for plugin in plugins for layer in plugin.get("layers") or []))


def _lacking(plugin: Mapping[str, Any], every: Sequence[str]) -> list[str]:
    # A trusted plugin has no sandbox that could lack anything; its row says so louder.
    if plugin.get("isolation") == "trusted":
        return []
    return [layer for layer in every if layer not in (plugin.get("layers") or [])]


def _plugin_row(plugin: Mapping[str, Any], every: Sequence[str]) -> dict[str, Any]:
    """Return a plugin's entry with what the table shows beside it."""
    budget, peak, calls = (plugin.get(key) or 0 for key in ("budget_bytes", "peak_bytes", "calls"))
    share = min(1.0, peak / budget) if budget else 0.0
    seconds = float(plugin.get("seconds") or 0.0)
    defaults = {"version": "", "role": "", "isolation": "", "restarts": 0, "skipped": 0}
    return {
        **defaults,
        **plugin,
        "attempts": described(plugin.get("attempts") or {}),
        "attempts_at_least": plugin.get("attempts_at_least", False),
        "budget_bytes": budget,
        "peak_bytes": peak,
        "calls": calls,
        "seconds": seconds,
        "share": share,
        "close": share >= _CLOSE,
        "ms_per_call": 1000 * seconds / calls if calls else None,
        "lacking": _lacking(plugin, every),
        "mood": _STATES.get(str(plugin.get("state")), "warn"),
        "granted": list(_grants(plugin)),
    }


def _grants(plugin: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what a plugin was granted: kind, what, and the reason that it stated, if it asked."""
    permissions = plugin.get("permissions") or {}
    needs = [
        Need(kind, what, reason)
        for kind in KINDS
        for what, reason in (permissions.get("needs") or {}).get(kind, {}).items()
    ]
    for kind in KINDS:
        for granted in (permissions.get("granted") or {}).get(kind, []):
            reasons = [need.reason for need in needs if covers(kind, granted, need)]
            yield kind, granted, "; ".join(dict.fromkeys(reasons)) or "it did not ask for this"


def _title(family: str) -> str:
    words = _FAMILIES.get(family, _words(family))
    return words[:1].upper() + words[1:]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _metric(name: str, value: float | None) -> str:
    """Return shares as per cent, other metrics as they are."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if ("accuracy" in name or name == "f1") and 0 <= value <= 1:
        return f"{value:.2%}"
    return _number(value)


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.4g}"


def _mib(size: float) -> str:
    """Return bytes as MiB, or GiB where that is shorter."""
    return f"{size / MIB:.0f} MiB" if size < 10 * 1024 * MIB else f"{size / MIB / 1024:.1f} GiB"


def _moment(iso: str) -> str:
    """Return ``2026-01-31T12:00:00+00:00`` as people write it."""
    return str(iso).replace("T", " ").replace("+00:00", " UTC")


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    if seconds < _HOUR:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
