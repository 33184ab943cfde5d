"""Predictions of a model over samples, and the files that they are written to."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from torch import nn

from ringfence import DataError, JobError
from ringfence.inference.inputs.in_memory import ArraySource, BatchSource
from ringfence.inference.inputs.sample_form import SampleForm
from ringfence.inference.inputs.source import Chunk
from ringfence.inference.outputs import prediction_file
from ringfence.inference.outputs.predictions import OutputMeaning
from ringfence.inference.prediction_loop import Predictor, collect, write_predictions

FORM = SampleForm((4,), in_bytes=False)
NAMES = ("cat", "=1+1", "-dog", 'a,"b"')
CPU = torch.device("cpu")
KINDS = [".csv", ".jsonl", ".npz"]


class Flaky(nn.Module):
    """Outputs its inputs, and raises at a sample that begins with 9."""

    def forward(self, inputs):
        if (inputs[:, 0] == 9).any():
            raise KeyboardInterrupt
        return inputs


def predictor(model=None, meaning=None):
    meaning = meaning or OutputMeaning((4,), is_classes=True, class_names=NAMES)
    return Predictor(model or nn.Identity(), FORM, meaning, CPU)


def samples(count=10):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0))


def write(tmp_path, suffix, values=None, given=None, **options):
    values = samples() if values is None else values
    out = tmp_path / f"out{suffix}"
    source = ArraySource(values, FORM, "the data")
    return out, write_predictions(given or predictor(), source, out, batch_size=3, **options)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_predictions_are_those_of_the_plain_loop():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    model[2].running_mean.add_(1)
    values = samples()
    model.eval()
    with torch.no_grad():
        expected = torch.cat([model(batch) for batch in values.split(3)])
    model.train()

    found = collect(predictor(model), ArraySource(values, FORM, "x"), 3)

    assert torch.equal(found.outputs, expected)
    assert torch.equal(found.classes, expected.argmax(1))
    assert torch.equal(found.probabilities, expected.softmax(1))
    assert found.class_names == [NAMES[i] for i in expected.argmax(1)]
    assert model.training
    assert found.files is None
    assert repr(found) == "<Predictions of 4 classes for 10 samples>"
    assert not found.outputs.requires_grad


def test_csv_has_a_row_for_each_sample(tmp_path):
    out, written = write(tmp_path, ".csv")

    probability, best = samples().softmax(1).max(1)
    header, *rows = rows_of(out)
    assert header == ["index", "file", "class", "probability"]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        (str(i), "", f"{p:.6g}") for i, p in enumerate(probability.tolist())
    ]
    quoted = ("cat", "'=1+1", "'-dog", 'a,"b"')
    assert [row[2] for row in rows] == [quoted[i] for i in best]
    assert written.count == 10
    assert written.class_counts == dict(
        sorted(
            ((NAMES[i], n) for i, n in enumerate(best.bincount().tolist()) if n), key=lambda item: -item[1]
        )
    )
    assert os.listdir(tmp_path) == ["out.csv"]  # noqa: PTH208 - hidden ones too


def test_csv_has_the_probability_of_each_class_if_it_is_asked_for(tmp_path):
    out, _ = write(tmp_path, ".csv", probabilities=True)

    header, *rows = rows_of(out)
    assert header[4:] == [f"probability of {name}" for name in NAMES]
    found = torch.tensor([[float(cell) for cell in row[4:]] for row in rows])
    assert torch.allclose(found, samples().softmax(1), atol=1e-6)


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_a_strangers_is_a_formula(tmp_path, begin):
    """The control: a plain csv.writer leaves it one."""
    name = f"{begin}cmd|' /C calc'!A0"
    meaning = OutputMeaning((4,), is_classes=True, class_names=(name, "b", "c", "d"))

    class Named:
        count, notes = 1, ()

        def chunks(self, _):
            yield Chunk(torch.tensor([[9.0, 0, 0, 0]]), [0], [name])

    out = tmp_path / "out.csv"
    write_predictions(predictor(meaning=meaning), Named(), out, probabilities=True)

    header, row = rows_of(out)
    assert not [cell for cell in [*header, *row] if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert row[1] == row[2]
    assert row[1].endswith("cmd|' /C calc'!A0")
    with (tmp_path / "control.csv").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerow([name])
    assert rows_of(tmp_path / "control.csv")[0][0].startswith(begin)


def test_numbers_are_written_to_the_last_bit_and_not_as_text(tmp_path):
    meaning = OutputMeaning((4,), is_classes=False)
    given = predictor(meaning=meaning)
    values = samples() * -1e-7

    header, *rows = rows_of(write(tmp_path, ".csv", values, given)[0])
    assert header == ["index", "file", "value_0", "value_1", "value_2", "value_3"]
    assert torch.equal(torch.tensor([[float(c) for c in row[2:]] for row in rows]), values)

    lines = write(tmp_path, ".jsonl", values, given)[0].read_text().splitlines()
    assert torch.equal(torch.tensor([json.loads(line)["values"] for line in lines]), values)

    with np.load(write(tmp_path, ".npz", values, given)[0], allow_pickle=False) as file:
        assert sorted(file.files) == ["index", "outputs"]
        assert torch.equal(torch.from_numpy(file["outputs"]), values)


def test_one_number_is_called_value(tmp_path):
    given = predictor(nn.Linear(4, 1), OutputMeaning((1,), is_classes=False))

    assert rows_of(write(tmp_path, ".csv", given=given)[0])[0] == ["index", "file", "value"]


def test_json_lines_have_an_object_for_each_sample(tmp_path):
    out, _ = write(tmp_path, ".jsonl", probabilities=True)

    records = [json.loads(line) for line in out.read_text().splitlines()]
    probability, best = samples().softmax(1).max(1)
    assert [record["index"] for record in records] == list(range(10))
    assert [record["class"] for record in records] == [NAMES[i] for i in best]
    assert torch.equal(torch.tensor([record["probability"] for record in records]), probability)
    assert torch.equal(torch.tensor([r["probabilities"] for r in records]), samples().softmax(1))


def test_npz_has_all_arrays_and_the_names(tmp_path):
    class Named(BatchSource):
        def chunks(self, size):
            for chunk in super().chunks(size):
                yield Chunk(
                    chunk.inputs, [2 * i for i in chunk.indices], [f"{'é' * i}.png" for i in chunk.indices]
                )

    out = tmp_path / "out.npz"
    write_predictions(predictor(), Named([samples()], FORM), out, batch_size=3)

    with np.load(out, allow_pickle=False) as file:
        arrays = dict(file)
    assert sorted(arrays) == ["class", "class_names", "file", "index", "outputs", "probabilities"]
    assert arrays["index"].tolist() == list(range(0, 20, 2))
    assert arrays["file"].tolist() == [f"{'é' * i}.png" for i in range(10)]
    assert arrays["class_names"].tolist() == list(NAMES)
    assert torch.equal(torch.from_numpy(arrays["outputs"]), samples())
    assert torch.equal(torch.from_numpy(arrays["probabilities"]), samples().softmax(1))
    assert torch.equal(torch.from_numpy(arrays["class"]), samples().argmax(1))


def test_outputs_that_are_not_finite_have_no_class(tmp_path):
    class Broken(nn.Module):
        def forward(self, inputs):
            return torch.where(inputs[:, :1] > 0, inputs, torch.nan)

    rows = rows_of(write(tmp_path, ".csv", given=predictor(Broken()))[0])[1:]
    wrong = (samples()[:, 0] <= 0).tolist()
    assert [row[2:] == ["", "nan"] for row in rows] == wrong
    out, written = write(tmp_path, ".jsonl", given=predictor(Broken()))
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["class"], r["probability"]) == (None, None) for r in records] == wrong
    assert written.not_finite == sum(wrong)
    assert sum(written.class_counts.values()) == 10 - sum(wrong)


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("there", [False, True])
def test_an_end_in_the_middle_leaves_nothing_half(tmp_path, suffix, there):
    values = samples()
    values[7, 0] = 9
    if there:
        (tmp_path / f"out{suffix}").write_text("as before")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, suffix, values, predictor(Flaky()), overwrite=there)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", KINDS)
def test_a_file_that_is_there_is_replaced_only_if_that_is_asked_for(tmp_path, suffix):
    out, _ = write(tmp_path, suffix)
    first = out.read_bytes()

    with pytest.raises(JobError, match=r"is there already; .*--overwrite"):
        write(tmp_path, suffix, samples(5))
    assert out.read_bytes() == first

    write(tmp_path, suffix, samples(5), overwrite=True)
    assert out.read_bytes() != first


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_meanwhile_is_not_replaced(tmp_path, links, monkeypatch):
    out = tmp_path / "out.csv"
    if not links:
        monkeypatch.setattr(type(out), "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError(1, "no")))

    class Slow(nn.Module):
        def forward(self, inputs):
            out.write_text("somebody else's")
            return inputs

    with pytest.raises(JobError, match="is there already"):
        write(tmp_path, ".csv", given=predictor(Slow()))
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert out.read_text() == "somebody else's"
    out.unlink()
    write(tmp_path, ".csv")
    assert len(rows_of(out)) == 11


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.png", r"ends in '\.png'; predictions are written as \.csv, \.jsonl, \.npz"),
        ("missing/out.csv", "there is no folder"),
        ("folder.csv", "is a folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, name, message):
    (tmp_path / "folder.csv").mkdir()

    with pytest.raises(JobError, match=message):
        prediction_file.check_out(tmp_path / name, overwrite=False)


class Told(nn.Module):
    """Returns its outputs with something beside, as models of others do."""

    def __init__(self, key):
        super().__init__()
        self.key, self.last = key, nn.Linear(4, 4)

    def forward(self, inputs):
        return {self.key: self.last(inputs), "hidden": inputs}


def test_of_several_outputs_the_logits_are_the_prediction(tmp_path):
    model = Told("logits")

    write(tmp_path, ".csv", given=predictor(model))
    with pytest.raises(
        DataError, match=r"the model returned a dict of x .*; a builtin loss or metric takes one"
    ):
        write(tmp_path, ".jsonl", given=predictor(Told("x")))


@pytest.mark.parametrize(("model", "found"), [(nn.Linear(4, 3), r"shape \(3, 3\)")])
def test_a_model_that_returns_something_else_is_refused(tmp_path, model, found):
    with pytest.raises(DataError, match=rf"the model returned {found} for samples 0 to 2; .*\(3, 4\)"):
        write(tmp_path, ".csv", given=predictor(model))


def test_memory_stays_flat_whatever_the_number_of_samples(tmp_path):
    """What a source makes is gone once the next part is made."""
    import weakref

    alive = weakref.WeakSet()

    class Watched(nn.Module):
        def forward(self, inputs):
            alive.add(inputs)
            assert len(alive) <= 2
            return inputs

    batches = (torch.randn(100, 4) for _ in range(50))
    out = tmp_path / "out.npz"
    written = write_predictions(predictor(Watched()), BatchSource(batches, FORM), out)

    assert written.count == 5000


class Boxes(nn.Module):
    """Returns several tensors of each sample, as a detector does."""

    def forward(self, inputs):
        corners = inputs[:, :, None].expand(-1, -1, 2)
        return {"boxes": corners, "scores": inputs[:, 0], "size": (inputs.long(),)}


class Tokens(nn.Module):
    """Returns three classes at each position, last, of as many positions as the batch has."""

    def forward(self, inputs):
        taken = inputs.masked_fill(inputs == 99, float("nan"))
        return taken[:, : 2 + int(inputs[0, 0]), None] * torch.tensor([1.0, -1.0, 0.0])


ANY = OutputMeaning((), is_classes=False, is_any=True)
LANGUAGE = OutputMeaning((3, 4), is_classes=False, by_position=True, classes_last=True, varies=True)


def test_of_a_model_that_returns_several_tensors_all_are_returned_and_written(tmp_path):
    values = samples()
    predictions = collect(predictor(Boxes(), ANY), ArraySource(values, FORM, "the data"), 3)

    assert predictions.outputs["boxes"].shape == (10, 4, 2)
    assert torch.equal(predictions.outputs["scores"], values[:, 0])
    assert predictions.outputs["size"][0].dtype == torch.int64
    assert len(predictions) == 10
    assert not predictions.by_sample
    out, written = write(tmp_path, ".npz", values, predictor(Boxes(), ANY))
    with np.load(out) as arrays:
        assert arrays.files == ["index", "outputs.boxes", "outputs.scores", "outputs.size.0"]
        assert (arrays["outputs.scores"] == values[:, 0].numpy()).all()
    assert (written.count, written.not_finite) == (10, 0)
    out, _ = write(tmp_path, ".jsonl", values, predictor(Boxes(), ANY))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines[4]["values"]["scores"] == values[4, 0].item()
    assert lines[4]["values"]["size"] == [values[4].long().tolist()]


def test_where_sizes_differ_there_are_those_of_each_sample(tmp_path):
    values = samples().abs()
    values[:3, 0], values[3:, 0] = 0.0, 1.5
    values[9, 1] = 99
    predictions = collect(predictor(Tokens(), LANGUAGE), ArraySource(values, FORM, "the data"), 3)

    assert predictions.by_sample
    assert [tuple(each.shape) for each in predictions.outputs] == [(2, 3)] * 3 + [(3, 3)] * 7
    assert [each.tolist() for each in predictions.classes[3:5]] == [[0, 0, 0]] * 2
    assert predictions.classes[9].tolist() == [0, -1, 0]
    assert predictions.probabilities[3].sum(-1).allclose(torch.ones(3))
    assert predictions.finite.tolist() == [True] * 9 + [False]
    out, written = write(tmp_path, ".jsonl", values, predictor(Tokens(), LANGUAGE))
    assert len(json.loads(out.read_text().splitlines()[3])["values"]) == 3
    assert written.not_finite == 1
    with pytest.raises(DataError, match=r"'outputs' of one sample is of shape .* write \.jsonl"):
        write(tmp_path, ".npz", values, predictor(Tokens(), LANGUAGE))
    with pytest.raises(JobError, match=r"is written as \.jsonl"):
        write(tmp_path, ".csv", values, predictor(Tokens(), LANGUAGE))
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize(
    ("model", "meaning", "said"),
    [
        (lambda x: {"loss": x.mean()}, ANY, r"outputs\['loss'\] are of shape \(\) for samples 0 to 2"),
        (lambda x: x[:2], ANY, r"outputs are of shape \(2, 4\) for samples 0 to 2"),
        (lambda x: "none", ANY, "no tensor"),
        (lambda x: x[:, :3], LANGUAGE, r"returned shape \(3, 3\)"),
        (lambda x: x[:, :, None], LANGUAGE, r"returned shape \(3, 4, 1\)"),
    ],
)
def test_what_is_none_of_each_sample_is_refused(model, meaning, said):
    class Made(nn.Module):
        def forward(self, inputs):
            return model(inputs)

    with pytest.raises(DataError, match=said):
        collect(predictor(Made(), meaning), ArraySource(samples(), FORM, "the data"), 3)


def test_of_two_classes_of_one_probability_the_larger_output_is_the_class():
    outputs = torch.tensor([[0.0, 1e-9, -1.0, -1.0]])

    predictions = collect(predictor(), ArraySource(outputs, FORM, "the data"))

    assert predictions.probabilities[0, 0] == predictions.probabilities[0, 1]
    assert predictions.classes.tolist() == [1]
