"""The folder of a run may come from anybody: what is resumed in it and what a page is made of stays in it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence import JobError, RunAbortedError, StepInfo
from ringfence.api.train_request import TrainRequest
from ringfence.cli.report_page import rewrite_report
from ringfence.cli.signals import StopFlag
from ringfence.cli.train_job import train_job
from ringfence.hooks.types import Report
from ringfence.job.job_file import read_job
from ringfence.report import run_data
from ringfence.report.page import write_report
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare
from ringfence.tracking import run_folder
from ringfence.tracking import untrusted_folder as tree_module
from ringfence.tracking.folder_lock import check_free
from ringfence.tracking.json_lines import LEAST_LINE_BYTES
from ringfence.tracking.metrics_log import MetricsLog
from ringfence.tracking.plugin_reports import MAX_READ
from ringfence.tracking.png import to_png

from ..report.test_page import EVIL, Page

JOB = """\
model: {name: mlp, hidden: [4]}
data: {name: mnist10k, limit: 64}
steps: 4
batch_size: 16
threads: 1
checkpoint_every: 2
plugins:
  - optim: {algorithm: sgd, lr: 1e-3}
    isolation: trusted
"""
SECRET = b"a secret of the user's"


def train(folder: Path, *sets: str, resume: bool = False) -> None:
    path = folder.parent / "job.yaml"
    path.write_text(JOB)
    threads = torch.get_num_threads()
    try:
        execute(prepare(read_job(path, sets), folder.parent), folder, RunOptions(resume=resume))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Make the folder of a run that was stopped after 4 steps of 6, with reports of a plugin ``p``."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(folder)
    with MetricsLog(folder) as recorder:
        for step in (1, 3):
            recorder.reported(
                "p", StepInfo(step), {}, Report({}, {}, {"x": torch.zeros(4, 4, dtype=torch.uint8)})
            )
    return folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def home(tmp_path) -> Path:
    """Make a folder of the user's that no run has any business in."""
    home = tmp_path / "home"
    for name in ("key", "reports/q/0000000007-x.png", "checkpoints/.writing-00000001/notes"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(SECRET)
    (home / "reports" / "q.jsonl").write_text('{"step":7,"plugin":"q","histograms":{},"images":{}}\n')
    return home


def contents(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.fixture
def unguarded(monkeypatch) -> None:
    """Look around nowhere, and open files as Python does by itself."""
    monkeypatch.setattr(run_folder, "check_plain", lambda *_: None)
    monkeypatch.setattr(tree_module, "_CALM", os.O_CLOEXEC)
    monkeypatch.setattr(tree_module, "_FOLDER", os.O_RDONLY | os.O_DIRECTORY)
    monkeypatch.setattr(tree_module, "_check_file", lambda *_: None)


def put(name: str, target: str, make: Callable = os.symlink) -> Callable[[Path, Path], str]:
    """Return what puts a link to a part of the user's home in the place of ``name``."""

    def attack(folder: Path, home: Path) -> str:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        make(home / target, path)
        return name

    return attack


WAYS_OUT = [
    put("metrics.jsonl", "key"),
    put("metrics.jsonl", "key", os.link),
    put("events.jsonl", "key"),
    put(".lock", "key", os.link),
    put("reports", "reports"),
    put("reports/p.jsonl", "reports/q.jsonl"),
    put("tensorboard", "reports"),
]
IDS = ["metrics", "metrics, hard", "events", "lock, hard", "reports", "a plugin's", "tensorboard"]


@pytest.mark.parametrize("attack", [*WAYS_OUT, put("checkpoints", "checkpoints")], ids=[*IDS, "checkpoints"])
def test_resuming_refuses_a_folder_with_a_way_out_and_changes_nothing(folder, home, attack):
    before = contents(home)
    name = attack(folder, home)
    with pytest.raises(JobError, match=rf"--resume {folder}: .*{name} (is a symbolic link|has another name)"):
        train(folder, "steps=6", resume=True)
    assert contents(home) == before


@pytest.mark.parametrize("attack", WAYS_OUT[:-2], ids=IDS[:-2])
def test_without_the_guard_resuming_changes_what_is_not_the_runs(folder, home, attack, unguarded):
    before = contents(home)
    attack(folder, home)
    with contextlib.suppress(RunAbortedError):
        train(folder, "steps=6", resume=True)
    assert contents(home) != before


@pytest.mark.parametrize("attack", WAYS_OUT, ids=IDS)
def test_a_way_out_that_comes_once_the_run_has_begun_is_not_taken_either(folder, home, attack, monkeypatch):
    monkeypatch.setattr(run_folder, "check_plain", lambda *_: None)
    before = contents(home)
    attack(folder, home)
    with pytest.raises((RunAbortedError, JobError), match=r"is a symbolic link|has another name"):
        train(folder, "steps=6", resume=True)
    assert contents(home) == before


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", ".lock", "job.yaml", "run.json", "reports/p.jsonl", "other"]
)
def test_resuming_waits_for_no_fifo(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    check_free(folder, "--resume")
    with pytest.raises(JobError, match=f"{name} is a FIFO"):
        train_job(TrainRequest(resume=folder, quiet=True), StopFlag())


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "chosen").symlink_to(folder)
    train(tmp_path / "chosen", "steps=6", resume=True)
    assert json.loads((folder / "run.json").read_text())["steps"] == 6
    assert "Left out" not in Page(write_report(tmp_path / "chosen").read_text()).text


def test_checkpoints_that_a_copy_shares_are_read_and_what_is_written_is_its_own(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(folder / "checkpoints", copy / "checkpoints", copy_function=os.link)
    before = contents(folder)
    train(copy, "steps=6", resume=True)
    assert contents(folder) == before


def test_records_that_are_none_do_not_keep_a_run_from_being_resumed(folder):
    (folder / "reports" / "p.jsonl").write_text('{"step":"x"}\n[]\n{}\n{"step":1e400,"plugin":["p"]}\n')
    (folder / "reports" / "r.jsonl").write_text("x\n")
    (folder / "reports" / "p" / "other.png").write_bytes(b"")
    (folder / "metrics.jsonl").write_text('{"step":null}\n{}\n' + "x" * 300)
    train(folder, "steps=6", resume=True)
    assert json.loads((folder / "run.json").read_text())["steps"] == 6
    assert (folder / "reports" / "p" / "other.png").exists()


# the page


def shows(folder: Path, data: bytes) -> bool:
    """Tell whether the page has these bytes in it, as they are or as a picture."""
    told: list[str] = []
    text = write_report(folder, told.append).read_bytes()
    assert data not in text
    return base64.b64encode(data)[:-4] in text


def report_of(folder: Path, picture: str) -> None:
    line = {"step": 3, "plugin": "p", "histograms": {}, "images": {"x": picture}}
    (folder / "reports" / "p.jsonl").write_text(json.dumps(line) + "\n")


OWN = "p/0000000003-x.png"


@pytest.mark.parametrize(
    "name", ["../../home/key", "{home}/key", "p/../../../home/key", "p.jsonl", "q/0000000003-x.png"]
)
def test_a_page_takes_no_picture_by_a_name_that_is_not_its_own(folder, home, name):
    png = to_png(torch.rand(8, 8).mul(255).to(torch.uint8))
    (home / "key").write_bytes(png)
    report_of(folder, name.format(home=home))
    assert not shows(folder, png)
    assert "is not its name" in Page((folder / "report.html").read_text()).text
    report_of(folder, OWN)
    (folder / "reports" / OWN).write_bytes(png)
    assert shows(folder, png)


def fifo(_: Path, path: Path) -> None:
    os.mkfifo(path)


def folder_there(_: Path, path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    "name", [f"reports/{OWN}", "samples/00.png", "job.yaml", "events.jsonl", "samples/samples.json"]
)
@pytest.mark.parametrize("make", [os.symlink, os.link, fifo, folder_there])
def test_a_page_is_made_of_regular_files_of_the_folder_only(folder, home, name, make):
    png = to_png(torch.rand(8, 8).mul(255).to(torch.uint8))
    (home / "key").write_bytes(png)
    put(name, "key", make)(folder, home)
    assert not shows(folder, png)
    found = Page((folder / "report.html").read_text())
    assert "Left out" in found.text
    assert f"{name} " in found.text.partition("Left out")[2]


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_without_the_guard_the_page_shows_what_is_not_the_runs(folder, home, make, unguarded):
    png = to_png(torch.rand(8, 8).mul(255).to(torch.uint8))
    (home / "key").write_bytes(png)
    put(f"reports/{OWN}", "key", make)(folder, home)
    assert shows(folder, png)


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (0, 1)])
def test_a_picture_of_impossible_size_is_left_out(folder, size):
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + b"".join(n.to_bytes(4) for n in size)
    (folder / "reports" / OWN).write_bytes(head + bytes(64))
    assert not shows(folder, head)
    (folder / "reports" / OWN).write_bytes(to_png(torch.zeros(8, 8, dtype=torch.uint8)) + bytes(7 << 20))
    assert f"reports/{OWN} has more than" in Page(write_report(folder).read_text()).text


