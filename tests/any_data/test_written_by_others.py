"""Runs from Python on what the libraries of others have written."""

import pytest

import ringfence

from ..datasets.saving import FEATURES, REVIEWS, photos, pictures, save, shard

pytestmark = pytest.mark.room
OPTIM = {"optim": {"algorithm": "adamw", "lr": 1e-2}, "isolation": "trusted"}
COMMON = {"threads": 1, "plugins": [OPTIM], "progress": False}
MLP = {"name": "mlp", "hidden": [4]}


def test_a_run_of_rows_predicts_and_judges_a_saved_data_set(tmp_path):
    folder = save(tmp_path / "saved", REVIEWS, FEATURES)
    data = {"name": "table", "path": str(folder), "target": "label", "ignore": ["text"]}

    run = ringfence.train(model=MLP, data=data, epochs=2, out=tmp_path / "run", **COMMON)

    assert run.evaluate(folder)["data"]["samples"] == 24
    assert len(run.predict(folder)) == 24


def test_a_run_trains_on_the_images_of_a_saved_data_set(tmp_path):
    data = {"name": "folder", "path": str(save(tmp_path / "saved", *pictures()))}

    run = ringfence.train(model=MLP, data=data, epochs=1, out=tmp_path / "run", **COMMON)

    assert run.status == "completed"


def test_shards_train_to_the_same_weights_with_workers_and_resumed(tmp_path):
    for i in range(2):
        shard(tmp_path / f"train-{i}.tar", photos(12 * i, 12))
    shard(tmp_path / "test.tar", photos(30, 6))
    data = {"name": "webdataset", "path": str(tmp_path)}
    keys = {"model": MLP, "batch_size": 4, "validation_fraction": 0, **COMMON}

    whole = ringfence.train(data=data, steps=9, out=tmp_path / "a", **keys)
    ringfence.train(data={**data, "workers": 2}, steps=4, out=tmp_path / "b", **keys)
    resumed = ringfence.train(out=tmp_path / "b", resume=True, steps=9, progress=False)

    assert whole.weights_sha256 is not None
    assert resumed.weights_sha256 == whole.weights_sha256
    assert whole.evaluate()["test"]["samples"] == 6
