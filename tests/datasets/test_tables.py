"""Tables with categories, from every kind of file, and what is told of cells that do not fit."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ringfence import DataError
from ringfence.datasets import row_file
from ringfence.datasets.dataset_registry import load_data
from ringfence.datasets.row_file import read_rows
from ringfence.datasets.run_encoder import row_encoder
from ringfence.datasets.split import HoldOut
from ringfence.engine.preprocessing import Preprocessing

HOUSES = [
    {"area": 50.0, "rooms": 2, "city": "Rome", "price": 1.5},
    {"area": 70.0, "rooms": 3, "city": "Oslo", "price": 4.25},
    {"area": None, "rooms": 1, "city": "Rome", "price": 2.0},
    {"area": 90.0, "rooms": 6, "city": None, "price": 3.0},
]


def write(path, rows):
    """Write rows in the format that the ending of ``path`` names."""
    names = list(rows[0])
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        delimiter = {".csv": ",", ".tsv": "\t"}[path.suffix]
        lines = [names, *([("" if cell is None else str(cell)) for cell in row.values()] for row in rows)]
        path.write_text("".join(delimiter.join(line) + "\n" for line in lines))


def load(base, **options):
    return load_data("table", {"path": "a.csv", "target": "price", **options}, base=base)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_numbers_and_categories_are_learned_from_the_training_rows(tmp_path, ending):
    write(tmp_path / f"a.{ending}", HOUSES)
    write(tmp_path / f"test.{ending}", [{"area": 90.0, "rooms": 0, "city": "Bonn", "price": 1.0}])

    data = load(tmp_path, path=f"a.{ending}", test_path=f"test.{ending}")

    train, test = data.train.inputs, data.test.inputs
    # Oslo and Rome are 1 and 2; what is missing, or was never seen, is 0.
    assert train["categories"].tolist() == [[2], [1], [2], [0]]
    assert test["categories"].tolist() == [[0]]
    areas = torch.tensor([50, 70, 70, 90.0])
    expected = torch.stack(
        [(areas - 70) / math.sqrt(800 / 3), (torch.tensor([2, 3, 1, 6.0]) - 3) / math.sqrt(3.5)]
    )
    torch.testing.assert_close(train["numbers"], expected.T)
    assert test["numbers"][0, 0] == train["numbers"][3, 0]
    assert (data.train.num_classes, data.train.targets.dtype) == (None, torch.float32)
    assert data.train.targets.flatten().tolist() == [1.5, 4.25, 2.0, 3.0]
    assert data.values == {"categories": (3,)}
    assert data.notes[-1].startswith(
        "3 cells missing, or of a category that was not trained on: area (1), city (2)"
    )


def test_what_is_held_out_teaches_nothing(tmp_path):
    """The control: without a validation part the category is known."""
    rows = [{"x": 1.0, "kind": f"k{i}", "price": i / 2} for i in range(20)]
    write(tmp_path / "a.csv", rows)

    held = load_data("table", {"path": "a.csv", "target": "price"}, base=tmp_path, asked=HoldOut(0.25))

    categories = held.preprocessing.state["categories"][0]["values"]
    assert len(categories) == len(held.train) == 12
    assert held.validation.inputs["categories"].unique().tolist() == [0]
    assert load(tmp_path, test_fraction=0.1).values == {"categories": (19,)}


def test_a_table_of_numbers_alone_is_one_tensor(tmp_path):
    write(tmp_path / "a.csv", [{"a": i, "b": 5, "price": 0.5 * i} for i in range(10)])

    data = load(tmp_path, standardize=False)

    assert data.train.inputs.shape == (8, 2)
    assert torch.equal(data.train.targets[:, 0] * 2, data.train.inputs[:, 0])


@pytest.mark.parametrize(
    ("cells", "task", "classes"),
    [
        (["yes", "no", "yes", "no"], "auto", ("no", "yes")),
        ([10, 9, 10, 9], "auto", ("9", "10")),
        ([10, 9, 10, 9], "regression", ()),
        ([0.5, 1, 2, 3], "auto", ()),
        ([True, False, True, False], "auto", ("false", "true")),
    ],
)
def test_the_target_is_classes_or_numbers(tmp_path, cells, task, classes):
    write(tmp_path / "a.jsonl", [{"x": i * 1.0, "price": cell} for i, cell in enumerate(cells)])

    data = load(tmp_path, path="a.jsonl", task=task, test_fraction=0.5)

    assert data.train.class_names == classes
    assert (data.train.num_classes is None) == (not classes)


def test_parts_are_found_in_a_folder_by_name(tmp_path):
    for part in ("train", "val", "test"):
        write(tmp_path / f"{part}.csv", HOUSES)

    data = load(tmp_path, path=".")

    assert {name: len(part) for name, part in data.parts().items()} == dict.fromkeys(
        ("train", "validation", "test"), 4
    )
    assert data.notes[0].endswith(
        "trains on 'train.csv', is judged by 'val.csv', tests on 'test.csv' at the end"
    )
    (tmp_path / "val.csv").unlink()
    (tmp_path / "test.csv").unlink()
    with pytest.raises(DataError, match=r"holds 'train.csv' and neither 'val' nor 'test' beside it"):
        load(tmp_path, path=".")


def test_columns_can_be_named_by_kind(tmp_path):
    write(tmp_path / "a.csv", HOUSES * 2)

    data = load(tmp_path, categories=["rooms", "city"], ignore=["area"])

    assert data.train.inputs.keys() == {"categories"}
    assert [column["name"] for column in data.preprocessing.state["categories"]] == ["rooms", "city"]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("price,x\n1,2\n3\n", {}, "line 3: has 1 cells, the first line 2"),
        (
            "price,x\n1,2\nmany,2\n",
            {"task": "regression"},
            "line 3: column 'price' holds 'many', which is no finite",
        ),
        ("price,x\n1,2\n,2\n", {}, "line 3: column 'price' holds nothing, and is the target"),
        (
            "price,x\n1,2\n1e999,2\n",
            {"task": "regression"},
            "line 3: column 'price' holds '1e999', which is no",
        ),
        (
            "price,x\n1,2\n1,2x\n",
            {"numbers": ["x"]},
            "line 3: column 'x' holds '2x', which is no finite number",
        ),
        ("prize,x\n1,2\n", {}, "has no column 'price', which option 'target' names; did you mean 'prize'"),
        ("price,x\n1,2\n", {"numbers": ["y"]}, "has no column 'y', which option 'numbers' names"),
        ("price,x\n1,2\n", {"ignore": ["price"]}, "column 'price' is the target, and in option 'ignore'"),
        ("price,x\n1,2\n", {"numbers": ["x"], "ignore": ["x"]}, "column 'x' is named twice by the options"),
        ("price\n1\n", {}, "has no column besides the target 'price'"),
        ("price,x,x\n1,2,2\n", {}, "line 1: holds the names of the columns, each once.*'x' twice"),
        ("price,\n1,2\n", {}, "line 1: holds the names of the columns, each once.*one is empty"),
        ("price,x\n", {}, "holds no rows"),
        ("", {}, "holds no rows"),
        ('price,x\n1,"' + "a" * 140_000 + '"\n', {}, "line 2: field larger than field limit"),
        ("price,x\n1," + "a" * 1_100_000, {}, "line 2: is longer than 1,048,576 bytes"),
        (
            "price,x\n" + "".join(f"1,name-{i}\n" for i in range(1100)),
            {},
            "column 'x' has 1,100 different values.*ignore: ..x'",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_told_by_line(tmp_path, text, options, said):
    (tmp_path / "a.csv").write_text(text)

    with pytest.raises(DataError, match=rf"a\.csv: {said}"):
        load(tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"price": 1}\n[1]\n', "line 2: is no object of JSON"),
        ("a.jsonl", b'{"price": 1}\n' + b'{"a":' * 100_000 + b"\n", "line 2: is no object of JSON"),
        (
            "a.jsonl",
            b'{"price": 1, "x": [1]}\n' * 5,
            "^[^:]*a.jsonl: line [1-5]: column 'x' holds a list, which",
        ),
        ("a.csv", b"price,x\n\xff\xfe,2\n", "is no text in UTF-8"),
        ("a.parquet", b"PAR1 and nothing more PAR1", "cannot be read as Parquet"),
        ("a.xlsx", b"", r"ends in '.xlsx'; expected .csv, .jsonl"),
        ("b.csv", b"", "a.csv: no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=said):
        load(tmp_path, path="a.csv" if name == "b.csv" else name)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_larger_than_this_machine_can_hold_is_refused_before_it_is_read(tmp_path, monkeypatch, ending):
    write(tmp_path / f"a.{ending}", [{"price": 1, "x": "a" * 50_000}] * 40)
    assert len(read_rows(tmp_path / f"a.{ending}")) == 40
    size = (tmp_path / f"a.{ending}").stat().st_size
    monkeypatch.setattr(row_file, "machine_bytes", lambda: 16 * (size if ending == "parquet" else size - 1))

    said = "claims to unpack to" if ending == "parquet" else "bytes, and at most"
    with pytest.raises(DataError, match=rf"a\.{ending}: .*{said}"):
        read_rows(tmp_path / f"a.{ending}")


def test_what_a_run_keeps_makes_the_same_samples_of_other_rows(tmp_path):
    """Codes and means are those of the run, and not of the rows that are given."""
    write(tmp_path / "a.csv", HOUSES * 3)
    kept = load(tmp_path).preprocessing
    write(
        tmp_path / "new.csv",
        [{"city": "Rome", "rooms": 2, "area": 50.0}, {"city": "Bonn", "rooms": 1, "area": 1.0}],
    )

    rows = read_rows(tmp_path / "new.csv")
    inputs = row_encoder(kept)().inputs(rows, torch.arange(2))

    number = kept.state["categories"][0]["values"].index("Rome") + 1
    assert inputs["categories"].tolist() == [[number], [0]]
    mean, std = (kept.state["numbers"][0][key] for key in ("mean", "std"))
    assert inputs["numbers"][0, 0] == pytest.approx((50 - mean) / std)
    again = load_data("table", {"path": "a.csv", "target": "price"}, base=tmp_path, known=kept)
    assert again.preprocessing == kept


@pytest.mark.parametrize(
    "state",
    [
        {},
        {
            "numbers": [{"name": "a", "mean": 0.0, "std": 0.0}],
            "categories": [],
            "target": {"name": "t", "classes": None},
        },
        {"numbers": [], "categories": [], "target": {"name": "t", "classes": None}},
        {"numbers": "all", "categories": [], "target": {"name": "t", "classes": None}},
    ],
)
def test_what_a_stranger_wrote_of_a_table_is_checked(state):
    with pytest.raises(DataError, match=r"preprocessing\.json of the run is damaged"):
        row_encoder(Preprocessing("table", state))()


def test_an_old_pyarrow_which_unpickles_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", HOUSES)
    monkeypatch.setattr(pa, "__version__", "14.0.0")

    with pytest.raises(DataError, match=r"pyarrow 14\.0\.0 unpickles what a file may hold"):
        read_rows(tmp_path / "a.parquet")


@pytest.mark.parametrize(("module", "extra"), [("pyarrow", "parquet"), ("tokenizers", "text")])
def test_a_missing_extra_is_told(tmp_path, monkeypatch, module, extra):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    write(tmp_path / "a.parquet" if extra == "parquet" else tmp_path / "a.csv", HOUSES * 2)

    options = {"path": f"a.{'parquet' if extra == 'parquet' else 'csv'}", "text": "city", "target": "rooms"}
    with pytest.raises(DataError, match=rf"pip install 'ringfence\[{extra}\]'"):
        load_data("text", options, base=tmp_path)
