"""The page that is made of a run's folder."""

from __future__ import annotations

import itertools
import json
import math
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, fields
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from ringfence import Batch, Histogram, StepInfo
from ringfence.hooks.types import Report
from ringfence.plugins.failure_policy import FaultRecord
from ringfence.plugins.observer import RunInfo
from ringfence.plugins.result_checks import check_report
from ringfence.report import page as html
from ringfence.report import run_data
from ringfence.report.charts import WHOLE_MODEL, heat_map, line_chart
from ringfence.report.page import write_report
from ringfence.report.run_data import Curve, Layer, read_run
from ringfence.tracking.metrics_log import MetricsLog
from ringfence.tracking.run_record import RunRecord

DOCS = Path(__file__).parents[2] / "docs" / "run-folder.md"
EVIL = "<script>alert(1)</script>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def plugin(name: str = "optim", **more) -> dict:
    return {
        "name": name,
        "distribution": "ringfence",
        "version": "0.1.0",
        "role": "optimizer",
        "isolation": "sandbox",
        "layers": ["landlock", "seccomp"],
        "budget_bytes": 2**30,
        "peak_bytes": 2**28,
        "calls": 40,
        "seconds": 0.5,
        "restarts": 2,
        "skipped": 3,
        "state": "closed",
    } | more


def record(**more) -> dict:
    return {
        "status": "completed",
        "error": None,
        "final_metrics": {"loss": 0.25, "accuracy": 0.9876},
        "best_metric": 0.99,
        "best_step": 30,
        "steps": 40,
        "epochs": 4,
        "weights_sha256": "ab" * 32,
        "seconds": 12.5,
        "steps_per_second": 3.2,
        "ringfence_version": "0.1.0",
        "seed": 7,
        "plugins": [plugin()],
    } | more


