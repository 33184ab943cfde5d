"""What the benchmarks report is what was measured: figures, goals, tables, plots. No clock is read here."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def harness():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module("harness")


@pytest.fixture(scope="module")
def plots(harness):
    return importlib.import_module("plots")


@pytest.mark.parametrize(
    ("values", "unit", "text"),
    [
        ((1.0, 2.0, 3.0), "s", "2 s (1 to 3)"),
        ((0.0125,), "s", "12.5 ms (12.5 to 12.5)"),
        ((15e-6, 16e-6, 17e-6), "s", "16 µs (15 to 17)"),
        ((-2e-6, -1e-6, 1e-6), "s", "-1 µs (-2 to 1)"),
        ((0.0,), "s", "0 ns (0 to 0)"),
        ((1234.5, 1234.5), "samples/s", "1,234 samples/s (1,234 to 1,234)"),
        ((1.02, 1.03, 1.04), "x", "1.03 x (1.02 to 1.04)"),
    ],
)
def test_a_figure_is_told_in_a_unit_that_fits(harness, values, unit, text):
    assert str(harness.Figure(values, unit)) == text


def test_a_figure_tells_the_median_and_the_quartiles(harness):
    figure = harness.Figure((5.0, 1.0, 2.0, 3.0, 100.0))

    assert figure.median == 3.0
    assert figure.spread == (1.5, 52.5)


def test_ratio_and_difference_go_round_by_round(harness):
    figures = {"a": harness.Figure((2.0, 40.0)), "b": harness.Figure((1.0, 10.0))}

    assert harness.ratio(figures, "a", "b").values == (2.0, 4.0)
    assert harness.difference(figures, "a", "b").values == (1.0, 30.0)


def test_sides_are_measured_in_turn_and_warm_rounds_do_not_count(harness):
    order = []

    def side(name):
        def measure():
            order.append(name)
            return float(len(order))

        return measure

    figures = harness.in_turn({name: side(name) for name in "abc"}, rounds=2, warm=1)

    assert order == [*"cab", *"abc", *"bca"]
    assert figures["a"].values == (4.0, 9.0)
    assert figures["c"].values == (6.0, 8.0)


@pytest.mark.parametrize(
    ("value", "bound", "at_least", "met"),
    [(1.0, 1.0, False, True), (1.1, 1.0, False, False), (1.1, 1.1, True, True), (1.0, 1.1, True, False)],
)
def test_a_goal_is_met_up_to_its_bound(harness, value, bound, at_least, met):
    goal = harness.Goal("so much", value, bound, at_least)

    assert goal.met is met
    assert str(goal).startswith("met: so much" if met else "MISSED: so much")


def test_a_goal_says_what_was_measured_in_its_unit(harness):
    assert str(harness.Goal("at most 15 µs", 12.34e-6, 15e-6, unit="s")).endswith("measured 12.3 µs")


@pytest.fixture
def table(harness):
    figure = harness.Figure((1e-3, 2e-3, 3e-3))
    return harness.Table(
        "A step",
        ("", "time", "over plain"),
        [("plain", figure, ""), ("ringfence", figure, figure)],
        [harness.Goal("at most 1 x", 1.0, 1.0)],
        notes=["One thread."],
    )


def test_a_table_is_markdown_with_goals_and_notes_below(table):
    assert table.text() == (
        "### A step\n"
        "\n"
        "|           | time          | over plain    |\n"
        "| --------- | ------------- | ------------- |\n"
        "| plain     | 2 ms (1 to 3) |               |\n"
        "| ringfence | 2 ms (1 to 3) | 2 ms (1 to 3) |\n"
        "\n"
        "- met: at most 1 x; measured 1\n"
        "- One thread.\n"
    )


def test_a_table_is_recorded_with_every_measurement(table):
    record = json.loads(json.dumps(table.record()))

    assert record["lines"][1][1] == {"values": [1e-3, 2e-3, 3e-3], "unit": "s"}
    assert record["goals"][0]["met"] is True


def test_bars_and_lines_are_drawn(harness, plots, table, tmp_path):
    series = {"measured": [(1, 0.1), (10, 1.0)], "linear": [(1, 0.1), (10, 1.0)]}
    lines = harness.Table("Scaling", ("n", "time"), [], plot=series, axes=("n", "s"))

    plots.draw([table, lines, harness.Table("Words", ("", ""), [("a", "b")])], tmp_path / "row.png")

    assert (tmp_path / "row.png").read_bytes().startswith(b"\x89PNG")


def test_run_says_what_rows_there_are():
    done = _run("--help")

    assert "ROW" in done.stdout
    assert "1, 2, 3, 4, 5, 6, 7" in done.stdout


def test_run_refuses_a_row_that_does_not_exist(tmp_path):
    done = _run("99", "--out", str(tmp_path / "out"), check=False)

    assert done.returncode == 2
    assert "there is no row 99" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.soak
def test_a_row_is_measured_told_recorded_and_drawn(tmp_path):
    done = _run("7", "--quick", "--out", str(tmp_path))
    record = json.loads((tmp_path / "row-7.json").read_text())

    assert "## 7. " in done.stdout
    assert (tmp_path / "results.md").read_text().startswith("## 7. ")
    assert (tmp_path / "row-7.png").exists()
    assert record["quick"] is True
    assert record["machine"]["packages"]["torch"]
    assert [len(table["lines"]) for table in record["tables"]] == [3, 2, 2]


def _run(*arguments, check=True):
    return subprocess.run(
        [sys.executable, str(BENCH / "run.py"), *arguments],
        capture_output=True,
        text=True,
        check=check,
        timeout=150,
    )
