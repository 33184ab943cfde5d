"""Runs of texts, tables and masks: a job file each, then evaluated, predicted and loaded by their folders."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import ringfence
from ringfence import DataError
from ringfence.hooks.trees import map_tensors

from .conftest import train

JOBS = {
    "words": (
        "{name: lstm, hidden_size: 8, embedding_dim: 8}",
        "{name: text, path: reviews.csv}",
        "cross_entropy",
    ),
    "next": (
        "{name: transformer, causal: true, d_model: 8, dim_feedforward: 8, num_layers: 1}",
        "{name: text, path: reviews.csv, task: next_token}",
        "cross_entropy",
    ),
    "rent": ("{name: mlp, hidden: [8]}", "{name: table, path: flats.jsonl, target: rent}", "mse"),
    "cells": (
        "{name: unet, width: 2, depth: 1}",
        "{name: segmentation, path: slides, classes: [a, b]}",
        "cross_entropy",
    ),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with data of each kind, and a run of each."""
    folder = tmp_path_factory.mktemp("rows")
    words = ("good film", "bad film indeed", "a good plot", "bad plot")
    with (folder / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("text", "label"), *((words[i % 4], "neg" if i % 2 else "pos") for i in range(24))]
        )
    flats = [{"area": 20.0 + i, "city": ("Rome", "Oslo")[i % 2], "rent": 1.5 * i} for i in range(24)]
    (folder / "flats.jsonl").write_text("".join(f"{json.dumps(flat)}\n" for flat in flats))
    for kind in ("images", "masks"):
        (folder / "slides" / kind).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.default_rng(i).integers(0, 2, (6, 5), np.uint8)
            Image.fromarray(pixels * (200 if kind == "images" else 1)).save(
                folder / "slides" / kind / f"{i}.png"
            )
    threads = torch.get_num_threads()
    prepared = {
        name: train(folder, name, model=model, data=data, loss=loss)
        for name, (model, data, loss) in JOBS.items()
    }
    torch.set_num_threads(threads)
    return folder, prepared


def record(folder, name):
    return json.loads((folder / name / "run.json").read_text())


@pytest.mark.parametrize("name", JOBS)
def test_a_run_is_evaluated_to_its_own_numbers(rows, name):
    folder, _ = rows

    found = ringfence.evaluate(folder / name, checkpoint="last")

    told = record(folder, name)
    assert found["validation"]["loss"] == told["final_metrics"]["loss"]
    assert found["test"]["loss"] == told["test_metrics"]["loss"]


@pytest.mark.parametrize("name", JOBS)
def test_a_loaded_model_gives_the_outputs_of_a_prediction(rows, name):
    folder, prepared = rows
    data = prepared[name].setup.data
    files = {"words": "reviews.csv", "next": "reviews.csv", "rent": "flats.jsonl", "cells": "slides/images"}

    model = ringfence.load(folder / name)
    predictions = ringfence.predict(folder / name, folder / files[name])

    inputs = map_tensors(
        lambda tensor: tensor[data.train.rows] if data.train.rows is not None else tensor, data.train.inputs
    )
    with torch.no_grad():
        outputs = model(inputs)
    found = {tuple(row) for row in predictions.outputs.flatten(1).tolist()}
    assert all(
        any(np.allclose(row, other, atol=1e-6) for other in found) for row in outputs.flatten(1).tolist()
    )


def test_rows_are_predicted_by_what_the_run_has_learned(rows, tmp_path):
    folder, _ = rows
    (tmp_path / "new.tsv").write_text("text\tmore\na good film\tx\nfilm indeed unheard\ty\n")

    predictions = ringfence.predict(folder / "words", tmp_path / "new.tsv")
    written = ringfence.predict(folder / "words", tmp_path / "new.tsv", tmp_path / "out.csv")

    assert predictions.outputs.shape == (2, 2)
    assert set(predictions.class_names) <= {"neg", "pos"}
    assert "tokens in the vocabulary" in written.notes[0]
    (tmp_path / "flats.csv").write_text("city,area\nOslo,30\nRome,\n")
    rents = ringfence.predict(folder / "rent", tmp_path / "flats.csv")
    assert rents.outputs.shape == (2, 1)
    assert any("1 cell missing" in note for note in rents.notes)


def test_new_rows_are_evaluated_with_the_codes_of_the_run(rows, tmp_path):
    folder, _ = rows
    lines = (folder / "flats.jsonl").read_text().splitlines(keepends=True)
    # Oslo alone would be the first of its categories.
    (tmp_path / "oslo.jsonl").write_text("".join(line for line in lines if "Oslo" in line) * 2)

    by_path = ringfence.evaluate(folder / "rent", tmp_path / "oslo.jsonl")
    by_reader = ringfence.evaluate(
        folder / "rent",
        {"name": "table", "path": str(tmp_path / "oslo.jsonl"), "target": "rent", "test_fraction": 0.5},
    )

    assert by_path["data"]["samples"] == 24
    mean = sum(part["loss"] * part["samples"] for part in by_reader.values())
    assert mean / 24 == pytest.approx(by_path["data"]["loss"], rel=1e-6)


def test_classes_of_pixels_are_written_beside_outputs(rows, tmp_path):
    folder, _ = rows

    predictions = ringfence.predict(folder / "cells", folder / "slides" / "images", tmp_path / "out.npz")

    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["outputs"].shape == (10, 2, 6, 5)
        assert (arrays["class"] == arrays["outputs"].argmax(1)).all()
        assert arrays["class_names"].tolist() == ["a", "b"]
    assert predictions.count == 10


def test_inputs_beside_each_other_are_given_by_name_or_in_batches(rows):
    folder, prepared = rows
    inputs = prepared["words"].setup.data.test.inputs
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}

    whole = ringfence.predict(folder / "words", arrays)
    batches = ringfence.predict(
        folder / "words", [(inputs, "targets"), {k: v[:2] for k, v in inputs.items()}]
    )

    torch.testing.assert_close(torch.cat([whole.outputs, whole.outputs[:2]]), batches.outputs)
    targets = prepared["words"].setup.data.test.targets
    measured = ringfence.evaluate(folder / "words", (arrays, targets), checkpoint="last")
    assert measured["data"]["loss"] == pytest.approx(
        record(folder, "words")["test_metrics"]["loss"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda a: a["input_ids"],
            "is one array, and the model takes 'input_ids' .* of int64 and 'attention_mask'",
        ),
        (lambda a: {"input_ids": a["input_ids"]}, "with other keys: missing .*attention_mask"),
        (
            lambda a: {**a, "input_ids": a["input_ids"] + 0.5},
            "sample 0, counted from 0, holds .*no number of int64",
        ),
        (lambda a: {**a, "input_ids": a["input_ids"][:, :, None]}, "each sample is of shape"),
        (lambda a: {**a, "input_ids": a["input_ids"][:1]}, "hold 1, 5 samples; give as many of each"),
    ],
)
def test_inputs_that_do_not_fit_a_tree_are_told(rows, change, said):
    folder, prepared = rows
    arrays = {name: tensor.numpy() for name, tensor in prepared["words"].setup.data.test.inputs.items()}

    with pytest.raises(DataError, match=said):
        ringfence.predict(folder / "words", change(arrays))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("words\ngood\n", "has no column 'text'"),
        ("", "holds no rows"),
    ],
)
def test_a_file_that_does_not_fit_is_told_before_the_model_is_loaded(rows, tmp_path, text, said):
    folder, _ = rows
    (tmp_path / "new.csv").write_text(text)

    with pytest.raises(DataError, match=said):
        ringfence.predict(folder / "words", tmp_path / "new.csv")
