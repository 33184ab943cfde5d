"""Runs from Python on what the libraries of others have written."""

import pytest

import ringfence

from ..datasets.saving import FEATURES, REVIEWS, pictures, save

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