@pytest.fixture
def folder(tmp_path) -> Path:
    """Make the folder of a run of 40 steps with a restart at step 25."""
    recorder = MetricsLog(tmp_path, class_names=("cat", "dog"))
    recorder.started(RunInfo(0, 40, 10, 640, 64, 1234, "cpu", "accuracy", higher_is_better=True))
    images = Batch(torch.rand(3, 1, 6, 6), torch.tensor([0, 1, 1]), torch.arange(3), 2)
    recorder.sampled(images, StepInfo(0))
    for step in range(40):
        info = StepInfo(step, step // 10, lr_factor=1 - step / 40)
        recorder.step(info, 1 / (step + 1), 16)
        if step == 25:
            recorder.event(
                "plugin 'optim' in 'optimizer.backward' at step 25: crashed; restarted (1 of 3 in a row)"
            )
        if step % 5 == 0:
            edges = [-1.0 - step, 0.0, 1.0 + step]
            scalars = {"grad_norm": 2.0} | {f"grad_norm/l{i}": i + 1.0 for i in range(12)}
            picture = {"batch": torch.zeros(4, 4, dtype=torch.uint8)}
            recorder.reported(
                "monitor", info, {}, Report(scalars, {"weights/l0": Histogram([3, 4], edges)}, picture)
            )
        if step % 10 == 9:
            recorder.evaluated(step + 1, step // 10, {"loss": 1 / step, "accuracy": step / 40}, best=True)
    recorder.close()
    (tmp_path / "run.json").write_text(json.dumps(record()))
    (tmp_path / "job.yaml").write_text("model: cnn\nseed: 7\n")
    return tmp_path


class Page(HTMLParser):
    """Collects tags, text, and where the page would load from."""

    VOID = frozenset(("meta", "img", "br", "use", "link", "path", "image", "input", "hr", "wbr"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_page_says_how_the_run_ended_and_what_came_of_it(folder):
    text = page(folder).text
    for words in (
        "completed",
        "98.76%",
        "best 99.00% at step 30",
        "0.25",
        "12.5 s",
        "3.2 steps/s",
        "ab" * 32,
        "1,234",
    ):
        assert words in text


def test_page_says_that_a_run_was_cut_down(folder):
    (folder / "run.json").write_text(json.dumps(record(reduction={"kind": "overfit", "samples": 8})))

    assert "completed (overfit, 8 samples)" in page(folder).text


def test_page_shows_each_plugin_with_budget_cost_and_state(folder):
    text = page(folder).text
    for words in (
        "optim",
        "ringfence 0.1.0",
        "landlock seccomp",
        "256 MiB of 1024 MiB",
        "12.50 ms",
        "ended",
    ):
        assert words in text


def test_page_shows_charts_samples_events_and_the_job(folder):
    found = page(folder)
    labels = [svg["aria-label"] for svg in found.all("svg")]
    assert labels == [
        "Loss by step",
        "Test accuracy by step",
        "Learning-rate factor by step",
        "Gradient norm by step, from monitor",
        "Weights of l0 by step",
    ]
    assert [image["alt"] for image in found.all("img")][:3] == [
        "training image labelled cat", "training image labelled dog", "training image labelled dog"
    ]  # fmt: skip
    for words in ("restarted (1 of 3 in a row)", "model: cnn seed: 7", "Dotted: a plugin was restarted"):
        assert words in found.text


def test_averages_of_the_weights_are_drawn_beside_what_they_are_averages_of(folder):
    recorder = MetricsLog(folder)
    for step in (10, 20):
        recorder.evaluated_beside(step, 0, {"loss": 0.4, "accuracy": 0.8}, part="test", name="ema")
    recorder.close()

    found = page(folder)

    assert [svg["aria-label"] for svg in found.all("svg")][:2] == ["Loss by step", "Accuracy by step"]
    assert "ema weights" in found.text
    assert "best 99.00% at step 30; ema 80.00%" in found.text
    assert "ema 0.4" in found.text


def test_a_line_has_one_colour_in_all_charts(folder):
    recorder = MetricsLog(folder)
    for name in ("ema", "swa"):
        recorder.evaluated_beside(20, 0, {"loss": 0.4, "accuracy": 0.8}, part="test", name=name)
    recorder.close()

    charts = write_report(folder).read_text(encoding="utf-8").split("<svg")[1:3]

    told = re.compile(r'fill="(var\(--s\d\))">(training|test|ema|swa) ')
    colours = [{name: colour for colour, name in told.findall(svg)} for svg in charts]
    loss = {"training": "var(--s1)", "test": "var(--s2)", "ema": "var(--s3)", "swa": "var(--s4)"}
    assert colours == [loss, {name: loss[name] for name in ("test", "ema", "swa")}]


def test_a_metric_of_training_batches_is_drawn_beside_the_evaluations_and_once(folder):
    recorder = MetricsLog(folder)
    for step in range(40):
        recorder.reported("watch", StepInfo(step), {"accuracy": step / 80}, None)
        recorder.step(StepInfo(step), None, 16)
    recorder.close()

    found = page(folder)
    (drawn,) = [svg["aria-label"] for svg in found.all("svg") if "ccuracy" in svg["aria-label"]]
    assert drawn == "Accuracy by step"
    assert "training, by watch" in found.text
    assert "Training: of single batches" in found.text


def test_page_loads_nothing_and_runs_nothing(folder):
    found = page(folder)
    assert not found.all("script")
    assert not found.all("link")
    for name, attributes in found.tags:
        for key in ("src", "href", "xlink:href"):
            value = attributes.get(key, "#")
            assert value.startswith(("#", "data:image/png;base64,")), (name, key, value)
    text = (folder / "report.html").read_text()
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]{1,40})", text))
    assert "default-src 'none'" in text


def test_ids_are_unique_and_references_resolve(folder):
    found = page(folder)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = (folder / "report.html").read_text()
    references = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"|aria-labelledby=\"([^\"]+)\"", text))
    assert {next(filter(None, found)) for found in references} <= set(ids)


