"""A run's folder that is made to attack whoever uses its model: refused by name, and nothing of it runs."""

import json
import shutil

import pytest
import torch

import ringfence
from ringfence import RingfenceError

#: What the folder brings along: it strikes as it is imported, and again as it is called.
EVIL = """\
import pathlib
pathlib.Path({struck!r}).touch()

def build(*arguments, **options):
    pathlib.Path({struck!r}).touch()
    raise SystemExit("struck")
"""
BOMB = (1 << 40).to_bytes(8, "little")


@pytest.fixture
def folder(runs, tmp_path, monkeypatch):
    """A copy of a run, as somebody would send it: nothing shows that this user has made it."""
    source, _ = runs
    shutil.copytree(source / "photos_run", tmp_path / "run")
    (tmp_path / "run" / "made-here.json").unlink()
    shutil.copytree(source / "photos", tmp_path / "run" / "photos")
    (tmp_path / "run" / "evil_of_a_folder.py").write_text(EVIL.format(struck=str(tmp_path / "struck")))
    edit_job(tmp_path / "run", str(source), str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def edit_model(folder, **changed):
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(record | changed))


def edit_job(folder, old, new):
    job = folder / "job.yaml"
    assert old in job.read_text()
    job.write_text(job.read_text().replace(old, new))


def model_of(name):
    return lambda folder: edit_model(folder, model={"name": name, "options": {}, "seed": 0})


def weights(data):
    def replace(folder):
        shutil.rmtree(folder / "checkpoints")
        for path in folder.glob("model*.safetensors"):
            path.write_bytes(data)

    return replace


#: What is done to the folder, and what the refusal names.
BY_THE_MODEL = {
    "model": (model_of("evil_of_a_folder:build"), "evil_of_a_folder:build"),
    "model of the system": (model_of("subprocess:run"), "subprocess:run"),
    "edit": (
        lambda folder: edit_model(folder, edits=[{"kind": "cut", "where": "0", "indices": [-(2**60)]}]),
        "'cut'",
    ),
    "shape": (
        lambda folder: edit_model(
            folder, input={"shape": [3, 2**20, 2**20], "dtype": "uint8", "layout": "CHW"}
        ),
        "a sample is too large",
    ),
    "large": (
        lambda folder: edit_model(
            folder, input={"shape": [3, 2**13, 2**13], "dtype": "uint8", "layout": "CHW"}
        ),
        "the model needs",
    ),
    "bomb": (weights(BOMB), "damaged|does not match"),
    "garbage": (weights(b"\x80\x04garbage"), "damaged|does not match"),
    "model.json": (lambda folder: (folder / "model.json").write_bytes(b"[" * 100_000), r"model\.json"),
}
BY_THE_JOB = {
    "data": (lambda folder: edit_job(folder, "name: folder", "name: evil_of_a_folder:build"), "evil_of"),
    "loss": (lambda folder: edit_job(folder, "cross_entropy", "evil_of_a_folder:build"), "evil_of"),
    "losses": (
        lambda folder: edit_job(
            folder, "name: cross_entropy", "{name: sum, terms: [mse, 'evil_of_a_folder:build']}"
        ),
        "evil_of",
    ),
    "metrics": (
        lambda folder: edit_job(folder, "metrics: []", "metrics: [f1, 'evil_of_a_folder:build']"),
        "evil_of",
    ),
    "metric": (lambda folder: edit_job(folder, "metric: accuracy", "metric: subprocess:run"), "subprocess"),
    "path": (lambda folder: edit_job(folder, "path: photos", "path: /etc"), "/etc"),
}


@pytest.mark.parametrize("attack", BY_THE_MODEL)
def test_no_prediction_is_made_with_a_model_that_attacks(folder, tmp_path, attack):
    strike, named = BY_THE_MODEL[attack]
    strike(folder)
    images = torch.zeros(2, 3, 8, 10, dtype=torch.uint8)

    with pytest.raises(RingfenceError, match=named):
        ringfence.predict(folder, images, tmp_path / "out.csv")
    with pytest.raises(RingfenceError, match=named):
        ringfence.evaluate(folder, (images, torch.zeros(2)))

    assert not (tmp_path / "struck").exists()
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("attack", BY_THE_JOB)
def test_nothing_is_measured_by_a_job_that_attacks(folder, tmp_path, attack):
    strike, named = BY_THE_JOB[attack]
    strike(folder)

    with pytest.raises(RingfenceError, match=named):
        ringfence.evaluate(folder)

    assert not (tmp_path / "struck").exists()


@pytest.mark.parametrize("attack", ["model", "data", "loss", "losses", "metrics"])
def test_what_is_trusted_strikes(folder, tmp_path, attack):
    """The control: the same folders act where their code is followed."""
    strike, _ = (BY_THE_MODEL | BY_THE_JOB)[attack]
    strike(folder)

    with pytest.raises((RingfenceError, SystemExit)):
        ringfence.evaluate(folder, trust_code=True)

    assert (tmp_path / "struck").exists()


def test_the_folder_as_it_was_is_used(folder):
    """The control: without an attack its model predicts, since it is builtin."""
    assert len(ringfence.predict(folder, torch.zeros(2, 3, 8, 10, dtype=torch.uint8))) == 2
    with pytest.warns(RuntimeWarning, match="9 of 9 photos were resized"):
        assert ringfence.evaluate(folder, "photos/test")["data"]["samples"] == 9