ODD = [
    None,
    True,
    -1,
    1.5,
    10**400,
    "x",
    [],
    [[]],
    [None],
    {},
    {"a": None},
    {"": []},
    "\ud800",
    EVIL,
    "x" * 70_000,
]
DEEP = "[" * 100_000


RUN, PLUGIN, FAULT, INFO = (
    tuple(kind.__annotations__)
    for kind in (run_data.RunEntry, run_data.PluginEntry, run_data.FaultEntry, run_data.InfoEntry)
)


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_no_value_of_the_record_keeps_the_page_from_being_made(tmp_path, value):
    plugin, fault = (dict.fromkeys(keys, value) for keys in (PLUGIN, FAULT))
    whole = dict.fromkeys(RUN, value)
    permissions = {
        "granted": {"read": value, "write": [value]},
        "needs": {"read": value, "write": {"x": value}},
    }
    for plugins in (
        value,
        [value],
        [plugin, {**plugin, "name": "p"}, {"name": "p", "permissions": permissions}],
    ):
        (tmp_path / "run.json").write_text(
            json.dumps({**whole, "plugins": plugins, "faults": [fault, value, {**fault, "step": 1}]})
        )
        assert not Page(write_report(tmp_path).read_text()).all("script")


def test_values_of_the_record_that_are_odd_are_left_out_one_by_one_and_named(tmp_path):
    plugin = {"name": "clip", "calls": "many", "layers": ["seccomp"], "seconds": -1}
    record = {"status": "completed", "steps": -1, "seed": 7, "plugins": [plugin, {"calls": 1}]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    text = Page(write_report(tmp_path).read_text()).text
    for words in (
        "seed 7",
        "Layers of each sandbox: seccomp",
        "run.json: steps is not what it is in a run of ringfence",
        "run.json, plugin 1: calls is not what it is",
        "run.json, plugin 1: seconds is not what it is",
        "run.json: plugin 2 has no name",
    ):
        assert words in text


NO_STEP = [
    b'{"kind":"train","step":"x","loss":1}',
    b'{"kind":"train","loss":1}',
    b'{"kind":"train","step":-1,"loss":1}',
    b'{"kind":"train","step":1e300,"loss":1}',
    b'{"kind":"train","step":true,"loss":1}',
    b"[]",
    b"1",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"step":' + b"9" * 5000 + b"}",
    b'{"x":"' + b"y" * (10 << 20) + b'"}',
]
NO_KIND = [
    b'{"kind":["train"],"step":1}',
    b'{"kind":"plugin","step":1,"plugin":["p"],"p/x":1}',
    b'{"step":1}',
]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        *((name, line) for name in ("metrics.jsonl", "events.jsonl", "reports/p.jsonl") for line in NO_STEP),
        *((name, line) for name in ("metrics.jsonl", "reports/p.jsonl") for line in NO_KIND),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:40],
)
def test_a_line_that_is_no_record_is_left_out_and_counted_and_the_others_are_read(folder, name, line):
    path, before = folder / name, run_data.read_run(folder)
    path.write_bytes(line + b"\n" + path.read_bytes() + line + b"\n")
    after = run_data.read_run(folder)
    assert after.left_out.told() == [f"{name}: 2 lines are damaged, the first is line 1"]
    for part in ("train", "test", "events", "pictures", "info"):
        assert getattr(after, part) == getattr(before, part)


