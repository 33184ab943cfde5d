"""``metrics.csv``: the numbers of a run for spreadsheets."""

from __future__ import annotations

import csv
import json

import pytest

from ringfence import StepInfo
from ringfence.cli.report_page import rewrite_report
from ringfence.plugins.observer import RunInfo
from ringfence.tracking import metrics_csv
from ringfence.tracking.metrics_csv import HEADER, METRICS_CSV, text_cell, write_metrics_csv
from ringfence.tracking.metrics_log import MetricsLog


def rows(folder):
    with (folder / METRICS_CSV).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path):
    """Make the folder of a run that went back from step 3 to step 2."""
    log = MetricsLog(tmp_path)
    log.started(RunInfo(0, 4, 2, 64, 8, 10, "cpu", "accuracy", higher_is_better=True))
    for step in (0, 1):
        log.step(StepInfo(step), 1.5 - step, 16)
    position = log.position()
    log.reported("watch", StepInfo(2), {"norm": 9.0}, None)
    log.step(StepInfo(2), 99.0, 16)
    log.rolled_back(2, position)
    log.reported("watch", StepInfo(2), {"norm": 2.0, "=cmd|' /C calc'!A0": float("nan")}, None)
    log.step(StepInfo(2), 0.25, 16)
    log.evaluated(3, 1, {"loss": 0.5, "accuracy": 0.75}, best=True)
    log.close()
    return tmp_path


def test_a_row_for_each_step_and_evaluation_and_none_of_what_was_rolled_back(folder):
    write_metrics_csv(folder)

    found = rows(folder)
    assert (folder / METRICS_CSV).read_text().splitlines()[0] == ",".join(HEADER)
    assert [(row["step"], row["loss"]) for row in found if row["kind"] == "train"] == [
        ("0", "1.5"), ("1", "0.5"), ("2", "0.25")
    ]  # fmt: skip
    assert [row["metric"] for row in found if row["best"] == "true"] == ["0.75"]


def test_a_loss_that_judges_stays_in_its_own_column_too(tmp_path):
    log = MetricsLog(tmp_path)
    log.started(RunInfo(0, 4, 2, 64, 8, 10, "cpu", "loss", higher_is_better=False))
    log.step(StepInfo(0), 1.5, 16)
    log.evaluated(1, 1, {"loss": 0.5, "iou": 0.75}, best=True)
    log.close()
    write_metrics_csv(tmp_path)

    found = [(row["loss"], row["metric"], row["name"], row["value"]) for row in rows(tmp_path)]
    assert found == [("1.5", "", "", ""), ("0.5", "0.5", "", ""), ("", "", "iou", "0.75")]


def test_numbers_of_plugins_have_rows_of_their_own_and_their_names_are_no_formulas(folder):
    write_metrics_csv(folder)

    found = [(row["plugin"], row["name"], row["value"]) for row in rows(folder) if row["kind"] == "plugin"]
    assert found == [("watch", "norm", "2.0"), ("watch", "'=cmd|' /C calc'!A0", "NaN")]


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", " =", "\uff1d", "\uff20"])
def test_no_cell_begins_as_a_formula_whoever_wrote_the_folder(tmp_path, begin):
    evil = f'{begin}1+1"\n,x'
    lines = [
        {"kind": "run", "step": 0, "metric": evil},
        {"kind": evil, "step": evil, "epoch": 0, evil: 1, "loss": evil, "time": [evil]},
        {"kind": "plugin", "step": 1, "epoch": 0, "plugin": evil, f"{evil}/{evil}": 2.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    write_metrics_csv(tmp_path)

    with (tmp_path / METRICS_CSV).open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert len(cells) == 3 * len(HEADER)
    assert not [cell for cell in cells if cell.startswith(begin)]
    assert any(cell.startswith(f"'{begin}1+1") for cell in cells)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a;=1+1", "a;'=1+1"),
        ("a; \uff1d1", "a;' \uff1d1"),
        ('a;"=1+2;', "a;'\"=1+2;"),
        ("a-b;c=d", "a-b;c=d"),
        # What would end a row, or be obeyed by a terminal, is written as an escape.
        ("a\n=1+3;b", "a\\n=1+3;b"),
        ("x\r=1+1", "x\\r=1+1"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("\t=1", "\\t=1"),
    ],
)
def test_nor_does_one_where_semicolons_part_the_cells(text, cell):
    assert text_cell(text) == cell


def test_a_long_run_is_written_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_csv, "_CHUNK_CHARACTERS", 50)
    line = {"kind": "train", "step": 7, "epoch": 1, "loss": 0.5}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(line)}\n" * 100)

    write_metrics_csv(tmp_path)

    assert [row["loss"] for row in rows(tmp_path)] == ["0.5"] * 100


def test_the_command_report_writes_it_anew_and_follows_no_link(folder, tmp_path_factory, capfd):
    (folder / "run.json").write_text("{}")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
    elsewhere.write_text('{"kind":"train","step":0,"loss":1.0}\n')
    (folder / METRICS_CSV).symlink_to(elsewhere)

    rewrite_report(folder)
    assert not (folder / METRICS_CSV).is_symlink()
    assert len(rows(folder)) == 6

    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").symlink_to(elsewhere)
    rewrite_report(folder)
    assert rows(folder) == []
    assert "metrics.jsonl is a symbolic link" in capfd.readouterr().err
    assert "loss" in elsewhere.read_text()
