"""``test_predictions.npz`` of a folder that may come from anybody."""

from __future__ import annotations

import io
import os
from dataclasses import asdict, replace

import numpy as np
import pytest

from ringfence.tracking import predictions as predictions_module
from ringfence.tracking.numpy_archive import DamagedArchiveError
from ringfence.tracking.predictions import (
    TEST_PREDICTIONS,
    Predictions,
    evenly,
    read_predictions,
    write_predictions,
)
from ringfence.tracking.untrusted_folder import OddFileError, Tree

WHOLE = Predictions(
    part="test",
    samples=4,
    classes=2,
    class_names=("cat", "dog"),
    index=np.arange(4),
    target=np.array([0, 1, 1, 0], np.int32),
    predicted=np.array([0, 1, 0, 0], np.int32),
    predicted_probability=np.full(4, 0.75, np.float32),
    target_probability=np.full(4, 0.5, np.float32),
    loss=np.full(4, 0.1, np.float32),
    pairs=np.array([[0, 0, 2], [1, 0, 1], [1, 1, 1]]),
    per_class=np.array([[2, 3, 2], [2, 1, 1]]),
    calibration=np.zeros((15, 3)),
    mistakes=np.array([2]),
    confident=np.array([True]),
)
NUMBERS = replace(
    WHOLE,
    classes=0,
    class_names=(),
    target=np.ones((4, 2)),
    predicted=np.ones((4, 2)),
    predicted_probability=np.empty(0, np.float32),
    target_probability=np.empty(0, np.float32),
    pairs=np.empty((0, 3), int),
    per_class=np.empty((0, 3), int),
    calibration=np.empty((0, 3)),
)


@pytest.mark.parametrize("predictions", [WHOLE, NUMBERS])
def test_what_is_written_is_read_back(tmp_path, predictions):
    write_predictions(Tree(tmp_path), predictions)

    found = asdict(read_predictions(Tree(tmp_path)))
    for name, value in asdict(predictions).items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(
    "odd",
    [
        {"samples": 3},
        {"samples": -1},
        {"samples": 2**62},
        {"classes": 3},
        {"classes": -1},
        {"classes": 0},
        {"class_names": ("cat",)},
        {"index": np.array([-1, 0, 1, 2])},
        {"index": np.empty(0, int)},
        {"target": np.array([0, 1, 2, 0])},
        {"target": np.array([0, 1, -1, 0])},
        {"target": np.zeros(4)},
        {"predicted": np.array([0, 1])},
        {"predicted": np.array(["a", "b", "c", "d"])},
        {"predicted_probability": np.full(3, 0.5)},
        {"target_probability": np.full(4, 1)},
        {"loss": np.zeros((4, 1))},
        {"pairs": np.array([[0, 2, 1]])},
        {"pairs": np.array([[0, 1, -1]])},
        {"pairs": np.array([[0, 1]])},
        {"per_class": np.array([[2, 3, 2]])},
        {"per_class": np.array([[2, 3, 2], [2, 2**60, 0]])},
        {"calibration": np.zeros((14, 3))},
        {"calibration": np.full((15, 3), np.nan)},
        {"calibration": np.full((15, 3), np.inf)},
        {"mistakes": np.arange(100), "confident": np.ones(100, bool)},
        {"mistakes": np.array([0.5])},
        {"confident": np.array([1])},
    ],
    ids="-".join,
)
def test_what_no_run_writes_is_refused(tmp_path, odd):
    write_predictions(Tree(tmp_path), replace(WHOLE, **odd))

    with pytest.raises(DamagedArchiveError, match="not as a run writes it"):
        read_predictions(Tree(tmp_path))


def test_names_that_are_no_text_or_too_many_are_refused_before_a_text_is_made_of_each(tmp_path, monkeypatch):
    """68 KB of packed zeros would become 66 million texts."""
    monkeypatch.setattr(predictions_module, "MAX_NAMED", 3)
    whole = {name: getattr(WHOLE, name) for name in predictions_module._ARRAYS}
    numbers = {"schema": np.int64(1), "samples": np.int64(WHOLE.samples), "classes": np.int64(WHOLE.classes)}
    for names in (np.zeros(2, bool), np.array(["a"] * 4), np.array([["a", "b"]])):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, part=np.array("test"), class_names=names, **numbers, **whole)
        (tmp_path / "test_predictions.npz").write_bytes(buffer.getvalue())

        with pytest.raises(DamagedArchiveError, match="class_names"):
            read_predictions(Tree(tmp_path))


def test_no_link_is_followed_and_nothing_long_is_read(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_predictions(Tree(tmp_path / "elsewhere"), WHOLE)
    (tmp_path / TEST_PREDICTIONS).symlink_to(tmp_path / "elsewhere" / TEST_PREDICTIONS)
    with pytest.raises(OddFileError, match="symbolic link"):
        read_predictions(Tree(tmp_path))

    (tmp_path / TEST_PREDICTIONS).unlink()
    with (tmp_path / TEST_PREDICTIONS).open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(OddFileError, match="more than"):
        read_predictions(Tree(tmp_path))


def test_places_are_spread_evenly():
    assert evenly(5, 9).tolist() == [0, 1, 2, 3, 4]
    places = evenly(1_000_003, 1000)
    assert (len(places), places[0], len(np.unique(places))) == (1000, 0, 1000)
    assert set(np.diff(places)) <= {1000, 1001}