def test_all_that_plugins_chose_is_escaped(folder):
    named = plugin(f"evil{EVIL}", version=EVIL, distribution=EVIL, layers=[EVIL], state=EVIL, role=EVIL)
    trusted = plugin(f'"{EVIL}', isolation="trusted")
    (folder / "run.json").write_text(
        json.dumps(record(error=EVIL, status="failed", plugins=[named, trusted]))
    )
    (folder / "job.yaml").write_text(f"model: '{EVIL}'\n")
    recorder = MetricsLog(folder, class_names=())
    recorder.event(f"plugin {EVIL}: died")
    report = Report({EVIL: 1.0}, {f"weights/{EVIL}": Histogram([1], [0.0, 1.0])})
    for step in range(2):
        recorder.reported(f'"><svg onload="{EVIL}', StepInfo(step), {f"norm/{EVIL}$x$": 2.0}, report)
        recorder.step(StepInfo(step), 1.0, 1)
    recorder.close()
    samples = json.loads((folder / "samples/samples.json").read_text())
    samples["images"][0]["target"] = f'"{EVIL}'
    (folder / "samples/samples.json").write_text(json.dumps(samples))
    found = page(folder)
    assert not found.all("script")
    assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    assert found.text.count(EVIL) > 8


def test_a_terminals_commands_in_names_reach_neither_chart_nor_label():
    hostile = "norm\x1b[31m\x07"
    chart = line_chart("x", hostile, [Curve(f"{hostile}/{n}", [0, 1], [1.0, 2.0]) for n in range(2)])
    assert "\x1b" not in chart
    assert "\x07" not in chart
    assert "norm\N{REPLACEMENT CHARACTER}[31m" in chart


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        [1.7e308, -1.7e308],
        [1.7e308, 1.0],
        [1.7e308, 1.6e308],
        [5e-324, 1e30],
        [5e-324, 1e-323],
        [1e30, -1e30],
        [10**19, 10**300],
        [math.inf, -math.inf],
    ],
)
def test_any_number_can_be_reported(values, log, smooth, count):
    """Without a warning of numpy's or matplotlib's either: pytest makes errors of them."""
    series = [Curve(f"s{n}", list(range(400)), values * 200) for n in range(count)]
    assert line_chart("x", "any", series, log=log, smooth=smooth, marks=[3]).startswith("<svg")


@pytest.mark.parametrize(
    ("counts", "edges"),
    [
        ([1, 2], [-1.7e308, 0.0, 1.7e308]),
        ([1, 2], [1.6e308, 1.65e308, 1.7e308]),
        ([1, 2], [-1.7e308, -1.6e308, -1.5e308]),
        ([1, 2], [0.0, 5e-324, 1e-323]),
        ([10**19, 10**25], [0.0, 1.0, 2.0]),
        ([1.7e308, 1.7e308], [0.0, 1.0, 2.0]),
        ([0, 0], [0.0, 1.0, 2.0]),
    ],
)
def test_any_histogram_can_be_reported(counts, edges):
    layer = Layer("weights/w", [0, 1], [counts, [1, 1]], [edges, edges])
    assert heat_map("x", "any", layer).startswith("<svg")
    alone = Layer("weights/w", [0], [counts], [edges])
    assert heat_map("x", "any", alone).startswith("<svg")


def test_edges_as_close_as_numbers_get_are_drawn():
    close = Layer("close", [0], [[1e308]], [[0.0, 1e-300]])

    assert heat_map("x", "any", close).startswith("<svg")


def test_hostile_numbers_go_through_recorder_and_page(tmp_path):
    """As a plugin may send them: everything that passes the check of reports."""
    numbers = {"norm/a": 1.7e308, "norm/b": -1.7e308, "c": 10**300, "d": math.nan, "e": 5e-324}
    histograms = {
        "weights/a": Histogram([10**19, 10**300], [-1.7e308, 0.0, 1.7e308]),
        "weights/b": Histogram([1.7e308, 0], [0, 5e-324, 1e-323]),
    }
    with MetricsLog(tmp_path) as recorder:
        recorder.started(RunInfo(0, 4, 4, 64, 64, 9, "cpu", "accuracy", higher_is_better=True))
        for step in range(4):
            told = check_report(Report(numbers, histograms))
            recorder.reported("hostile", StepInfo(step), {"x": -1.7e308}, told)
            recorder.reported("hostile", StepInfo(step), {"x": -1.7e308}, told)
            recorder.step(StepInfo(step), 1.7e308 if step % 2 else math.inf, 16)
        recorder.evaluated(4, 1, {"loss": 1.7e308, "accuracy": math.nan}, best=False)
    found = page(tmp_path)
    assert "Distributions over time" in found.text


