"""Folders as save_to_disk of Hugging Face's datasets writes them: rows and images, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from ringfence import DataError
from ringfence.datasets.dataset_registry import load_data
from ringfence.datasets.row_file import read_rows

from .saving import CLASSES, FEATURES, REVIEWS, VALUE, pictures, save, save_splits


def load(name, path, **options):
    return load_data(name, {"path": str(path), **options}, base=path.parent)


@pytest.mark.parametrize("files", [1, 3])
def test_rows_of_all_files_and_batches_come_in_order(tmp_path, files):
    rows = read_rows(save(tmp_path / "saved", REVIEWS, FEATURES, files=files))

    assert rows.columns["text"] == REVIEWS["text"]
    assert rows.columns["label"] == ["bad", "good"] * 12
    assert rows.columns["stars"] == REVIEWS["stars"]
    last = f"data-0000{files - 1}-of-0000{files}.arrow: row {24 // files}"
    assert rows.where(23).endswith(last)


def test_each_split_is_its_part(tmp_path):
    other = {**{name: cells[:4] for name, cells in REVIEWS.items()}}
    parts = {"train": (REVIEWS, FEATURES), "validation": (other, FEATURES), "test": (other, FEATURES)}
    folder = save_splits(tmp_path / "saved", **parts, unsupervised=(other, FEATURES))

    data = load("table", folder, target="label", ignore=["text"])

    assert {name: len(part) for name, part in data.parts().items()} == {
        "train": 24,
        "validation": 4,
        "test": 4,
    }
    assert data.train.class_names == ("bad", "good")
    assert "'unsupervised' is not read" in data.notes[0]
    with pytest.raises(DataError, match="is a data set with splits; name the folder of one"):
        read_rows(folder)


def test_images_are_read_as_those_of_folders_are(tmp_path):
    columns, features = pictures()
    save(tmp_path / "saved", columns, features, files=2)
    for i, cell in enumerate(columns["image"].to_pylist()):
        file = tmp_path / "folder" / ("bad", "good")[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(cell["bytes"])
    saved, read = (load("folder", tmp_path / name, size=[4, 3]) for name in ("saved", "folder"))

    def in_order(data):
        inputs = torch.cat([data.train.inputs, data.test.inputs])
        order = inputs.flatten(1).float().mean(1).argsort()
        return inputs[order], torch.cat([data.train.targets, data.test.targets])[order]

    assert all(map(torch.equal, in_order(saved), in_order(read)))
    assert saved.train.class_names == read.train.class_names == ("bad", "good")


def test_what_a_class_is_called_is_its_name_and_minus_one_is_none(tmp_path):
    save(tmp_path / "a", {"x": [1.0, 2.0], "label": [1, -1]}, {"x": VALUE, "label": CLASSES})
    save(tmp_path / "b", {"x": [1.0, 2.0], "label": [1, 2]}, {"x": VALUE, "label": CLASSES})

    assert read_rows(tmp_path / "a").columns["label"] == ["good", None]
    with pytest.raises(DataError, match=r"arrow: row 2: column 'label' holds the class 2; .* names 2"):
        read_rows(tmp_path / "b")


def test_a_column_that_is_not_plain_is_refused_where_it_is_used_only(tmp_path):
    columns, features = pictures(20)
    columns, features = {**columns, "x": [0.5] * 20}, {**features, "x": VALUE}
    folder = save(tmp_path / "saved", {**columns, "ids": [[1, 2]] * 20}, {**features, "ids": VALUE})

    with pytest.raises(DataError, match=r"holds a dict, which is no category; leave it out .*\['image'\]"):
        load("table", folder, target="label")
    assert load("table", folder, target="label", ignore=["image", "ids"]).train.inputs.shape[1:] == (1,)


def state(folder, **changed):
    (folder / "state.json").write_text(json.dumps(changed))


def cut(folder, count):
    file = next(folder.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:count])


def write_anew(folder, **changed):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    save(folder, changed.pop("columns", REVIEWS), FEATURES, **changed)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: cut(f, -100), r"was cut short"),
        (lambda f: cut(f, 0), r"was cut short"),
        (lambda f: (f / "dataset_info.json").unlink(), r"dataset_info.json: cannot be read: No such file"),
        (lambda f: (f / "dataset_info.json").write_text("{"), r"dataset_info.json: is not as save_to_disk"),
        (state, r"state.json: is not as save_to_disk .*_data_files"),
        (lambda f: state(f, _data_files=[]), r"state.json: names no file"),
        (lambda f: state(f, _data_files=[{"filename": "../a.arrow"}]), r"names the file '../a.arrow'"),
        (lambda f: state(f, _data_files=[{"filename": "b.arrow"}]), r"b.arrow: no such file"),
        (
            lambda f: state(
                f, _data_files=[{"filename": "a.arrow"}], _indices_data_files=[{"filename": "i"}]
            ),
            r"has rows picked out of files by a list",
        ),
        (lambda f: write_anew(f, columns={"text": ["a"], "label": [0]}), r"has other columns .*: stars"),
        (
            lambda f: write_anew(f, options=pa.ipc.IpcWriteOptions(compression="zstd")),
            r"holds a record batch that is compressed",
        ),
        (
            lambda f: write_anew(
                f, columns={**REVIEWS, "text": pa.array(REVIEWS["text"]).dictionary_encode()}
            ),
            r"holds a dictionary that is compressed, or no batch of rows",
        ),
    ],
)
def test_damage_is_named(tmp_path, harm, said):
    folder = save(tmp_path / "saved", REVIEWS, FEATURES)
    assert len(read_rows(folder)) == 24
    harm(folder)

    with pytest.raises(DataError, match=said):
        read_rows(folder)


def test_places_beyond_a_texts_memory_are_not_read(tmp_path):
    folder = save(tmp_path / "saved", {"text": ["abcd", "efgh"]}, {"text": VALUE})
    file = next(folder.glob("*.arrow"))
    data = file.read_bytes()
    places = np.array([0, 4, 8], np.int32).tobytes()
    assert data.count(places) == 1
    file.write_bytes(data.replace(places, np.array([0, 4, 1 << 30], np.int32).tobytes()))

    with pytest.raises(DataError, match="cannot be read as Arrow"):
        read_rows(folder)


@pytest.mark.parametrize(
    ("changed", "options", "said"),
    [
        (
            {"image": [{"bytes": None, "path": "/etc/passwd"}] * 12},
            {},
            "only the path of an image, '/etc/passwd'",
        ),
        ({"image": [None] * 12}, {}, "row 1: holds no image"),
        ({"image": [{"bytes": b"no", "path": None}] * 12}, {}, "row 1: is no image that can be read"),
        ({"label": [0, -1] * 6}, {}, "row 2: has the class -1 in column 'label', which has 2"),
        (
            {},
            {"target": "image"},
            "has no column 'image' of ClassLabel, but 'image' .Image., 'label' .ClassLabel",
        ),
        ({}, {"image": "photo"}, "has no column 'photo' of Image"),
    ],
)
def test_images_that_cannot_be_taken_are_named(tmp_path, changed, options, said):
    folder = save(tmp_path / "saved", *pictures(**changed))

    with pytest.raises(DataError, match=said):
        load("folder", folder, **options)


def test_splits_with_other_classes_or_columns_are_refused(tmp_path):
    columns, features = pictures()
    other = {**features, "label": {**CLASSES, "names": ["good", "bad"]}}
    names = save_splits(tmp_path / "a", train=(columns, features), test=(columns, other))
    lacking = save_splits(
        tmp_path / "b",
        train=(columns, features),
        test=({"label": columns["label"]}, {"label": CLASSES}),
    )
    fewer = save_splits(
        tmp_path / "c",
        train=(REVIEWS, FEATURES),
        test=({"text": ["a"], "label": [0]}, {"text": VALUE, "label": CLASSES}),
    )

    with pytest.raises(DataError, match=r"test: names other classes than .*train"):
        load("folder", names)
    with pytest.raises(DataError, match="test: has no column 'image' of Image, as the training part has"):
        load("folder", lacking)
    with pytest.raises(DataError, match=r"has no column 'stars', which .*train.*has"):
        load("text", fewer)


def test_options_for_columns_need_a_saved_data_set(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="options 'image' and 'target' name columns of what save_to_disk"):
        load("folder", tmp_path / "photos", target="label")
