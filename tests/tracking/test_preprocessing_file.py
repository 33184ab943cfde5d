"""``preprocessing.json``, which may be anybody's."""

import json
import os

import pytest

from ringfence import CheckpointError
from ringfence.engine.preprocessing import Preprocessing
from ringfence.tracking import preprocessing_file
from ringfence.tracking.preprocessing_file import NAME, read_preprocessing, write_preprocessing


def test_what_is_written_is_read(tmp_path):
    written = Preprocessing("table", {"numbers": [{"name": "a", "mean": 0.1, "std": 1e-30}], "more": None})

    write_preprocessing(tmp_path, written)

    assert read_preprocessing(tmp_path) == written


def test_a_run_without_one_is_no_fault(tmp_path):
    assert read_preprocessing(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"reader": 1, "state": {}}',
        '{"reader": "a", "state": {}, "x": 1}',
        "[" * 100_000,
        '{"schema": 2}',
    ],
)
def test_a_damaged_one_is_told(tmp_path, text):
    (tmp_path / NAME).write_text(text)

    with pytest.raises(CheckpointError, match=r"preprocessing\.json is damaged"):
        read_preprocessing(tmp_path)


@pytest.mark.parametrize("kind", ["link", "fifo", "hard link", "large"])
def test_it_leads_nowhere_and_ends(tmp_path, monkeypatch, kind):
    """The control: the file that it leads to is whole."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    write_preprocessing(elsewhere, Preprocessing("table"))
    assert read_preprocessing(elsewhere) is not None
    if kind == "link":
        (run / NAME).symlink_to(elsewhere / NAME)
    elif kind == "hard link":
        (run / NAME).hardlink_to(elsewhere / NAME)
    elif kind == "fifo":
        os.mkfifo(run / NAME)
    else:
        monkeypatch.setattr(preprocessing_file, "MAX_BYTES", 100)
        (run / NAME).write_text(json.dumps({"reader": "table", "state": {"a": "b" * 100}}))

    with pytest.raises(CheckpointError, match=r"preprocessing\.json cannot be read"):
        read_preprocessing(run)
