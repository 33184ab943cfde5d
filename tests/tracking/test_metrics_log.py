"""What a run writes while it goes on, and what is left of it after kills, roll-backs and full disks."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ringfence import Batch, Histogram, JobError, RunAbortedError, StepInfo, passthrough
from ringfence.hooks.types import Report
from ringfence.job.job_file import read_job
from ringfence.plugins import result_checks
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.observer import RunInfo
from ringfence.plugins.result_checks import check_report
from ringfence.plugins.stop_request import StopRequest
from ringfence.report.run_data import read_run
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare
from ringfence.tracking import json_lines as journal_module
from ringfence.tracking import metrics_log as recorder_module
from ringfence.tracking import plugin_reports as store_module
from ringfence.tracking.json_lines import (
    LEAST_LINE_BYTES,
    Bounds,
    Journal,
    LongJournalError,
    encode,
    read_lines,
)
from ringfence.tracking.metrics_log import AVERAGED_KINDS, MAX_REPORTERS, OWN_TAGS, MetricsLog, reporters
from ringfence.tracking.plugin_reports import MAX_PICTURES, MAX_READ, MAX_REPORTS, PluginStore, file_name
from ringfence.tracking.png import to_png
from ringfence.tracking.untrusted_folder import Tree

from ..journals import read_journal
from ..watching import descriptors, settled_descriptors

INFO = RunInfo(0, 100, 10, 640, 64, 1234, "cpu", "accuracy", higher_is_better=True)


@pytest.fixture
def recorder(tmp_path) -> Iterator[MetricsLog]:
    recorder = MetricsLog(tmp_path, class_names=("a", "b", "c"))
    recorder.started(INFO)
    yield recorder
    recorder.close()


def lines(folder: Path, kind: str) -> list[dict]:
    return [r for r in read_journal(folder / "metrics.jsonl") if r["kind"] == kind]


def steps(recorder: MetricsLog, *numbers: int) -> None:
    for number in numbers:
        info = StepInfo(number, number // 10, lr_factor=0.5)
        recorder.reported("clip", info, {"norm": float(number)}, None)
        recorder.step(info, 1.0 / (number + 1), 64)


def report(value: int = 0) -> Report:
    picture = torch.full((4, 5, 3), value, dtype=torch.uint8)
    return Report({"mean": 1.5}, {"w": Histogram([1, 2], [0.0, 0.5, 1.0])}, {"batch": picture})


# numbers


def test_what_is_told_of_another_folder_commands_no_terminal_that_shows_the_file(recorder, tmp_path):
    recorder.event("quoted: \x1b]0;owned\x07 \x9b2J \u202e")

    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(line)["message"] == "quoted: \\x1b]0;owned\\x07 \\x9b2J \\u202e"


def test_each_step_has_one_line_of_the_loop_and_one_of_each_plugin(recorder, tmp_path):
    steps(recorder, 0, 1, 2)
    recorder.evaluated(3, 0, {"loss": 0.5, "accuracy": 0.25}, best=True)
    assert [line["loss"] for line in lines(tmp_path, "train")] == [1.0, 0.5, 1 / 3]
    assert lines(tmp_path, "train")[2] | {"loss": 0} == {
        "kind": "train", "step": 2, "epoch": 0, "loss": 0, "lr_factor": 0.5, "samples": 64
    }  # fmt: skip
    assert [(r["step"], r["clip/norm"]) for r in lines(tmp_path, "plugin")] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    (test,) = lines(tmp_path, "test")
    assert (test["step"], test["accuracy"], test["best"]) == (3, 0.25, True)
    assert lines(tmp_path, "run")[0]["steps_total"] == 100


def test_lines_are_on_disk_before_the_file_is_closed(recorder, tmp_path):
    steps(recorder, 0)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_what_is_logged_for_each_micro_batch_is_averaged(recorder, tmp_path):
    for micro_batch, value in enumerate((1.0, 2.0, 6.0)):
        recorder.reported("augment", StepInfo(0, micro_batch=micro_batch), {"share": value}, None)
    recorder.step(StepInfo(0), 1.0, 64)
    assert [line["augment/share"] for line in lines(tmp_path, "plugin")] == [3.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_spelled_and_read_back(value):
    line = json.loads(
        encode({"kind": "train", "loss": value, "more": [1, value]}), parse_constant=pytest.fail
    )
    assert str(float(line["loss"])) == str(float(line["more"][1])) == str(value)


def test_a_gpu_is_not_made_to_wait_for_every_loss(tmp_path):
    recorder = MetricsLog(tmp_path)
    recorder.started(RunInfo(0, 100, 10, 640, 64, 1, "cuda:0", "accuracy", higher_is_better=True))
    assert [n for n in range(30) if recorder.wants_loss(StepInfo(n))] == [0, 10, 20]
    recorder.step(StepInfo(1), None, 64)
    recorder.close()
    assert not lines(tmp_path, "train")


# roll-back and resume


def test_roll_back_leaves_no_step_twice(recorder, tmp_path):
    steps(recorder, 0, 1, 2)
    position = json.loads(json.dumps(recorder.position()))
    steps(recorder, 3, 4)
    recorder.evaluated(5, 0, {"loss": 1.0}, best=True)
    recorder.rolled_back(3, position)
    steps(recorder, 3, 4, 5)
    for kind in ("train", "plugin"):
        assert [line["step"] for line in lines(tmp_path, kind)] == [0, 1, 2, 3, 4, 5]
    assert not lines(tmp_path, "test")


def test_what_runs_ahead_of_a_roll_back_is_forgotten(recorder, tmp_path):
    steps(recorder, 0)
    position = recorder.position()
    recorder.reported("augment", StepInfo(1), {"share": 1.0}, None)
    recorder.reported("augment", StepInfo(2), {"share": 1.0}, None)
    recorder.rolled_back(1, position)
    recorder.reported("augment", StepInfo(1), {"share": 0.5}, None)
    steps(recorder, 1, 2)
    assert [r["augment/share"] for r in lines(tmp_path, "plugin") if r["plugin"] == "augment"] == [0.5]


def test_another_process_resumes_where_a_checkpoint_was_taken(recorder, tmp_path):
    steps(recorder, 0, 1)
    position = recorder.position()
    recorder.reported("monitor", StepInfo(1), {}, report())
    steps(recorder, 2, 3)
    recorder.reported("monitor", StepInfo(3), {}, report())
    recorder.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind":"train","st')
    other = MetricsLog(tmp_path)
    other.rolled_back(2, position)
    other.started(RunInfo(2, 100, 10, 640, 64, 1234, "cpu", "accuracy", higher_is_better=True))
    steps(other, 2, 3)
    other.close()
    assert [line["step"] for line in lines(tmp_path, "train")] == [0, 1, 2, 3]
    assert [r["step"] for r in read_journal(tmp_path / "reports" / "monitor.jsonl")] == [1]
    assert [p.name for p in (tmp_path / "reports/monitor").iterdir()] == ["0000000001-batch.png"]


@pytest.mark.parametrize("position", [{"metrics_bytes": 10**9}, {"metrics_bytes": 17}, None, "nonsense"])
def test_position_that_fits_no_more_keeps_whole_steps(recorder, tmp_path, position):
    steps(recorder, 0, 1, 2, 3)
    recorder.evaluated(2, 0, {"loss": 1.0}, best=True)
    recorder.evaluated(4, 0, {"loss": 1.0}, best=True)
    recorder.rolled_back(2, position)
    assert [line["step"] for line in lines(tmp_path, "train")] == [0, 1]
    assert [line["step"] for line in lines(tmp_path, "test")] == [2]


def test_run_that_starts_over_keeps_nothing_of_the_first_attempt(recorder, tmp_path):
    steps(recorder, 0, 1)
    recorder.reported("monitor", StepInfo(0), {}, report())
    recorder.close()
    again = MetricsLog(tmp_path)
    again.started(INFO)
    again.close()
    assert [r["kind"] for r in read_journal(tmp_path / "metrics.jsonl")] == ["run"]
    assert not list(read_journal(tmp_path / "reports" / "monitor.jsonl"))


def test_killed_process_leaves_whole_lines_and_the_next_goes_on(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from ringfence.tracking.json_lines import Journal
from ringfence.tracking.untrusted_folder import Tree
journal = Journal(Tree(Path({str(tmp_path)!r})), "j.jsonl")
for i in range(100):
    journal.append({{"i": i}})
os.write(journal._handle, b'{{"i": 10')
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    path = tmp_path / "j.jsonl"
    assert [record["i"] for record in read_journal(path)] == list(range(100))
    journal = Journal(Tree(tmp_path), "j.jsonl")
    journal.append({"i": 100})
    journal.close()
    assert [record["i"] for record in read_journal(path)] == list(range(101))


@pytest.mark.parametrize("content", [b"", b"x" * 10_000, b"{}\n" + b"x" * 10_000])
def test_incomplete_line_of_any_length_is_removed(tmp_path, content):
    path = tmp_path / "j.jsonl"
    path.write_bytes(content)
    journal = Journal(Tree(tmp_path), "j.jsonl")
    journal.append({"a": 1})
    journal.close()
    assert path.read_bytes() == (b"{}\n" if content.startswith(b"{}") else b"") + b'{"a":1}\n'


# events


def test_events_outlive_a_roll_back(recorder, tmp_path):
    position = recorder.position()
    steps(recorder, 0)
    recorder.event("plugin 'x': crashed; restarted (1 of 3 in a row)")
    recorder.rolled_back(0, position)
    (event,) = read_journal(tmp_path / "events.jsonl")
    assert (event["step"], event["message"][:11]) == (1, "plugin 'x':")


# histograms, pictures, samples


def test_reports_keep_histograms_and_pictures(recorder, tmp_path):
    recorder.step(StepInfo(0), 1.0, 64)
    recorder.reported("monitor", StepInfo(0), {}, report(7))
    (line,) = read_journal(tmp_path / "reports" / "monitor.jsonl")
    assert line["histograms"]["w"] == {"counts": [1, 2], "edges": [0.0, 0.5, 1.0]}
    with Image.open(tmp_path / "reports" / line["images"]["batch"]) as image:
        assert (image.size, image.getpixel((0, 0))) == ((5, 4), (7, 7, 7))
    assert lines(tmp_path, "plugin")[0]["monitor/mean"] == 1.5


def test_reports_on_disk_are_bounded_and_spread_over_the_run(tmp_path):
    store = PluginStore(Tree(tmp_path), "reports", "monitor")
    for step in range(0, 20_000, 10):
        store.add(step, {"w": Histogram([1], [0.0, 1.0])}, {})
    store.close()
    kept = [record["step"] for record in read_journal(tmp_path / "reports" / "monitor.jsonl")]
    assert MAX_REPORTS // 4 < len(kept) <= MAX_REPORTS
    gaps = [b - a for a, b in itertools.pairwise(kept)]
    assert max(gaps) <= 4 * min(gaps)
    assert kept[-1] > 19_000


@pytest.mark.parametrize("count", [40, 3 * MAX_REPORTS])
def test_roll_back_drops_the_end_of_a_plugins_reports_and_reads_nothing_before_it(tmp_path, count):
    """What it costs must not grow with the run: a job's recovery waits for it."""
    store = PluginStore(Tree(tmp_path), "reports", "monitor")
    for step in range(count):
        store.add(step, {"h": Histogram([float(step)], [0.0, 1.0])}, {})
    path = tmp_path / "reports" / "monitor.jsonl"
    before = [record["step"] for record in read_journal(path)]
    number = path.stat().st_ino
    for to_step in (before[-1], before[-5], before[-5]):
        store.roll_back(to_step)
        assert [r["step"] for r in read_journal(path)] == [s for s in before if s < to_step]
    assert path.stat().st_ino == number  # cut back, not written anew
    store.add(count, {"h": Histogram([1.0], [0.0, 1.0])}, {})
    store.close()
    again = PluginStore(Tree(tmp_path), "reports", "monitor")
    again.roll_back(count)
    assert [record["step"] for record in read_journal(path)] == [s for s in before if s < before[-5]]
    again.roll_back(0)
    assert path.read_bytes() == b""
    again.close()


