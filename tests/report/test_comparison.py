"""Several runs beside each other, as a table and as a page."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from ringfence import JobError
from ringfence.cli.compare_runs import compare, comparison_lines, comparison_page
from ringfence.report.comparison import ABSENT, MAX_RUNS, compare_runs

from .test_page import EVIL, Page

JOB = """\
model: {{name: cnn, width: {width}}}
data: {{name: mnist10k}}
loss: {{name: cross_entropy}}
seed: 0
base_folder: {base}
plugins:
- {plugin}: {{lr: {lr}}}
  workers: 1
- monitor: {{}}
"""


def make_run(folder: Path, *, accuracy=0.9, width=8, lr=0.01, plugin="optim", job=None, **record) -> Path:
    folder.mkdir(parents=True)
    lines = [{"kind": "run", "step": 0, "metric": "accuracy", "higher_is_better": True, "parameters": 10}]
    lines += [
        {"kind": "train", "step": n, "epoch": 0, "loss": 1 / (n + 1), "lr_factor": 1.0} for n in range(9)
    ]
    figures = {"loss": 1 - accuracy, "accuracy": accuracy}
    lines += [{"kind": "validation", "step": 9, "epoch": 1, **figures, "best": True}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = JOB.format(width=width, base=folder, lr=lr, plugin=plugin) if job is None else job
    (folder / "job.yaml").write_text(text)
    told = {
        "status": "completed",
        "judged_by": "validation",
        "final_metrics": figures,
        "test_metrics": {"loss": 0.5, "accuracy": accuracy / 2},
        "torch_version": "2.13.0",
        "seconds": 61.0,
        "plugins": [
            {"name": plugin, "distribution": "ringfence", "version": "1", "peak_bytes": 3 << 20},
            {"name": "monitor", "distribution": "ringfence", "version": "1", "peak_bytes": 1 << 20},
        ],
        "faults": [{"plugin": plugin, "decision": "restarted", "step": 1}],
    }
    (folder / "run.json").write_text(json.dumps(told | record))
    return folder


def rows(found):
    return {row.key: list(row.values) for row in found}


def test_only_what_differs_is_told_key_by_key(tmp_path):
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", width=16, lr=0.02, torch_version="2.14.0"),
    ]

    assert rows(compare_runs(runs, charts=False).differences) == {
        "model.width": ["8", "16"],
        "plugins.optim.lr": ["0.01", "0.02"],
        "torch version": ["2.13.0", "2.14.0"],
    }
    assert not compare_runs([runs[0], make_run(tmp_path / "c")], charts=False).differences


def test_a_plugin_that_only_one_has_is_told_with_its_options_and_no_settings(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", plugin="other")]

    assert rows(compare_runs(runs, charts=False).differences) == {
        "plugins": ["optim, monitor", "other, monitor"],
        "plugins.optim.lr": ["0.01", ABSENT],
        "plugins.other.lr": [ABSENT, "0.01"],
    }


def test_what_came_of_it_is_told_part_by_part_and_the_best_is_marked(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", accuracy=0.95, seconds=7.5)]

    found = compare_runs(runs)

    told = rows(found.outcomes)
    assert told["validation accuracy"] == ["90.00%", "95.00%"]
    assert told["test accuracy"] == ["45.00%", "47.50%"]
    assert told["time"] == ["1 min 01 s", "7.5 s"]
    assert told["peak memory of plugins"] == ["4 MiB", "4 MiB"]
    assert told["faults of plugins"] == ["1 (1 restarted)"] * 2
    best = {row.key: row.best for row in found.outcomes if row.best}
    assert best == {"validation accuracy": {1}, "validation loss": {1}, "test accuracy": {1}}
    assert [title for title, _ in found.charts] == ["Training loss", "Validation loss", "Validation accuracy"]


def test_averages_of_the_weights_have_rows_of_their_own(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b")]
    for run, accuracy in zip(runs, (0.91, 0.92), strict=True):
        with (run / "metrics.jsonl").open("a") as file:
            for step, kind in ((4, "validation_ema"), (9, "validation_ema"), (9, "test_swa")):
                line = {
                    "kind": kind,
                    "step": step,
                    "epoch": 0,
                    "loss": 0.5,
                    "accuracy": accuracy - 0.01 * (step < 9),
                }
                file.write(json.dumps(line) + "\n")

    found = compare_runs(runs)

    told = rows(found.outcomes)
    assert told["validation accuracy, ema weights"] == ["91.00%", "92.00%"]
    assert told["test accuracy, swa weights"] == ["91.00%", "92.00%"]
    assert "test accuracy, ema weights" not in told
    assert {row.key: row.best for row in found.outcomes}["validation accuracy, ema weights"] == {1}
    # Of the test data there is one look, at the end: no curve.
    drawn = [title for title, _ in found.charts]
    assert drawn[3:] == ["Validation loss, ema weights", "Validation accuracy, ema weights"]
    assert len({re.search(r'id="(\w+)-', svg)[1] for _, svg in found.charts}) == len(found.charts)


@pytest.mark.parametrize(
    ("reduction", "told"),
    [
        ({"kind": "overfit", "samples": 8}, "completed (overfit, 8 samples)"),
        ({"kind": "overfit", "samples": 1}, "completed (overfit, 1 sample)"),
        ({"kind": "fast_dev_run"}, "completed (fast-dev-run)"),
        ({"kind": EVIL}, "completed (cut down)"),
    ],
)
def test_a_run_that_was_cut_down_is_told_so_and_is_the_best_in_nothing(tmp_path, reduction, told):
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", accuracy=1.0, reduction=reduction),
        make_run(tmp_path / "c", accuracy=0.8),
    ]

    found = compare_runs(runs, charts=False)

    assert rows(found.outcomes)["status"] == ["completed", told, "completed"]
    assert found.statuses[1] == told
    assert {row.key: row.best for row in found.outcomes if row.best} == {
        "validation accuracy": {0}, "validation loss": {0}, "test accuracy": {0}
    }  # fmt: skip
    assert not any(row.best for row in compare_runs(runs[:2], charts=False).outcomes)


def test_what_is_no_reduction_is_left_out_and_named(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", reduction={"kind": "overfit", "samples": -1})]

    found = compare_runs(runs, charts=False)

    assert rows(found.outcomes)["status"] == ["completed"] * 2
    assert found.left_out == ["b: run.json: reduction is not what it is in a run of ringfence"]


def test_the_best_names_its_metric(tmp_path):
    runs = [make_run(tmp_path / "a", best_metric=0.97), make_run(tmp_path / "b", best_metric=0.98)]

    assert rows(compare_runs(runs, charts=False).outcomes)["best validation accuracy"] == ["97.00%", "98.00%"]

    log = runs[1] / "metrics.jsonl"
    log.write_text(log.read_text().replace('"metric": "accuracy"', '"metric": "mae"'))
    told = rows(compare_runs(runs, charts=False).outcomes)
    assert told["best validation accuracy"] == ["97.00%", ABSENT]
    assert told["best validation MAE"] == [ABSENT, "0.98"]


def test_metrics_beside_the_one_that_judges_are_better_in_their_own_direction(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", accuracy=0.95)]

    def best():
        outcomes = compare_runs(runs, charts=False).outcomes
        return next(row.best for row in outcomes if row.key == "validation accuracy")

    for run in runs:
        log = run / "metrics.jsonl"
        told = '"metric": "loss", "directions": {"loss": false, "accuracy": true}, "higher_is_better": false'
        log.write_text(log.read_text().replace('"metric": "accuracy", "higher_is_better": true', told))
    assert best() == {1}
    for run in runs:
        log = run / "metrics.jsonl"
        log.write_text(log.read_text().replace('"accuracy": true', '"accuracy": "very"'))
    assert best() == {0}, "the control: without the direction lower counts as better"


def test_losses_of_two_kinds_are_not_called_better(tmp_path):
    other = JOB.format(width=8, base="", lr=1, plugin="optim").replace("cross_entropy", "mse")
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", accuracy=0.95, job=other)]

    assert {row.key for row in compare_runs(runs, charts=False).outcomes if row.best} == {
        "validation accuracy",
        "test accuracy",
    }


def test_a_run_that_was_killed_tells_what_it_had_measured(tmp_path):
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", status="running", final_metrics={}, test_metrics={}),
    ]

    assert rows(compare_runs(runs, charts=False).outcomes)["validation accuracy"] == ["90.00%", "90.00%"]


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [make_run(tmp_path / "x" / "run"), make_run(tmp_path / "y" / "run")]

    assert compare_runs(runs, charts=False).names == ["x/run", "y/run"]
    assert len(set(compare_runs([runs[0], runs[0]], charts=False).names)) == 2


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["a"], "2 to 8 runs; 1 is named"),
        (["a"] * 9, "9 are"),
        (["a", "empty"], "holds no run.json"),
        (["a", "none"], "none: there is no such folder; name the folder of a run"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(tmp_path, folders, said):
    make_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    assert MAX_RUNS == 8

    with pytest.raises(JobError, match=said):
        compare_runs([tmp_path / folder for folder in folders])


# on the terminal and as a page


def test_the_table_is_cut_to_the_terminal_and_whole_elsewhere(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", accuracy=0.95, width=16)]
    comparison = compare_runs(runs, charts=False)

    whole = comparison_lines(comparison, None)
    assert any(line.split() == ["validation", "accuracy", "90.00%", "95.00%", "*"] for line in whole)
    assert any(line.split() == ["model.width", "8", "16"] for line in whole)
    assert max(map(len, comparison_lines(comparison, 50))) <= 50


def test_a_name_with_a_line_end_makes_no_row(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b\nvalidation accuracy  99.99% *\n")]

    lines = comparison_lines(compare_runs(runs, charts=False), None)

    assert not [line for line in lines if "\n" in line or line.startswith("validation accuracy  99")]


def test_the_page_is_written_loads_nothing_and_replaces_no_file(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", accuracy=0.95, width=16)]
    out = tmp_path / "compare.html"

    assert list(compare(runs, out, None))[-1] == f"page  {out}"

    found = Page(out.read_text())
    assert not found.all("script")
    assert not found.all("link")
    assert len(found.all("svg")) == 3
    assert "default-src 'none'" in out.read_text()
    assert "95.00%" in [cell for cell in found.words if cell.strip()]
    # A long key of a job breaks at its dots.
    assert '<th scope="row">model.<wbr>width</th>' in out.read_text()
    with pytest.raises(JobError, match="is there already"):
        list(compare(runs, out, None))
    with pytest.raises(JobError, match="cannot be written"):
        list(compare(runs, tmp_path / "no folder" / "x.html", None))


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "run.json").write_text(
            f'{{"status": "{EVIL}", "final_metrics": {{"{EVIL}": 1}}}}'
        ),
        lambda folder: (folder / "run.json").write_text("[" * 100_000),
        lambda folder: (folder / "run.json").write_text('{"final_metrics": 7, "plugins": 3, "faults": {}}'),
        lambda folder: (folder / "job.yaml").write_text(
            f"'{EVIL}': {{'{EVIL}': ['{EVIL}']}}\nplugins: [{EVIL!r}]"
        ),
        lambda folder: (folder / "job.yaml").write_text("a: " * 50 + "1"),
        lambda folder: (folder / "model.json").write_text(f'{{"schema": 1, "model": "{EVIL}"}}'),
        lambda folder: (folder / "model.json").symlink_to(folder / "run.json"),
        lambda folder: os.mkfifo(folder / "model.json"),
        lambda folder: (folder / "metrics.jsonl").write_text(
            json.dumps({"kind": "run", "step": 0, "metric": EVIL})
            + "\n"
            + json.dumps({"kind": "validation", "step": 1, EVIL: "NaN", "accuracy": 1.7e308, "loss": -1e308})
            + "\n"
        ),
    ],
)
def test_a_strangers_folder_gives_a_page_and_nothing_of_it_runs(tmp_path, harm):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / f"b{EVIL.replace('/', '')}")]
    harm(runs[1])

    found = compare_runs(runs, charts=False)

    assert comparison_lines(found, 80)[0].startswith("WHAT CAME OF THEM")
    assert not Page(comparison_page(found)).all("script")


def test_numbers_that_are_none_are_never_the_best(tmp_path):
    worse = make_run(tmp_path / "b", final_metrics={"accuracy": None, "loss": None})
    found = compare_runs(
        [make_run(tmp_path / "a"), worse, make_run(tmp_path / "c", accuracy=0.1)], charts=False
    )

    assert {row.key: row.best for row in found.outcomes}["validation accuracy"] == {0}