@pytest.mark.parametrize(
    "histogram",
    [
        None,
        [],
        {},
        {"counts": [1], "edges": [0]},
        {"counts": [], "edges": [0]},
        {"counts": [1, 2], "edges": [0, 1]},
        {"counts": [1], "edges": [1, 0]},
        {"counts": [-1], "edges": [0, 1]},
        {"counts": ["1"], "edges": [0, 1]},
        {"counts": [1], "edges": [0, 10**400]},
        {"counts": [1.0] * 513, "edges": list(range(514))},
    ],
)
def test_a_histogram_that_is_none_is_left_out_and_the_others_are_drawn(folder, histogram):
    good = {"counts": [1, 2], "edges": [0, 1, 2]}
    line = {"step": 1, "plugin": "p", "histograms": {"w/a": histogram, "w/b": good}, "images": {}}
    (folder / "reports" / "p.jsonl").write_text(json.dumps(line) + "\n")
    text = Page(write_report(folder).read_text()).text
    assert "reports/p.jsonl: histogram 'w/a' of step 1 is damaged" in text
    assert text.partition("values lie there.")[2].split()[:2] == ["W", "b"]


@pytest.mark.parametrize(
    "sample",
    [
        None,
        {},
        {"file": "../x.png", "target": "a"},
        {"file": "00.png", "target": {"a": "b"}},
        {"file": "00.png", "target": [EVIL]},
        {"file": "00.png\n", "target": 1},
    ],
)
def test_a_sample_that_is_none_is_left_out(folder, sample):
    (folder / "samples" / "samples.json").write_text(json.dumps({"images": [sample]}))
    found = Page(write_report(folder).read_text())
    assert ("samples/samples.json: an image is not named or labelled" in found.text) == (sample is not None)
    assert "Training images" not in found.text