@pytest.mark.parametrize("value", ["1" + "0" * 400, '"no number"', "null", "[1]"])
def test_a_damaged_number_leaves_a_gap(folder, value):
    line = f'{{"kind":"train","step":40,"epoch":4,"loss":{value}}}\n'
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line)
    assert math.isnan(read_run(folder).train["loss"].values[-1])
    assert "Loss" in page(folder).text


def test_samples_cannot_name_files_outside_the_folder(folder):
    (folder.parent / "secret.png").write_bytes(b"secret")
    content = {"images": [{"file": "../../secret.png", "target": "x"}]}
    (folder / "samples/samples.json").write_text(json.dumps(content))
    assert "c2VjcmV0" not in write_report(folder).read_text()


def test_trusted_plugin_is_shown_as_a_warning(folder):
    (folder / "run.json").write_text(
        json.dumps(record(plugins=[plugin("swa", isolation="trusted", budget_bytes=0)]))
    )
    found = page(folder)
    assert "Not isolated: swa ran in the trainer's own process" in found.text.replace("  ", " ")
    assert any(a.get("class") == "badge warn" for a in found.all("span"))
    assert "not bounded" in found.text


def test_disabled_plugin_is_told_at_the_top_of_a_run_that_completed(folder):
    def top():
        return re.sub(r"\s+", " ", page(folder).text.partition("Weights, SHA-256")[0])

    assert "Disabled:" not in top()
    (folder / "run.json").write_text(json.dumps(record(plugins=[plugin("spy", state="disabled"), plugin()])))
    assert "Disabled: spy failed, and the run went on without" in top()


@pytest.mark.parametrize(("evaluated", "shown"), [(40, False), (30, True)])
def test_an_evaluation_of_an_earlier_step_is_told_with_it(folder, evaluated, shown):
    (folder / "run.json").write_text(json.dumps(record(status="interrupted", final_metrics_step=evaluated)))
    assert ("Test loss 0.25 at step 30 Steps" in re.sub(r"\s+", " ", page(folder).text)) == shown


def test_a_run_that_is_judged_by_its_loss_tells_it_once_and_draws_each_metric(folder):
    log = folder / "metrics.jsonl"
    figures = '"loss": 0.5, "loss_mse": 0.25, "iou": 0.5}'
    judged = log.read_text().replace('"metric": "accuracy"', '"metric": "loss"')
    log.write_text(f'{judged}{{"kind": "test", "step": 40, "epoch": 4, {figures}\n')
    (folder / "run.json").write_text(json.dumps(record(final_metrics={"loss": 0.25})))

    text = re.sub(r"\s+", " ", page(folder).text)

    assert text.count("Test loss 0.25") == 1
    assert "Test loss mse" in text
    assert "Test IoU" in text


def test_what_there_is_to_know_of_the_data_is_on_the_page(folder):
    assert "Data " not in page(folder).text
    (folder / "run.json").write_text(json.dumps(record(data_notes=["3 classes", "none of <b>0</b>"])))
    assert "Data 3 classes none of <b>0</b>" in re.sub(r"\s+", " ", page(folder).text)


def test_what_a_plugin_tried_is_told_and_nothing_of_those_that_tried_nothing(folder):
    tried = {"start another process (vfork)": 3, "open a connection (socket)": 1}
    plugins = [
        plugin("spy", attempts=tried, attempts_at_least=True),
        plugin("good", attempts={}),
        plugin("swa", attempts=None),
    ]
    (folder / "run.json").write_text(json.dumps(record(plugins=plugins)))
    text = page(folder).text
    assert (
        "spy tried and was refused: start another process (vfork), 3 times; open a connection (socket); "
        "and more, which were refused without being counted." in text
    )
    assert text.count("tried and was refused") == 1


