"""Metrics of a run's model: the run's own numbers, and those of other data of the kind."""

import json
import os
import random
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ringfence
from ringfence import CheckpointError, DataError, JobError
from ringfence.cli.app import app

from .conftest import CLASSES


def own_numbers(folder):
    """Return what the run says of itself: its last evaluation, and the one by test data."""
    record = json.loads((folder / "run.json").read_text())
    return {record["judged_by"]: record["final_metrics"], "test": record["test_metrics"]}


def without_samples(measured):
    return {part: {k: v for k, v in metrics.items() if k != "samples"} for part, metrics in measured.items()}


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, ringfence.RingfenceError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("name", ["photos_run", "numbers_run"])
def test_a_run_gives_its_own_numbers(runs, name):
    folder, _ = runs
    states = torch.get_rng_state(), random.getstate(), torch.get_num_threads()

    measured = ringfence.evaluate(folder / name, checkpoint="last")

    own = own_numbers(folder / name)
    assert own.keys() == {"validation", "test"}
    assert without_samples(measured) == own
    assert (torch.equal(torch.get_rng_state(), states[0]), random.getstate()) == (True, states[1])
    assert torch.get_num_threads() == states[2]


def test_the_best_checkpoint_is_measured_unless_another_is_named(runs):
    folder, _ = runs
    record = json.loads((folder / "photos_run" / "run.json").read_text())

    measured = ringfence.evaluate(folder / "photos_run")

    assert measured["validation"]["accuracy"] == pytest.approx(record["best_metric"])


def test_the_command_tells_the_same_as_a_table_and_as_json(runs):
    folder, _ = runs
    measured = ringfence.evaluate(folder / "photos_run")

    assert json.loads(invoke("evaluate", folder / "photos_run", "--json").stdout) == measured

    header, *lines = invoke("evaluate", folder / "photos_run").stdout.splitlines()
    assert header.split() == ["loss", "accuracy", "samples"]
    assert [line.split()[0] for line in lines] == list(measured)
    assert lines[-1].split()[1:] == [
        f"{measured['test']['loss']:.4f}",
        f"{measured['test']['accuracy']:.4f}",
        "9",
    ]


def test_a_folder_of_classes_is_measured_by_the_models_numbers_of_them(runs, tmp_path):
    """One class alone is number 0 to a reader; to the model it is what it was in training."""
    folder, _ = runs
    with pytest.warns(RuntimeWarning, match="9 of 9 photos were resized to 8x10 .* 9x11") as told:
        whole = ringfence.evaluate(folder / "photos_run", folder / "photos" / "test", checkpoint="last")
    assert len(told) == 1
    own = ringfence.evaluate(folder / "photos_run", checkpoint="last")["test"]
    assert whole == {"data": own}

    right = ringfence.predict(folder / "photos_run", folder / "photos" / "test", checkpoint="last")
    shutil.copytree(folder / "photos" / "test" / "dog", tmp_path / "dog")
    with pytest.warns(RuntimeWarning, match="3 of 3 photos were resized"):
        alone = ringfence.evaluate(folder / "photos_run", tmp_path, checkpoint="last")["data"]
    dogs = right.classes[-3:]
    assert alone["accuracy"] == pytest.approx((dogs == CLASSES.index("dog")).float().mean().item())
    assert alone["samples"] == 3
    assert (dogs == CLASSES.index("dog")).float().mean() != (dogs == 0).float().mean()


def test_a_photo_that_cannot_be_read_is_refused_or_left_out_with_its_target(runs, tmp_path):
    folder, prepared = runs
    run, photos = folder / "photos_run", tmp_path / "photos"
    shutil.copytree(folder / "photos" / "test", photos)
    (photos / "=2+2" / "1.png").write_bytes(b"no image")
    (photos / "notes.txt").write_text("no image by name")
    with pytest.raises(DataError, match=r"1\.png: .*--skip-unreadable"):
        invoke("evaluate", run, "--data", photos)

    done = invoke("evaluate", run, "--data", photos, "--skip-unreadable", "--json")
    test = prepared["photos_run"].setup.data.test
    kept = [i for i in range(9) if i != 1]
    own = ringfence.evaluate(run, (test.inputs[kept], test.targets[kept]))
    assert json.loads(done.stdout) == own
    assert own["data"]["samples"] == 8
    for told in (
        "8 of 9 photos were resized",
        "1 of 9 photos could not be read and is left out",
        "notes.txt",
    ):
        assert told in done.stderr
    with pytest.warns(RuntimeWarning) as told:
        assert ringfence.evaluate(run, photos, skip_unreadable=True) == own
    assert len(told) == 3


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_are_measured_from_a_file_and_from_memory(runs, tmp_path, suffix):
    folder, prepared = runs
    for name in ("photos_run", "numbers_run"):
        test = prepared[name].setup.data.test
        inputs, targets = test.inputs.numpy(), np.ascontiguousarray(test.targets)
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".npz":
            np.savez_compressed(path, inputs=inputs, targets=targets)
        else:
            from safetensors.numpy import save_file

            save_file({"inputs": inputs, "targets": targets}, path)
        own = ringfence.evaluate(folder / name)["test"]

        assert ringfence.evaluate(folder / name, path) == {"data": own}
        assert ringfence.evaluate(folder / name, (inputs, targets)) == {"data": own}
        assert json.loads(invoke("evaluate", folder / name, "--data", path, "--json").stdout) == {"data": own}