def test_what_is_kept_of_large_reports_is_bounded_in_bytes_and_so_is_what_tensorboard_gets(
    tmp_path, monkeypatch
):
    """However often a plugin reports as much as it may: the more there is, the fewer are kept."""
    monkeypatch.setattr(store_module, "MAX_KEPT_BYTES", 1 << 20)
    large = Histogram([0.1] * 512, [n / 3 for n in range(513)])
    picture = torch.randint(0, 256, (100, 100), dtype=torch.uint8)
    told = Report({}, {f"h{n}": large for n in range(3)}, {"p": picture})
    with MetricsLog(tmp_path) as recorder:
        for step in range(3000):
            # The larger and the smaller take turns, as one would that wants only the smaller to be dropped.
            recorder.reported("spy", StepInfo(step), {}, told if step % 2 else report())
            recorder.step(StepInfo(step), None, 1)
    kept = list(read_journal(tmp_path / "reports" / "spy.jsonl"))
    nbytes = (tmp_path / "reports" / "spy.jsonl").stat().st_size + sum(r["picture_bytes"] for r in kept)
    assert nbytes <= 1 << 20
    assert kept[0]["step"] < 10
    assert kept[-1]["step"] > 2000
    board = sum(path.stat().st_size for path in (tmp_path / "tensorboard").iterdir())
    assert board < 8 << 20