def test_layers_are_told_once_and_a_row_tells_what_it_lacks(folder):
    whole = [plugin("one"), plugin("two"), plugin("three", isolation="trusted", layers=[])]
    (folder / "run.json").write_text(json.dumps(record(plugins=whole)))
    text = page(folder).text
    assert text.count("landlock") == text.count("seccomp") == 1
    assert "Layers of each sandbox: landlock seccomp" in text
    assert "without" not in text.partition("Layers of")[2].partition("Training images")[0]

    (folder / "run.json").write_text(json.dumps(record(plugins=[*whole, plugin("four", layers=["seccomp"])])))
    text = page(folder).text
    assert "Layers of each sandbox, but for those that a row is without: landlock seccomp" in text
    assert text.count("without landlock") == 1
    assert "without seccomp" not in text


def test_tables_scroll_in_a_box_that_a_keyboard_reaches(folder):
    faults = [asdict(FaultRecord(1, "optim", None, "PluginLoadError", "gone", "aborted"))]
    (folder / "run.json").write_text(json.dumps(record(faults=faults)))
    boxes = [div for div in page(folder).all("div") if "scroll" in div.get("class", "")]
    assert [(box["tabindex"], box["role"]) for box in boxes] == [("0", "region")] * 2


def picture(folder: Path, height: int, width: int) -> dict:
    """Return the figure that the page shows the picture of a plugin in."""
    recorder = MetricsLog(folder)
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    recorder.reported("painter", StepInfo(40), {}, Report({}, {}, {"sheet": image}))
    recorder.close()
    shown = page(folder).text
    assert "painter: sheet" in shown
    return page(folder).all("figure")[-1]


def test_a_picture_is_shown_at_its_own_size(folder):
    assert picture(folder, 552, 504)["style"] == "width: 504px"


def test_a_small_picture_is_shown_in_whole_multiples_of_its_pixels(folder):
    assert picture(folder, 30, 50)["style"] == "width: 200px"
    assert page(folder).all("img")[-1]["class"] == "enlarged"


@pytest.mark.parametrize("data", [b"\x89PNG" + b"\xff" * 40, b"", b"GIF89a"])
def test_a_picture_that_is_none_is_left_out_and_named(folder, data):
    picture(folder, 552, 504)
    for file in (folder / "reports").rglob("*.png"):
        file.write_bytes(data)
    found = page(folder)
    assert "painter: sheet" not in found.text
    assert "reports/painter/0000000040-sheet.png is no PNG of at most 1024 pixels a side" in found.text


def test_each_fault_is_a_row_and_no_event_besides(folder):
    told = "plugin 'optim' in 'optimizer.backward' at step 25: crashed; restarted (1 of 3 in a row)"
    where = (25, "optim", "optimizer.backward", "PluginCrashedError")
    faults = [
        asdict(FaultRecord(*where, told, "restarted", steps_lost=1005, recovery_s=0.0714)),
        asdict(FaultRecord(30, f"spy{EVIL}", None, EVIL, EVIL, "disabled", traceback=f"line 7 {EVIL}")),
        asdict(FaultRecord(31, "optim", None, "PluginLoadError", "gone; the run was ended", "aborted")),
    ]
    counts = {"faults": faults, "faults_left_out": 12, "steps_lost": 2010}
    (folder / "run.json").write_text(json.dumps(record(**counts)))
    found = page(folder)
    assert found.text.count(told) == 1
    rows = found.text.partition("Recovery")[2].partition("Events")[0].partition("Training images")[0]
    assert f"25 optim optimizer.backward {told} PluginCrashedError restarted 1,005 71 ms" in rows
    assert f"30 spy{EVIL} {EVIL} {EVIL} where it raised line 7 {EVIL} disabled 0" in rows
    assert "31 optim gone; the run was ended PluginLoadError aborted 0" in rows
    assert "12 between are only counted" in found.text
    assert "Taken again in all: 2,010 steps." in found.text
    assert not found.all("script")


@pytest.mark.parametrize("faults", ["none", [1, None], [{}], [{"step": "x", "recovery_s": "y"}]])
def test_damaged_faults_give_a_page(folder, faults):
    (folder / "run.json").write_text(json.dumps(record(faults=faults, steps_lost="x")))
    assert page(folder).text


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("aborted", "aborted"),
        ("interrupted", "interrupted"),
        ("running", "still running, or killed"),
        ("new", "unknown"),
    ],
)
def test_every_status_has_its_words(folder, status, said):
    (folder / "run.json").write_text(json.dumps(record(status=status, error="why <b>")))
    text = page(folder).text
    assert said in text
    assert "why <b>" in text


