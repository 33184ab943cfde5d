"""What a network takes for a sample is known before anything is taken."""

import json
import shutil

import pytest
import torch

import ringfence
from ringfence import DataError
from ringfence.inference import evaluate_run, forward_size
from ringfence.inference.forward_size import forward_bytes
from ringfence.tracking.model_record import read_model_record
from ringfence.tracking.own_runs import permitted

MNIST = {"name": "mnist10k", "limit": 64}
OPTIM = {"optim": {"algorithm": "sgd", "lr": 0.1}, "isolation": "trusted"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a small convolutional network."""
    folder = tmp_path_factory.mktemp("sizes") / "run"
    model = {"name": "cnn", "width": 4}
    ringfence.train(model=model, data=MNIST, steps=1, plugins=[OPTIM], threads=1, out=folder, progress=False)
    return folder


def size(folder):
    return forward_bytes(permitted(folder), read_model_record(folder))


def test_the_largest_layer_is_found(run):
    """The first convolution takes one channel of 28 x 28 numbers and gives 4, both again in blocks of 16."""
    channel, weights = 28 * 28 * 4, 4 * 9 * 4

    assert size(run) - (1 + 4 + 16 + 16) * channel in range(weights, weights + 4 * 4 + 1)


def test_attention_is_sized_as_it_is_computed_without_all_pairs(tmp_path):
    """Of 14 x 14 patches and 8 heads the pairs would be 1.2 MB; no layer takes a quarter of that."""
    vit = {"name": "vit", "patch": 2, "dim": 8, "depth": 1, "heads": 8}
    ringfence.train(
        model=vit, data=MNIST, steps=1, plugins=[OPTIM], threads=1, out=tmp_path / "run", progress=False
    )

    assert size(tmp_path / "run") < 197 * 197 * 8 * 4 / 4


def test_a_network_of_ones_own_is_not_asked(runs):
    folder, _ = runs

    assert size(folder / "numbers_run") == 0


def test_what_does_not_fit_this_machine_is_refused_before_it_is_tried(run, monkeypatch):
    images, largest = torch.zeros(2, 1, 28, 28, dtype=torch.uint8), size(run)
    assert len(ringfence.predict(run, images)) == 2

    monkeypatch.setattr(forward_size, "machine_bytes", lambda: 2 * largest - 2)
    for use in (
        lambda: ringfence.predict(run, images),
        lambda: ringfence.evaluate(run, (images, torch.zeros(2, dtype=torch.int64))),
    ):
        with pytest.raises(DataError, match=r"1 x 28 x 28 numbers takes .* in one layer of model 'cnn'"):
            use()


def test_sides_that_no_layer_can_have_are_told_as_such(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "model.json").read_text())
    record["input"]["shape"] = [1, 2**24, 16]
    (tmp_path / "run" / "model.json").write_text(json.dumps(record))

    with pytest.raises(ringfence.RingfenceError):
        ringfence.predict(tmp_path / "run", torch.zeros(1, 1, 28, 28, dtype=torch.uint8))


def test_a_job_that_asks_for_larger_batches_than_fit_is_measured_in_smaller_ones(run, monkeypatch):
    whole = ringfence.evaluate(run)["test"]

    monkeypatch.setattr(evaluate_run, "machine_bytes", lambda: 4 * 3 * size(run))
    with pytest.warns(
        RuntimeWarning, match="a batch of 512 is more than this machine holds .* has 3 samples"
    ):
        found = ringfence.evaluate(run)["test"]

    assert found["accuracy"] == whole["accuracy"]
    assert found["loss"] == pytest.approx(whole["loss"])