def test_damaged_lines_are_read_up_to_a_bound(folder):
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b"\n" * 200_000)
    text = Page(write_report(folder).read_text()).text
    assert "metrics.jsonl is read no further than 10000 damaged lines" in text
    assert "metrics.jsonl: 10000 lines are damaged" in text


def test_short_lines_are_read_up_to_as_many_as_a_run_writes(folder, monkeypatch):
    monkeypatch.setattr(run_data, "MAX_METRICS_BYTES", 100 * LEAST_LINE_BYTES)
    (folder / "metrics.jsonl").write_bytes(b'{"kind":"train","step":1}\n' * 101)
    found = run_data.read_run(folder)
    assert found.left_out.told() == ["metrics.jsonl is read up to line 100"]


def test_a_plugins_reports_are_read_up_to_a_number_of_lines(folder):
    with (folder / "reports" / "p.jsonl").open("ab") as file:
        file.write(b'{"step":4,"plugin":"p","histograms":{},"images":{}}\n' * MAX_READ.lines)
    assert run_data.read_run(folder).left_out.told() == [
        f"reports/p.jsonl is read up to line {MAX_READ.lines}"
    ]


def test_of_what_a_plugin_was_granted_a_page_shows_some(folder):
    reasons = {f"/{n}": str(n) * 10_000 for n in range(100)}
    permissions = {
        "needs": {"read": reasons},
        "granted": {"read": ["/"] * 100 + [f"/d{n}" for n in range(99)]},
    }
    record = {"status": "completed", "plugins": [{"name": "p", "permissions": permissions}]}
    (folder / "run.json").write_text(json.dumps(record))
    page = write_report(folder).read_text()
    assert "and 68 more" in page
    assert page.count("0000000000") < 200