@pytest.mark.parametrize(
    "missing", ["run.json", "metrics.jsonl", "events.jsonl", "samples", "reports", "job.yaml"]
)
def test_whatever_is_missing_is_left_out(folder, missing):
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert page(folder).text


def test_what_a_page_draws_is_bounded_and_shared_among_plugins(tmp_path, monkeypatch):
    """A plugin that reports all it may takes no place of another's, and the page no longer than others."""
    drawn: list[str] = []
    for kind in ("heat_map", "line_chart"):
        monkeypatch.setattr(
            html, kind, lambda key, *_, **__: drawn.append(key.rstrip("0123456789x")) or "<svg/>"
        )
    flood = Report(
        {f"family{n}/layer": 1.0 for n in range(4000)},
        {f"family{n}/layer": Histogram([1] * 19, list(range(20))) for n in range(1000)},
        {f"p{n}": torch.zeros(2, 2, dtype=torch.uint8) for n in range(64)},
    )
    honest = Report(
        {}, {f"weights/l{n}": Histogram([1], [0, 1]) for n in range(20)}, {"batch": torch.ones(2, 2).byte()}
    )
    with MetricsLog(tmp_path) as recorder:
        for step in range(2):
            for name, told in {"aaa": flood, "monitor": honest}.items():
                recorder.reported(name, StepInfo(step), {}, check_report(told))
            recorder.step(StepInfo(step), None, 1)
            recorder.evaluated(step + 1, 0, {f"m{n}": 1.0 for n in range(100)}, best=False)
    text = write_report(tmp_path).read_text()
    assert Counter(drawn) == {"heat": 48, "plugin": 12, "test": 12}
    found = Page(text)
    assert len([tag for tag in found.all("img") if "monitor: batch" in tag["alt"]]) == 1
    assert len([tag for tag in found.all("img") if "aaa: " in tag["alt"]]) == 23
    assert {f"l{n}" for n in range(16)} <= set(found.text.split())


def test_a_spread_over_very_many_steps_takes_little_memory():
    """One line a step, each of another name: as a table of names and steps that were 30 GB."""
    series = [Curve(f"s{n}", [n * 60 + k for k in range(60)], [1.0] * 60) for n in range(8192)]
    svg = line_chart("c", "t", series)
    assert "median of 8192" in svg
    assert len(svg) < 60_000


def test_numbers_that_are_held_are_bounded_and_spread_over_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(run_data, "MAX_POINTS", 100)
    lines = ({"kind": "train", "step": n, "loss": n, "lr_factor": 1.0} for n in range(5000))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss = read_run(tmp_path).train["loss"]
    assert loss.values == [float(step) for step in loss.steps]
    assert 20 < len(loss.steps) <= 50
    gaps = {b - a for a, b in itertools.pairwise(loss.steps)}
    assert len(gaps) == 1
    assert loss.steps[0] < 300
    assert loss.steps[-1] > 4700


def test_numbers_of_all_plugins_are_bounded_together(tmp_path, monkeypatch):
    monkeypatch.setattr(run_data, "_Room", partial(run_data._Room, names=7, points=50))
    lines = (
        {"kind": "plugin", "step": n, "plugin": f"p{n % 9}", f"p{n % 9}/a": n, f"p{n % 9}/b": n}
        for n in range(900)
    )
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    found = read_run(tmp_path).plugins

    assert sum(map(len, found.values())) == 7
    assert sum(len(one.steps) for numbers in found.values() for one in numbers.values()) <= 50


def test_a_file_is_read_up_to_a_bound_and_that_is_told(folder, monkeypatch):
    monkeypatch.setattr(run_data, "MAX_METRICS_BYTES", 2000)
    monkeypatch.setattr(run_data, "MAX_EVENTS", 2)
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": n, "message": f"event {n}"}) + "\n" for n in range(9))
    found = read_run(folder)
    assert 0 < len(found.train["loss"].steps) < 40
    assert [event["step"] for event in found.events] == [26, 8]
    assert found.left_out.told() == [
        "metrics.jsonl is read up to 0 MiB",
        "events.jsonl: 8 events between the first and the last",
    ]