def test_a_reader_is_measured_part_by_part(runs, monkeypatch):
    folder, _ = runs
    monkeypatch.chdir(folder)
    own = ringfence.evaluate(folder / "photos_run")["test"]

    by_flag = invoke("evaluate", "photos_run", "--data", "folder:path=photos,size=[8,10]", "--json")
    measured = json.loads(by_flag.stdout)
    assert measured["test"] == own
    assert measured["train"]["samples"] == 18
    options = {"name": "folder", "path": "photos", "size": [8, 10]}
    assert ringfence.evaluate("photos_run", options) == measured

    by_function = ringfence.evaluate("numbers_run", "regression_net:numbers")
    assert by_function["test"] == ringfence.evaluate("numbers_run")["test"]


def test_data_that_have_changed_since_the_run_are_told(runs, tmp_path):
    folder, _ = runs
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    job = copied / "photos_run" / "job.yaml"
    job.write_text(job.read_text().replace(str(folder), str(copied)))
    shutil.rmtree(copied / "photos" / "test" / "cat")

    with pytest.warns(RuntimeWarning, match=r"no longer those of the run \(test\)"):
        ringfence.evaluate(copied / "photos_run", trust_code=True)


def test_what_a_folder_names_is_followed_only_if_that_is_permitted(runs, tmp_path, monkeypatch):
    """The control: they are this user's own runs, and are followed."""
    folder, prepared = runs
    assert ringfence.evaluate(folder / "photos_run")
    test = prepared["photos_run"].setup.data.test

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(JobError, match=r"path: photos: reads that(.|\n)*--data"):
        ringfence.evaluate(folder / "photos_run")
    with pytest.raises(JobError, match=r"data 'regression_net:numbers': imports it and runs it"):
        ringfence.evaluate(folder / "numbers_run")
    assert ringfence.evaluate(folder / "photos_run", (test.inputs, test.targets))["data"]["samples"] == 9
    assert ringfence.evaluate(folder / "photos_run", trust_code=True)["test"]["samples"] == 9


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("missing", DataError, "no such file or folder"),
        ("photos", DataError, "'test', 'train' is none of the model's classes"),
        ("photos_run.yaml", DataError, "is neither a folder of classes nor"),
        (
            "folder:path=photos",
            DataError,
            r"each sample is \(3, 9, 11\) of uint8; the model needs .*as in folder:path=DIR,size=\[8,10\]$",
        ),
        ("folder:path=photos,greyscale=true,size=[8,10]", DataError, "path=DIR,greyscale=false$"),
        ("folder:path=photos,size=[8,10],hue=3", DataError, "hue"),
        ("folder:path", JobError, "--data folder:path"),
        ("mnist10k:limit=9", DataError, "the model needs"),
        ("foldr:path=photos", JobError, "there is no reader 'foldr'; did you mean 'folder'"),
        ("regresion:numbers", DataError, "module 'regresion' could not be imported"),
        ("regression_net:numbers", DataError, "are no classes"),
        (3, JobError, "the data are a int"),
        ((torch.zeros(2, 3, 8, 10, dtype=torch.uint8), torch.tensor([0])), DataError, "2 inputs, but 1"),
        ((torch.zeros(1, 3, 8, 10, dtype=torch.uint8), torch.tensor([3])), DataError, "targets reach"),
        ((torch.zeros(1, 3, 8, 10, dtype=torch.uint8), torch.tensor([0.5])), DataError, "fractions"),
    ],
)
def test_data_that_do_not_fit_are_refused(runs, monkeypatch, data, error, message):
    folder, _ = runs
    monkeypatch.chdir(folder)

    with pytest.raises(error, match=message):
        ringfence.evaluate("photos_run", data)