def test_training_images_have_one_bound_together(folder):
    png = to_png((torch.rand(40, 40) * 255).byte())
    large = png + bytes(6 << 20)
    (folder / "samples" / "00.png").write_bytes(large)
    images = [{"file": "00.png", "target": 1}] * 8
    (folder / "samples" / "samples.json").write_text(json.dumps({"images": images}))
    page = write_report(folder).read_text()
    assert len(page) < 2 * (24 << 20)
    assert "samples/00.png" in Page(page).text  # told as left out


def test_all_that_is_odd_at_once_is_told_up_to_a_bound(folder, capfd):
    for n in range(300):
        (folder / f"{n}\x1b[31m").symlink_to("/")
    rewrite_report(folder)
    told = capfd.readouterr().err
    assert "\x1b" not in told
    assert told.count("left out: ") == 101
    assert told.endswith("left out: and 200 more\n")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_report_that_cannot_be_written_ends_in_one_line(folder, make):
    (folder / "report.html").unlink()
    make(folder / "report.html")
    if make is os.mkfifo:
        assert rewrite_report(folder).is_file()
        return
    with pytest.raises(JobError, match="no page can be written there: a folder is where a file belongs"):
        rewrite_report(folder)


@pytest.mark.parametrize("path", ["nowhere", "job.yaml"])
def test_what_is_no_folder_of_a_run_is_told(folder, path):
    with pytest.raises(JobError, match="name the folder of a run"):
        rewrite_report(folder / path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_STEPS = st.integers(0, 9) | _JSON


def _with_keys(*keys: str) -> st.SearchStrategy:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, _JSON))


_HISTOGRAM = st.fixed_dictionaries(
    {"counts": st.lists(st.floats() | _JSON, max_size=3), "edges": st.lists(st.floats() | _JSON, max_size=4)}
)
_FILES = st.fixed_dictionaries(
    {
        "run.json": _with_keys(*RUN, "plugins", "faults")
        | st.fixed_dictionaries(
            {
                "plugins": st.lists(_with_keys(*PLUGIN), max_size=2),
                "faults": st.lists(_with_keys(*FAULT), max_size=2),
            }
        )
        | _JSON,
        "metrics.jsonl": st.lists(
            st.fixed_dictionaries(
                {
                    "kind": st.sampled_from(["run", "train", "test", "plugin"]),
                    "step": _STEPS,
                    "plugin": st.just("p") | _JSON,
                    "loss": st.floats() | _JSON,
                },
                optional={
                    "p/x": st.floats() | _JSON,
                    "accuracy": _JSON,
                    **dict.fromkeys(INFO, _JSON),
                },
            )
            | _JSON,
            max_size=4,
        ),
        "events.jsonl": st.lists(_with_keys("step", "time", "message") | _JSON, max_size=3),
        "reports/p.jsonl": st.lists(
            st.fixed_dictionaries(
                {
                    "step": _STEPS,
                    "plugin": st.just("p") | _JSON,
                    "histograms": st.dictionaries(st.text(max_size=5), _HISTOGRAM | _JSON, max_size=2)
                    | _JSON,
                    "images": st.dictionaries(st.text(max_size=5), _JSON, max_size=2) | _JSON,
                }
            )
            | _JSON,
            max_size=3,
        ),
        "samples/samples.json": st.fixed_dictionaries(
            {
                "images": st.lists(
                    st.fixed_dictionaries({"file": st.just("00.png") | _JSON, "target": _JSON}) | _JSON,
                    max_size=3,
                )
            }
        )
        | _JSON,
    }
)


@pytest.mark.room
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(files=_FILES)
def test_any_json_in_any_file_gives_a_page(folder, files):
    for name, value in files.items():
        lines = value if name.endswith("l") else [value]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = Page(write_report(folder).read_text())
    assert not found.all("script")
    assert found.open == []