def test_empty_folder_gives_a_page(tmp_path):
    assert "the run left no record" in page(tmp_path).text


def test_damaged_files_give_a_page(folder):
    (folder / "run.json").write_text("{")
    (folder / "samples/samples.json").write_text("[1]")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('not json\n[1]\n{"kind":"train","step":40,"lo')
    assert read_run(folder).train["loss"].steps == list(range(40))
    assert page(folder).text


def test_numbers_that_are_not_finite_leave_gaps(folder):
    recorder = MetricsLog(folder)
    for step, loss in enumerate((math.nan, math.inf, 1.0), start=40):
        recorder.step(StepInfo(step), loss, 1)
    recorder.close()
    values = read_run(folder).train["loss"].values[-3:]
    assert [math.isnan(value) for value in values] == [True, True, False]
    (folder / "run.json").write_text(
        json.dumps(record(final_metrics={"loss": None, "accuracy": None}, best_metric=None))
    )
    assert "not finite" in page(folder).text


def test_run_that_only_diverged_gives_a_page(tmp_path):
    recorder = MetricsLog(tmp_path)
    for step in range(500):
        recorder.step(StepInfo(step), math.nan, 1)
    recorder.close()
    assert page(tmp_path).text


# charts


def test_chart_takes_its_colours_from_the_page():
    svg = line_chart("c", "t", [Curve("a", [0, 1], [1.0, 2.0]), Curve("b", [0, 1], [2.0, 1.0])], marks=[1])
    colours = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg))
    assert {"var(--s1)", "var(--s2)", "var(--warn)", "var(--faint)", "var(--grid)"} <= colours
    assert not any(colour.startswith("#") for colour in colours)


def test_long_series_become_short_charts():
    steps = list(range(50_000))
    svg = line_chart("c", "t", [Curve("a", steps, [math.sin(s / 1000) for s in steps])], smooth=True)
    assert len(svg) < 60_000


def test_many_layers_become_median_spread_and_the_whole():
    layers = [Curve(f"l{i}", [0, 1, 2], [float(i)] * 3) for i in range(30)]
    svg = line_chart("c", "t", [*layers, Curve(WHOLE_MODEL, [0, 1, 2], [99.0] * 3)])
    for words in ("median of 30", "middle 80 %", WHOLE_MODEL):
        assert words in svg


def ticks(svg: str, axis: str) -> list[str]:
    """Return what stands at the ticks of an axis, ``x`` or ``y``."""
    one = rf'id="c-{axis}tick_\d+">(?:(?!id="c-{axis}tick_).)*?<text[^>]*>([^<]+)</text>'
    return [text.replace("\N{MINUS SIGN}", "-") for text in re.findall(one, svg)]


def dots(svg: str) -> int:
    """Return how many dots are drawn."""
    return len(re.findall(r"<use [^>]*fill: var\(--s\d\)", svg))


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("step", [0, 1, 16])
def test_a_single_point_is_drawn_over_whole_steps(step, smooth):
    svg = line_chart("c", "t", [Curve("a", [step], [0.5])], smooth=smooth)
    assert dots(svg) == 1
    shown = ticks(svg, "x")
    assert len(shown) >= 2
    assert [text for text in shown if not re.fullmatch(r"\d+", text)] == []
    assert shown[0] == "0"


def test_the_median_and_the_band_of_a_single_step_are_drawn():
    layers = [Curve(f"l{i}", [0], [1.0 + i]) for i in range(30)]
    svg = line_chart("c", "t", layers)
    assert dots(svg) == 2  # one of them in the legend
    assert re.search(r'id="c-LineCollection_1"> <path [^>]*d="M', svg)


def test_a_point_between_gaps_is_drawn():
    values = [math.nan if step in (49, 51) else float(step) for step in range(100)]
    assert dots(line_chart("c", "t", [Curve("a", list(range(100)), values)])) == 1
    assert dots(line_chart("c", "t", [Curve("a", list(range(100)), [1.0] * 100)])) == 0