def test_reports_that_are_kept_are_as_far_apart_after_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_REPORTS", 8)
    one = {"h": Histogram([1.0], [0.0, 1.0])}
    for begin in (0, 100):
        store = PluginStore(Tree(tmp_path), "reports", "spy")
        for step in range(begin, begin + 100):
            store.add(step, one, {})
        store.close()
    steps = [record["step"] for record in read_journal(tmp_path / "reports" / "spy.jsonl")]
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert len(steps) <= 8
    assert max(gaps) <= 4 * min(gaps)


def test_a_report_as_large_as_it_may_be_is_kept_in_about_a_mebibyte(tmp_path):
    bins = 64
    worst = Histogram(
        [1.2345678901234567e-300] * bins, [-1.2345678901234567e-300 / (n + 1) for n in range(bins + 1)]
    )
    told = Report({}, {f"h{n}": worst for n in range(result_checks.MAX_HISTOGRAM_NUMBERS // (2 * bins + 1))})
    assert check_report(told) is told
    with MetricsLog(tmp_path) as recorder:
        recorder.reported("spy", StepInfo(0), {}, told)
    assert (tmp_path / "reports" / "spy.jsonl").stat().st_size < 1.1 * 2**20


def test_a_picture_is_encoded_once_and_not_at_all_where_it_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_REPORTS", 8)
    encoded = []
    monkeypatch.setattr(recorder_module, "to_png", lambda image: encoded.append(image) or to_png(image))
    with MetricsLog(tmp_path) as recorder:
        for step in range(1000):
            recorder.reported("spy", StepInfo(step), {}, report())
    assert 8 < len(encoded) < 60
    assert sum(len(tags(tmp_path, "images")[tag]) for tag in ["spy/batch"]) == len(encoded)


def tags(folder: Path, kind: str) -> dict[str, list]:
    """Return what TensorBoard shows of a kind: tag to its events."""
    board = EventAccumulator(str(folder / "tensorboard"), {"images": 0, "scalars": 0, "histograms": 0})
    board.Reload()
    take = {"images": board.Images, "scalars": board.Scalars, "histograms": board.Histograms}[kind]
    return {tag: take(tag) for tag in board.Tags()[kind]}


@pytest.mark.parametrize("plugin", ["train", "validation", "test", "samples"])
def test_no_plugin_writes_into_the_runs_own_curves(tmp_path, plugin):
    images = Batch(torch.rand(1, 1, 6, 6), torch.tensor([0]), torch.arange(1), 2)
    forged = Report(
        {"loss": 9.0, "accuracy": 0.999},
        {"loss": Histogram([1.0], [0.0, 1.0])},
        {"00": torch.ones(4, 4).byte()},
    )
    with MetricsLog(tmp_path, class_names=("a", "b")) as recorder:
        recorder.started(dataclasses.replace(INFO, judged_by="validation"))
        recorder.sampled(images, StepInfo(0))
        recorder.reported(plugin, StepInfo(0), {"lr_factor": 9.0}, forged)
        recorder.step(StepInfo(0), 1.0, 64)
        recorder.evaluated(1, 0, {"loss": 0.5, "accuracy": 0.25}, best=True)
        recorder.tested(1, 0, {"loss": 0.4, "accuracy": 0.75})
    scalars = tags(tmp_path, "scalars")
    judged = {f"{part}/{name}" for part in ("validation", "test") for name in ("loss", "accuracy")}
    own = {"train/loss", "train/lr_factor", *judged}
    assert {tag.partition("/")[0] for tag in own} | {"samples", *AVERAGED_KINDS} == OWN_TAGS
    assert scalars.keys() == own | {f"plugin:{plugin}/{name}" for name in ("loss", "accuracy", "lr_factor")}
    assert [event.value for event in scalars["validation/accuracy"]] == [0.25]
    assert [event.value for event in scalars["test/accuracy"]] == [0.75]
    assert tags(tmp_path, "images").keys() == {"samples/00", f"plugin:{plugin}/00"}
    assert tags(tmp_path, "histograms").keys() == {f"plugin:{plugin}/loss"}
    # In the other files a plugin's numbers are told apart by their kind.
    found = read_run(tmp_path)
    assert found.validation["accuracy"].values == [0.25]
    assert found.test["accuracy"].values == [0.75]
    assert found.train["loss"].values == [1.0]
    assert found.plugins[plugin]["accuracy"].values == [0.999]


def test_tags_of_other_plugins_are_their_names(tmp_path):
    with MetricsLog(tmp_path) as recorder:
        recorder.reported("clip", StepInfo(0), {"norm": 1.0}, None)
        recorder.step(StepInfo(0), None, 1)
    assert tags(tmp_path, "scalars").keys() == {"clip/norm"}


def test_pictures_on_disk_are_bounded(tmp_path):
    store = PluginStore(Tree(tmp_path), "reports", "monitor")
    for step in range(MAX_PICTURES + 5):
        store.add(step, {}, {"p": b"a PNG"})
    store.close()
    files = sorted(path.name for path in (tmp_path / "reports" / "monitor").iterdir())
    assert len(files) == MAX_PICTURES
    assert files[0] == "0000000005-p.png"


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "..", ".", "a/b", "a\0b", "x" * 300, ""])
def test_names_from_plugins_stay_inside_the_folder(tmp_path, name):
    assert (tmp_path / file_name(name)).resolve().parent == tmp_path.resolve()
    assert len(file_name(name)) < 100
    assert file_name(name) != file_name(name + "x")


def test_samples_show_images_and_shares_of_mixed_labels(recorder, tmp_path):
    targets = torch.tensor([[1.0, 0, 0], [0, 0.25, 0.75]])
    recorder.sampled(Batch(torch.rand(2, 1, 4, 4), targets, torch.tensor([5, 6]), 3), StepInfo(0))
    samples = json.loads((tmp_path / "samples/samples.json").read_text())["images"]
    assert [sample["target"] for sample in samples] == ["a", {"b": 0.25, "c": 0.75}]
    with Image.open(tmp_path / "samples" / samples[1]["file"]) as image:
        assert image.size == (4, 4)


def test_samples_of_other_data_are_left_out(recorder, tmp_path):
    recorder.sampled(Batch(torch.rand(2, 7), torch.rand(2, 1), torch.arange(2)), StepInfo(0))
    assert not (tmp_path / "samples").exists()


# TensorBoard


def test_without_tensorboard_all_else_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("ringfence.tracking.metrics_log.is_installed", lambda: False)
    for module in ("tensorboard", "tensorboard.compat.proto.event_pb2"):
        monkeypatch.setitem(sys.modules, module, None)
    recorder = MetricsLog(tmp_path)
    recorder.started(INFO)
    position = recorder.position()
    steps(recorder, 0, 1, 2)
    recorder.reported("monitor", StepInfo(2), {}, report())
    recorder.rolled_back(0, position)
    steps(recorder, 0)
    recorder.close()

    assert [line["step"] for line in lines(tmp_path, "train")] == [0]
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_reads_it_and_sees_no_step_twice(recorder, tmp_path):
    steps(recorder, 0, 1)
    position = recorder.position()
    steps(recorder, 2, 3)
    recorder.rolled_back(2, position)
    steps(recorder, 2)
    recorder.reported("monitor", StepInfo(2), {}, report())
    recorder.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [0, 1, 2]
    assert [event.value for event in board.Scalars("clip/norm")] == [0.0, 1.0, 2.0]
    assert board.Images("monitor/batch")[0].width == 5
    (histogram,) = board.Histograms("monitor/w")
    assert list(histogram.histogram_value.bucket) == [1, 2]


# disks


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Give up root's right to write anywhere, for one test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_unwritable_folder_is_named(tmp_path, unprivileged):
    if os.getuid() != 0:
        tmp_path.chmod(0o500)
    recorder = MetricsLog(tmp_path)
    with pytest.raises(RunAbortedError, match=f"{tmp_path}.*may not write"):
        recorder.event("hello")


def test_full_disk_is_told_as_such(tmp_path, monkeypatch):
    def write(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    recorder = MetricsLog(tmp_path)
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(RunAbortedError, match=r"disk is full.*--resume"):
        recorder.evaluated(1, 0, {"loss": 1.0}, best=True)
    recorder.close()


def test_recorder_leaves_no_file_open(tmp_path):
    before = descriptors()
    for _ in range(3):
        recorder = MetricsLog(tmp_path)
        recorder.started(INFO)
        steps(recorder, 0)
        recorder.reported("monitor", StepInfo(0), {}, report())
        recorder.event("x")
        recorder.close()
        recorder.close()
    assert settled_descriptors(before) <= before


# whole runs


JOB = """\
model: {name: mlp, hidden: [8, 8]}
data: {name: mnist10k, limit: 64}
steps: 4
batch_size: 32
threads: 1
checkpoint_every: 2
plugins:
  - optim: {algorithm: adamw, lr: 1e-3}
    isolation: trusted
"""


class Told:
    """A watcher that keeps the events, as the screen shows them."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, message: str) -> None:
        self.events.append(message)

    def wants_loss(self, step: StepInfo) -> bool:
        return False

    def __getattr__(self, name: str):
        return lambda *_args, **_more: None


def train(
    folder: Path, *sets: str, resume: bool = False, told: Told | None = None, stop: StopRequest | None = None
) -> Path:
    """Run the job with ``sets`` laid over it."""
    path = folder.parent / "job.yaml"
    path.write_text(JOB)
    threads = torch.get_num_threads()
    try:
        prepared = prepare(read_job(path, sets), folder.parent)
        options = RunOptions(resume=resume, observers=[told] if told else [], stop=stop or StopRequest())
        execute(prepared, folder, options)
    finally:
        torch.set_num_threads(threads)
    return folder


def messages(folder: Path) -> list[str]:
    return [str(event["message"]) for event in read_journal(folder / "events.jsonl")]


def test_interruption_and_resume_are_events(tmp_path):
    asked = itertools.count()
    stop = StopRequest()
    stop.is_made = lambda: next(asked) >= 2
    folder = train(tmp_path / "run", stop=stop)
    train(folder, resume=True)
    events = list(read_journal(folder / "events.jsonl"))
    own = [(event["step"], event["message"]) for event in events if "trusted" not in str(event["message"])]
    assert own == [
        (2, "interrupted after 2 steps, with a checkpoint"),
        (2, "resumed after 2 steps"),
    ]


def test_abort_is_an_event_with_its_reason(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(RunAbortedError) as caught:
        train(folder, "plugins.optim.lr=1e30", "steps=40")
    assert messages(folder)[-1] == f"ended: {caught.value}"
    assert json.loads((folder / "run.json").read_text())["status"] == "aborted"
    assert "diverged" in (folder / "report.html").read_text()


def test_there_are_always_events_to_read(recorder, tmp_path):
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_report_that_cannot_be_written_leaves_a_completed_run_and_says_so(tmp_path):
    folder = tmp_path / "run"

    class InTheWay(Told):
        def started(self, info) -> None:
            (folder / "report.html").mkdir()

    told = InTheWay()
    train(folder, told=told)
    assert json.loads((folder / "run.json").read_text())["status"] == "completed"
    said = "the report could not be written (IsADirectoryError: "
    assert told.events[-1].startswith(said)
    assert f"try again with: ringfence report {folder}" in told.events[-1]
    assert messages(folder)[-1] == told.events[-1]


@pytest.mark.parametrize("there", [False, True])
def test_plugin_that_does_not_start_leaves_no_folder_that_was_not_there(tmp_path, there):
    folder = tmp_path / "run"
    if there:
        folder.mkdir()
    with pytest.raises(JobError, match="nonsense"):
        train(folder, "plugins.optim.options={nonsense: 1}")
    assert folder.exists() == there


def test_late_answers_of_a_monitor_do_not_come_twice(tmp_path):
    """It was asked at a step that a roll-back took away; the run asks again when it comes there."""
    with MetricsLog(tmp_path) as recorder:
        recorder.started(INFO)
        spec = PluginSpec("spy", "t", "1", "m", "C", "monitor", isolation="trusted")
        recorder.plugins_started([LocalPlugin(spec, Spy())], {})
        recorder.rolled_back(2, None)
        recorder.reported("spy", StepInfo(5), {"x": 1.0}, None)
        steps(recorder, 2, 3, 4, 5, 6)
    assert not [line for line in lines(tmp_path, "plugin") if line["plugin"] == "spy"]


def test_a_run_tells_its_recorder_which_plugins_there_are(tmp_path, monkeypatch):
    started = []

    class Noting(MetricsLog):
        def plugins_started(self, plugins, order) -> None:
            started.extend(plugin.spec.name for plugin in plugins)
            super().plugins_started(plugins, order)

    monkeypatch.setattr("ringfence.run.execute.MetricsLog", Noting)
    train(tmp_path / "run")
    assert started == ["optim"]


class Spy:
    role = "monitor"
    forward = passthrough
    backward = passthrough


# files of any length


@pytest.fixture
def decoded(monkeypatch):
    """Count the lines that are decoded."""
    count = []
    monkeypatch.setattr(
        journal_module, "_decode", lambda line, decode=journal_module._decode: count.append(1) or decode(line)
    )
    return count


def test_metrics_that_are_too_long_to_be_cut_back_are_set_aside_whole_and_that_is_told(
    tmp_path, monkeypatch, decoded
):
    monkeypatch.setattr(recorder_module, "MAX_METRICS_BYTES", 200 * LEAST_LINE_BYTES)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(encode({"kind": "train", "step": step % 150}) for step in range(5000)))
    before = path.read_bytes()
    with MetricsLog(tmp_path, resumed=True) as recorder:
        recorder.rolled_back(100, {"metrics_bytes": 2 * len(before)})
    assert len(decoded) == 200
    assert [record["step"] for record in read_journal(path)] == [*range(100), *range(50)]
    assert (tmp_path / "metrics.jsonl.1").read_bytes() == before
    (told,) = read_journal(tmp_path / "events.jsonl")
    assert told["message"] == (
        "metrics.jsonl is read up to line 200, to go on with; all of it is kept as metrics.jsonl.1"
    )


def test_metrics_that_were_cut_short_are_cut_back_and_nothing_is_set_aside(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(encode({"kind": "train", "step": step}) for step in range(50)))
    with MetricsLog(tmp_path, resumed=True) as recorder:
        recorder.rolled_back(40, {"metrics_bytes": 10**6})
    assert [record["step"] for record in read_journal(path)] == list(range(40))
    assert not list(tmp_path.glob("metrics.jsonl.*"))
    assert not list(read_journal(tmp_path / "events.jsonl"))


def test_a_plugins_file_that_is_too_long_is_set_aside_whole_and_that_is_told(tmp_path, decoded):
    (tmp_path / "reports").mkdir()
    path = tmp_path / "reports" / "p.jsonl"
    path.write_bytes(b"".join(encode({"step": step, "plugin": "p"}) for step in (1, 2)) + b"{}\n" * 100_000)
    before = path.read_bytes()
    with MetricsLog(tmp_path, resumed=True) as recorder:
        recorder.rolled_back(2, None)
    # Its first line tells whose it is.
    assert len(decoded) == 1 + MAX_READ.lines
    assert [record["step"] for record in read_journal(path)] == [1]
    assert (tmp_path / "reports" / "p.jsonl.1").read_bytes() == before
    (told,) = read_journal(tmp_path / "events.jsonl")
    assert told["message"] == (
        f"reports/p.jsonl is read up to line {MAX_READ.lines}; all of it is kept as reports/p.jsonl.1"
    )


def test_whose_a_file_is_is_not_looked_for_behind_many_damaged_lines(tmp_path, decoded):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "p.jsonl").write_bytes(b"\n" * 100_000)
    (tmp_path / "reports" / "q.jsonl").write_bytes(b"\n\n" + encode({"step": 1, "plugin": "q"}))
    assert reporters(Tree(tmp_path)) == (["q"], 0)
    assert len(decoded) < 30


def test_reports_of_more_plugins_than_there_can_be_are_left_and_that_is_told(tmp_path):
    (tmp_path / "reports").mkdir()
    for number in range(MAX_REPORTERS + 2):
        line = encode({"step": 3, "plugin": f"p{number:03}"})
        (tmp_path / "reports" / f"p{number:03}.jsonl").write_bytes(line)
    with MetricsLog(tmp_path, resumed=True) as recorder:
        recorder.rolled_back(2, None)
    sizes = [(tmp_path / "reports" / f"p{n:03}.jsonl").stat().st_size for n in range(MAX_REPORTERS + 2)]
    assert [bool(size) for size in sizes] == [False] * MAX_REPORTERS + [True] * 2
    (told,) = read_journal(tmp_path / "events.jsonl")
    assert told["message"] == f"reports has files of {MAX_REPORTERS + 2} plugins; 2 are left as they are"


@pytest.mark.parametrize(("nbytes", "kept"), [(900, 0), (1001, 1002)])
def test_what_is_longer_than_a_line_is_ended_and_what_is_shorter_is_cut(tmp_path, monkeypatch, nbytes, kept):
    monkeypatch.setattr(journal_module, "MAX_LINE_BYTES", 1000)
    (tmp_path / "log.jsonl").write_bytes(b"\0" * nbytes)
    journal = Journal(Tree(tmp_path), "log.jsonl")
    assert journal.size() == kept
    journal.append({"i": 1})
    journal.close()
    assert list(read_journal(tmp_path / "log.jsonl")) == [{"i": 1}]


def test_a_line_without_an_end_is_read_up_to_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "MAX_LINE_BYTES", 1000)
    with (tmp_path / "log.jsonl").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LongJournalError, match=r"log.jsonl is read up to 1 MiB"):
        list(read_lines(Tree(tmp_path), "log.jsonl", Bounds(1 << 20, 10)))