def test_a_file_with_other_targets_than_inputs_is_refused(runs, tmp_path):
    folder, _ = runs
    np.savez(tmp_path / "a.npz", inputs=np.zeros((2, 3, 8, 10), np.uint8), targets=np.zeros(3, int))
    with pytest.raises(DataError, match=r"\['targets'\]: is of shape \(3,\); expected 2 rows"):
        ringfence.evaluate(folder / "photos_run", tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", inputs=np.zeros((2, 3, 8, 10), np.uint8))
    with pytest.raises(
        DataError, match="holds no array 'targets', but 'inputs'; name them as in arrays:path="
    ):
        ringfence.evaluate(folder / "photos_run", tmp_path / "a.npz")


def test_arrays_of_other_names_are_measured_as_the_message_says(runs, tmp_path):
    folder, prepared = runs
    test = prepared["photos_run"].setup.data.test
    np.savez(tmp_path / "a.npz", x=test.inputs.numpy(), y=np.ascontiguousarray(test.targets))
    with pytest.raises(DataError, match="no array 'inputs' and no 'targets', but 'x', 'y'") as caught:
        ringfence.evaluate(folder / "photos_run", tmp_path / "a.npz")
    reader = str(caught.value).rpartition(" ")[2].replace("inputs=NAME", "inputs=x").replace("NAME", "y")
    measured = ringfence.evaluate(folder / "photos_run", reader)
    assert sum(part["samples"] for part in measured.values()) == 9


def test_numbers_of_another_shape_are_refused(runs):
    folder, _ = runs

    with pytest.raises(DataError, match=r"each target is of shape \(1,\); the model predicts \(2,\)"):
        ringfence.evaluate(folder / "numbers_run", (torch.zeros(2, 6), torch.zeros(2)))


def test_a_run_of_objects_is_measured_with_objects(tmp_path):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    pairs = ((x[:30], x[:30, :2]), (x[30:], x[30:, :2]))
    ringfence.train(
        model=torch.nn.Linear(6, 2),
        data=pairs,
        loss="mse",
        steps=2,
        validation_fraction=0,
        plugins=[{"optim": {"algorithm": "sgd", "lr": 0.1}, "isolation": "trusted"}],
        out=tmp_path / "run",
        progress=False,
    )
    own, given = own_numbers(tmp_path / "run"), torch.nn.Linear(6, 2)

    with pytest.raises(JobError, match=r"the run's data were an object of a Python program"):
        ringfence.evaluate(tmp_path / "run", model=given)
    measured = ringfence.evaluate(tmp_path / "run", pairs[1], checkpoint="last", model=given)
    assert without_samples(measured) == {"data": own["test"]}
    predicted = ringfence.predict(tmp_path / "run", pairs[1][0], checkpoint="last", model=given).outputs
    assert torch.nn.functional.mse_loss(predicted, pairs[1][1]).item() == pytest.approx(own["test"]["mse"])


def test_a_folder_without_a_model_or_a_job_is_refused(runs, tmp_path):
    folder, _ = runs
    with pytest.raises(CheckpointError, match=r"holds no model\.json"):
        ringfence.evaluate(tmp_path)
    shutil.copy(folder / "photos_run" / "model.json", tmp_path)
    with pytest.raises(JobError, match=r"holds no job\.yaml"):
        ringfence.evaluate(tmp_path)
    with pytest.raises(JobError, match="batch_size is 0"):
        ringfence.evaluate(folder / "photos_run", batch_size=0)


@pytest.mark.parametrize(
    ("how", "kind"), [({"fast_dev_run": True}, "fast_dev_run"), ({"overfit": 4}, "overfit")]
)
def test_a_run_that_was_cut_down_is_measured_on_all_and_told_as_that(tmp_path, how, kind):
    """Nobody has changed its data: it has used a part of them."""
    optim = {"optim": {"algorithm": "sgd", "lr": 0.1}, "isolation": "trusted"}
    keys = {"model": "mlp", "data": {"name": "mnist10k", "limit": 64}, "steps": 1, "plugins": [optim]}
    ringfence.train(keys, out=tmp_path / "run", progress=False, **how)

    with pytest.warns(RuntimeWarning) as told:
        ringfence.evaluate(tmp_path / "run")

    assert [str(one.message) for one in told] == [
        f"the run was cut down ({kind}) and used a part of its data: these are numbers of all"
    ]


def test_a_job_that_asks_for_a_thousand_threads_is_given_some(runs, tmp_path, monkeypatch):
    folder, _ = runs
    shutil.copytree(folder / "photos_run", tmp_path / "run")
    job = tmp_path / "run" / "job.yaml"
    job.write_text(job.read_text().replace("threads: 1\n", "threads: 1000\n", 1))
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)

    ringfence.evaluate(tmp_path / "run")

    assert max(asked) == max(64, os.cpu_count())