@pytest.mark.parametrize("steps", [[0, 1], [3, 4], [0, 2], [7, 12], [100, 101], [0, 100_000]])
def test_ticks_of_steps_are_whole_numbers_in_sight(steps):
    shown = [
        float(text.replace(",", ""))
        for text in ticks(line_chart("c", "t", [Curve("a", steps, [1.0, 2.0])]), "x")
    ]
    assert shown
    assert all(number.is_integer() and steps[0] <= number <= steps[1] for number in shown)


@pytest.mark.parametrize("low", [1e-9, 0.03, 0.06, 0.9, 2.0, 7.0, 4e5])
@pytest.mark.parametrize("ratio", [31, 60, 99, 300, 1e4, 1e12])
def test_a_logarithmic_axis_has_ticks_to_read_it_by(low, ratio):
    values = [low * ratio ** (i / 9) for i in range(10)]
    svg = line_chart("c", "t", [Curve("a", list(range(10)), values)], log=True)
    assert 3 <= len(ticks(svg, "y")) <= 14


def test_same_numbers_give_the_same_chart():
    charts = {
        line_chart("c", "t", [Curve("a", [0, 1], [1.0, 2.0])])
        + heat_map("h", "t", Layer("l", [0, 1], [[1, 2], [3, 4]], [[0, 1, 2], [0, 2, 4]]))
        for _ in range(2)
    }
    assert len(charts) == 1


def test_drawing_leaves_matplotlib_as_it_was():
    code = """
import sys
from ringfence.report.charts import line_chart
from ringfence.report.run_data import Curve
assert "matplotlib" not in sys.modules
line_chart("c", "t", [Curve("a", [0, 1], [1.0, 2.0])])
import matplotlib
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams["svg.fonttype"] == "path"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# what the documentation says


def table(heading: str, after: str) -> set[str]:
    section = DOCS.read_text().partition(heading)[2].partition(after)[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_documented_keys_are_those_of_run_json(tmp_path, monkeypatch):
    from ringfence.discovery.distribution_digest import DistributionDigest
    from ringfence.discovery.provenance import Provenance
    from ringfence.plugins.interface import PluginSpec
    from ringfence.plugins.local_plugin import LocalPlugin
    from ringfence.tracking.provenance_record import distribution_records
    from ringfence.tracking.run_history import EarlierPlugin
    from ringfence.tracking.run_record import plugin_record

    class Nothing:
        role = "gradient"

        def forward(self): ...

        def backward(self): ...

    spec = PluginSpec("p", "d", "1", "m", "q", "gradient", isolation="trusted")
    # That one starts whatever is called uname on the path, where a stranger's wheel may put it.
    monkeypatch.setattr(platform, "platform", None)
    written = RunRecord(tmp_path, "", tmp_path, 0, "cpu").to_dict()
    assert table("## `run.json`", "Each of `plugins`:") == set(written)
    assert table("Each of `plugins`:", "Each of `distributions`") == set(
        plugin_record(LocalPlugin(spec, Nothing()), EarlierPlugin("p"))
    )
    digests = Provenance({}, {"d": DistributionDigest("d", "1.0")})
    assert table("Each of `distributions`", "### start") == set(*distribution_records(digests))
    assert table("Each of `faults`", "## `model.json`") == {each.name for each in fields(FaultRecord)}
    # What the page takes from the record is what is written there.
    assert run_data.RunEntry.__annotations__.keys() <= set(written)
    assert run_data.PluginEntry.__annotations__.keys() <= table(
        "Each of `plugins`:", "Each of `distributions`"
    )
    assert run_data.FaultEntry.__annotations__.keys() == {each.name for each in fields(FaultRecord)}


# a real browser


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_page_opens_in_a_browser_and_leaves_no_empty_screen(folder):
    report = write_report(folder)
    with tempfile.TemporaryDirectory() as profile:
        shot = Path(profile) / "shot.png"
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1000,2400",
        ]
        subprocess.run(
            [CHROMIUM, *flags, f"--user-data-dir={profile}", f"--screenshot={shot}", report.as_uri()],
            check=True,
            capture_output=True,
            timeout=90,
        )
        from PIL import Image

        with Image.open(shot) as image:
            assert len(image.convert("L").getcolors(256)) > 50
