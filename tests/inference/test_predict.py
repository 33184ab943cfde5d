"""Predictions with the model of a run: in Python and by the command."""

import csv
import os
import signal

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import ringfence
from ringfence import CheckpointError, DataError, JobError
from ringfence.cli.app import app
from ringfence.engine.data import Normalise
from ringfence.engine.evaluate import evaluating
from ringfence.inference.load import LoadedModel

#: One as a spreadsheet would count.
CLASSES = ("=2+2", "cat", "dog")


def of_trainer(prepared):
    """Return what the trainer's evaluation gives for the test data."""
    network, data = prepared.setup.model, prepared.setup.data
    batch = data.test.batch(torch.arange(len(data.test)))
    with evaluating(network), torch.no_grad():
        return network(Normalise(data, torch.device("cpu"))(batch.inputs))


def invoke(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, ringfence.RingfenceError):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def test_a_folder_of_photos_is_predicted_as_the_trainer_would_with_its_class_names(runs, tmp_path):
    folder, prepared = runs
    outputs = of_trainer(prepared["photos_run"])

    photos = folder / "photos" / "test"
    found = ringfence.predict(folder / "photos_run", photos, checkpoint="last", device="cpu")

    assert torch.equal(found.outputs, outputs)
    assert found.class_names == [CLASSES[i] for i in outputs.argmax(1)]
    assert found.files == [f"{name}/{i}.png" for name in CLASSES for i in range(3)]
    assert found.notes[-1].startswith("9 of 9 photos were resized to 8x10 (height x width)")

    out = tmp_path / "out.csv"
    flags = ("--checkpoint", "last", "--device", "cpu")
    told = invoke("predict", folder / "photos_run", photos, "--out", out, *flags)
    with out.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[2].removeprefix("'") for row in rows] == found.class_names
    assert [row[1].removeprefix("'") for row in rows] == found.files
    assert not [row for row in rows if row[1].startswith("=") or row[2].startswith("=")]
    probability = found.probabilities.amax(1).tolist()
    assert [row[3] for row in rows] == [f"{p:.6g}" for p in probability]
    counts = sorted({name: found.class_names.count(name) for name in found.class_names}.items())
    first, second = told.stdout.splitlines()
    assert first == f"9 predictions in {out}"
    assert sorted(second.split(", ")) == [f"{name}: {count}" for name, count in counts]
    assert "photos are read as 8x10" in told.stderr
    assert "were resized" in told.stderr


def test_a_regression_gives_its_numbers(runs, tmp_path):
    folder, prepared = runs
    data = prepared["numbers_run"].setup.data.test.inputs
    outputs = of_trainer(prepared["numbers_run"])

    assert torch.equal(
        ringfence.predict(folder / "numbers_run", data, checkpoint="last", device="cpu").outputs, outputs
    )
    written = ringfence.predict(folder / "numbers_run", data, tmp_path / "out.csv", checkpoint="last")
    with written.path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["index", "file", "value_0", "value_1"]
    assert torch.equal(torch.tensor([[float(cell) for cell in row[2:]] for row in rows]), outputs)


def test_data_that_do_not_fit_are_told_before_weights_are_read(runs, tmp_path, monkeypatch):
    folder, _ = runs
    monkeypatch.setattr("ringfence.inference.predict.load_model", None)

    with pytest.raises(DataError, match=r"each sample is of shape \(5,\); the model needs \(6\)"):
        ringfence.predict(folder / "numbers_run", torch.zeros(2, 5))
    (tmp_path / "out.csv").touch()
    with pytest.raises(JobError, match="is there already"):
        ringfence.predict(folder / "numbers_run", torch.zeros(2, 6), tmp_path / "out.csv")


def test_code_that_the_folder_names_is_run_only_if_that_is_permitted(runs, tmp_path, monkeypatch):
    """The control: the run is this user's own, and is followed."""
    folder, _ = runs
    data = torch.zeros(2, 6)
    assert len(ringfence.predict(folder / "numbers_run", data, device="cpu")) == 2

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    out = tmp_path / "out.csv"
    (tmp_path / "data.csv").write_text("0,0,0,0,0,0\n")
    with pytest.raises(JobError, match=r"its model is 'regression_net:Net', code to be imported and run"):
        ringfence.predict(folder / "numbers_run", data)
    with pytest.raises(JobError, match=r"its model is 'regression_net:Net', code to be imported and run"):
        invoke("predict", folder / "numbers_run", tmp_path / "data.csv", "--out", out)
    assert not out.exists()

    assert len(ringfence.predict(folder / "numbers_run", data, code="regression_net:Net", device="cpu")) == 2
    invoke(
        *("predict", folder / "numbers_run", tmp_path / "data.csv", "--out", out, "--device", "cpu"),
        *("--code", "regression_net:Net", "--checkpoint", "4"),
    )
    assert out.read_text().count("\n") == 2


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no model\.json"):
        ringfence.predict(tmp_path, torch.zeros(2, 6))


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--checkpoint", "first", "expected best, last or a number of steps"),
        ("--checkpoint", "77", "there is no checkpoint of step 77"),
        ("--weights", "mine", "expected model, ema or swa"),
        ("--batch-size", "0", "batch_size is 0; it is a whole number of at least 1"),
        ("--device", "tpu", "device is 'tpu'"),
        ("--key", "x", "key 'x' is given"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(runs, tmp_path, flag, value, message):
    folder, _ = runs

    with pytest.raises(ringfence.RingfenceError, match=message):
        invoke("predict", folder / "photos_run", folder / "photos", "--out", tmp_path / "o.csv", flag, value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half(runs, tmp_path, number, monkeypatch):
    folder, _ = runs
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def forward(self, inputs):
        assert len(os.listdir(tmp_path)) == 1  # noqa: PTH208 - there is something to leave
        os.kill(os.getpid(), number)
        return nn.Identity()(inputs)

    monkeypatch.setattr(LoadedModel, "forward", forward)

    invoke("predict", folder / "photos_run", folder / "photos", "--out", tmp_path / "out.csv", status=130)

    assert list(tmp_path.iterdir()) == []
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
