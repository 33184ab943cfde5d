"""``model.json``: what it says of a model, and that nobody's file is taken for what it is not."""

import json
import os

import pytest
import torch

from ringfence.engine.data import Data, Dataset
from ringfence.hooks.errors import CheckpointError
from ringfence.tracking.describe_model import describe_model
from ringfence.tracking.model_record import (
    MAX_BYTES,
    NAME,
    ModelChoice,
    read_model_record,
    write_model_record,
)


def images():
    made = Dataset(torch.zeros(4, 3, 8, 6, dtype=torch.uint8), torch.arange(4) % 2, 2, ("cat", "dog"))
    return Data(made, made, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))


def numbers():
    made = Dataset(torch.zeros(4, 5), torch.zeros(4, 2), None)
    return Data(made, made)


def described(data):
    return describe_model(ModelChoice("cnn", {"width": 4}, 7), data, {"train": "4 samples, 00"})


def test_images_in_bytes_are_told_with_scale_normalisation_and_classes():
    told = json.loads(described(images()).encode())

    assert told["model"] == {"name": "cnn", "options": {"width": 4}, "seed": 7}
    assert told["input"] == {"shape": [3, 8, 6], "dtype": "uint8", "layout": "CHW"}
    assert (told["output"], told["task"], told["scale"]) == ({"shape": [2]}, "classification", 255)
    assert told["normalisation"] == {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}
    assert (told["class_names"], told["edits"], told["weights"]) == (["cat", "dog"], [], {})


def test_a_regression_has_neither_classes_nor_scale():
    told = json.loads(described(numbers()).encode())

    assert told["input"] == {"shape": [5], "dtype": "float32", "layout": None}
    assert (told["output"], told["task"], told["scale"]) == ({"shape": [2]}, "regression", None)
    assert (told["normalisation"], told["class_names"]) == (None, [])


@pytest.mark.parametrize("data", [images(), numbers()], ids=["images", "numbers"])
def test_what_was_written_reads_back_equal(tmp_path, data):
    write_model_record(tmp_path, described(data))

    assert read_model_record(tmp_path) == described(data)


def change(**changes):
    def apply(told):
        for path, value in changes.items():
            *above, last = path.split("__")
            place = told
            for key in above:
                place = place[key]
            place[last] = value

    return apply


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (change(schema=2), "as schema 2; this is"),
        (
            change(versions__ringfence="99.1.0"),
            r"written by ringfence 99.1.0, .*pip install 'ringfence==99.1.0'",
        ),
        (change(versions__ringfence="1; rm -rf"), "tells no version"),
        (change(edits=[{"kind": "cut", "channels": [2**62]}]), "an edit of the network, 'cut'"),
        (change(edits=["subprocess:run"]), "an edit of the network, 'subprocess:run'"),
        (change(extra=1), "unknown field `extra`"),
        (change(scale=1e-30), "another scale than 255"),
        (change(normalisation__mean=[0.1]), "not one number a channel"),
        (change(normalisation__std=[1, 0, 1]), "a std is not above 0"),
        (change(class_names=["cat"]), "other class names than classes"),
        (change(class_names=["c"] * 100_001), "length <= 100000"),
        (change(output__shape=[2, 2]), "an output of one dimension"),
        (change(input__shape=[3, 8]), "three dimensions"),
        (change(input__shape=[-1, 8, 8]), "`int` >= 0"),
        (change(input__shape=[2**62, 8, 8]), "`int` <= 16777216"),
        (change(input__shape=[1] * 9), "length <= 8"),
        (change(weights={"../../x.safetensors": "0" * 64}), "matching regex"),
        (change(weights={"model.safetensors": "0"}), "matching regex"),
        (change(task="guess"), "Invalid enum value"),
        (lambda told: told.pop("model"), "missing required field `model`"),
    ],
)
def test_what_no_run_writes_is_refused_by_name(tmp_path, harm, message):
    told = json.loads(described(images()).encode())
    harm(told)
    (tmp_path / NAME).write_text(json.dumps(told))

    with pytest.raises(CheckpointError, match=message):
        read_model_record(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 500_000, "damaged"),
        (b'{"schema": NaN}', "damaged"),
        (b" " * (MAX_BYTES + 1), "more than 1048576 bytes"),
    ],
    ids=["empty", "bytes", "deep", "nan", "long"],
)
def test_bytes_that_are_no_record_are_told_as_damage(tmp_path, data, message):
    (tmp_path / NAME).write_bytes(data)

    with pytest.raises(CheckpointError, match=message):
        read_model_record(tmp_path)


def test_a_folder_without_one_is_told_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no model.json.*Name the folder of a run"):
        read_model_record(tmp_path)


@pytest.mark.parametrize(
    "make", [os.symlink, os.link, lambda _, path: os.mkfifo(path)], ids=["soft", "hard", "fifo"]
)
def test_no_link_is_followed(tmp_path, make):
    write_model_record(tmp_path, described(images()))
    (tmp_path / "run").mkdir()
    make(tmp_path / NAME, tmp_path / "run" / NAME)

    with pytest.raises(CheckpointError, match=r"symbolic link|hard link|FIFO"):
        read_model_record(tmp_path / "run")
