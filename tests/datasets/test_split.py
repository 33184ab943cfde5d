"""What is held out for validation: how much, of which samples, and what is told of it."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from ringfence.datasets.dataset_registry import load_data
from ringfence.datasets.preparation import channel_statistics
from ringfence.datasets.split import HoldOut, hold_out
from ringfence.engine.data import Data, Dataset
from ringfence.hooks.errors import DataError

DEFAULT = HoldOut(None)
ADVICE = "; to hold out none, and be judged by the test data as before 0.4, write validation_fraction: 0"


def dataset(targets, num_classes=None, **more) -> Dataset:
    targets = torch.as_tensor(targets)
    return Dataset(torch.arange(len(targets), dtype=torch.float32)[:, None], targets, num_classes, **more)


def file_of(folder, n=40, **parts):
    """Write arrays of two classes, the grey of a sample being its number."""
    arrays = {"inputs": np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1), "targets": np.arange(n) % 2}
    for part, count in {"test": 6, **parts}.items():
        arrays |= {f"{part}_inputs": np.full((count, 1, 1, 1), 99, np.uint8)}
        arrays |= {f"{part}_targets": np.arange(count) % 2}
    np.savez(folder / "d.npz", **arrays)


def load(folder, asked=DEFAULT, name="arrays", **options) -> Data:
    if name == "arrays":
        options["path"] = "d.npz"
    return load_data(name, options, base=folder, asked=asked)


def test_a_tenth_of_each_class_is_held_out_in_the_order_and_the_memory_of_all():
    train = dataset([0] * 50 + [1] * 30 + [2] * 2, 3)
    held = hold_out(train, None, DEFAULT)
    assert held.validation.samples_targets().bincount(minlength=3).tolist() == [5, 3, 0]
    rows = torch.cat([held.train.rows, held.validation.rows])
    assert sorted(rows.tolist()) == list(range(82))
    assert all(part.rows.equal(part.rows.sort().values) for part in (held.train, held.validation))
    assert held.train.inputs is held.validation.inputs is train.inputs
    assert held.told == (f"8 of 82 training samples are held out for validation{ADVICE}",)
    assert held.fraction == 0.1


def test_the_same_samples_are_held_out_each_time_and_others_of_another_share():
    train = dataset([0, 1] * 50, 2)
    first, again, more = (hold_out(train, None, HoldOut(share)) for share in (0.1, 0.1, 0.2))
    assert torch.equal(first.validation.rows, again.validation.rows)
    assert len(more.validation) == 20
    assert first.told == ("10 of 100 training samples are held out for validation",)


@pytest.mark.parametrize(
    "train",
    [
        dataset(torch.randn(20, 2, 3)),
        dataset(torch.eye(2).repeat(10, 1), 2),
        dataset([0, 1] * 10, 2, rows=torch.arange(19, -1, -1)),
    ],
    ids=["numbers", "probabilities", "rows"],
)
def test_targets_of_any_kind_can_be_held_out_from(train):
    held = hold_out(train, None, HoldOut(0.2))
    assert (len(held.train), len(held.validation)) == (16, 4)
    assert not set(held.train.rows.tolist()) & set(held.validation.rows.tolist())
    if train.num_classes is not None:
        classes = held.validation.samples_targets()
        assert (classes.argmax(1) if classes.dim() > 1 else classes).bincount().tolist() == [2, 2]


def test_data_with_validation_samples_keep_them():
    train, own = dataset([0, 1] * 10, 2), dataset([0, 1], 2)
    assert hold_out(train, own, DEFAULT).told == ()
    held = hold_out(train, own, HoldOut(0.2))
    assert (held.train, held.validation, held.fraction) == (train, own, 0.0)
    assert held.told == ("validation_fraction 0.2 is not used: the data bring validation samples",)
    # A run that began without them goes on without them.
    held = hold_out(train, own, HoldOut(0.0, own_part=False, why="as it began"))
    assert (held.train, held.validation, held.told) == (train, None, ("as it began",))


@pytest.mark.parametrize("targets", [[0], [0, 1], [0, 1, 2]])
def test_of_too_few_samples_none_is_held_out_unless_it_is_asked_for(targets):
    train = dataset(targets, 3)
    held = hold_out(train, None, DEFAULT)
    assert (held.train, held.validation, held.fraction) == (train, None, 0.0)
    (told,) = held.told
    assert told.endswith("training samples are too few to hold any out: the test data judge")
    with pytest.raises(DataError, match=r"cannot be split with validation_fraction 0\.1; .*write .*: 0$"):
        hold_out(train, None, HoldOut(0.1))


def test_normalisation_is_of_the_samples_that_are_trained_on(tmp_path):
    file_of(tmp_path)
    data = load(tmp_path)
    kept = data.train.inputs[data.train.rows]
    assert (data.mean, data.std) == channel_statistics(kept)
    assert data.mean != channel_statistics(data.train.inputs)[0]


def test_the_limit_comes_before_what_is_held_out_and_counts_for_each_part(tmp_path):
    file_of(tmp_path)
    data = load(tmp_path, limit=20)
    assert [len(part) for part in data.parts().values()] == [18, 2, 6]
    file_of(tmp_path, validation=30)
    data = load(tmp_path, limit=20)
    assert [len(part) for part in data.parts().values()] == [20, 20, 6]


def test_a_part_without_a_class_is_told_by_its_name(tmp_path):
    file_of(tmp_path, n=4, validation=1)
    assert load(tmp_path).notes == ("2 classes", "no validation samples of 1 of 2 classes: 1")


def test_arrays_bring_validation_samples_under_keys_of_their_own(tmp_path):
    file_of(tmp_path, validation=4, other=3)
    data = load(tmp_path)
    assert (data.judged_by, len(data.validation), data.held_out) == ("validation", 4, 0.0)
    data = load(tmp_path, validation_inputs="other_inputs", validation_targets="other_targets")
    assert len(data.validation) == 3
    with pytest.raises(DataError, match="option 'validation_inputs' is 'x', which the file does not hold"):
        load(tmp_path, validation_inputs="x")


def test_what_is_left_of_a_split_file_is_held_out_from(tmp_path):
    np.savez(tmp_path / "d.npz", inputs=np.arange(100.0)[:, None], targets=np.arange(100) % 2)
    data = load(tmp_path)
    assert [len(part) for part in data.parts().values()] == [72, 8, 20]
    seen = [part.inputs[part.rows_at(torch.arange(len(part)))] for part in data.parts().values()]
    assert sorted(torch.cat(seen).flatten().tolist()) == list(range(100))
    # The test samples are those of a run that holds none out, and so are all the others.
    whole = load(tmp_path, HoldOut(0.0))
    assert torch.equal(whole.test.inputs, data.test.inputs)
    assert torch.equal(whole.train.inputs, data.train.inputs)


SOURCE = """
import numpy as np, torch
from ringfence.engine.data import Data, Dataset

def part(n, value):
    return np.full((n, 3), value, np.float32), np.arange(n) % 2

def two():
    return part(20, 1), part(4, 2)

def three():
    return part(20, 1), part(6, 3), part(4, 2)

def whole(validation=False):
    make = lambda n: Dataset(torch.ones(n, 3), torch.arange(n) % 2, 2)
    more = {"validation": make(6)} if validation else {}
    return Data(make(20), None if validation else make(4), (0.5,) * 3, (2.0,) * 3, ("own note",), **more)
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_split_module.py").write_text(SOURCE)
    yield tmp_path
    sys.modules.pop("own_split_module", None)


@pytest.mark.parametrize(
    ("function", "options", "sizes"),
    [
        ("two", {}, {"train": 18, "validation": 2, "test": 4}),
        ("three", {}, {"train": 20, "validation": 6, "test": 4}),
        ("whole", {}, {"train": 18, "validation": 2, "test": 4}),
        ("whole", {"validation": True}, {"train": 20, "validation": 6}),
    ],
)
def test_a_function_of_the_users_may_bring_them_or_is_held_out_from(user, function, options, sizes):
    data = load(user, name=f"own_split_module:{function}", **options)
    assert {name: len(part) for name, part in data.parts().items()} == sizes
    if function == "three":
        assert (data.validation.inputs.unique().item(), data.test.inputs.unique().item()) == (3, 2)
    if function == "whole":
        assert (data.mean, data.std, data.notes[0]) == ((0.5,) * 3, (2.0,) * 3, "own note")


def test_nothing_is_held_out_where_it_is_not_wanted(tmp_path):
    file_of(tmp_path)
    assert load(tmp_path, HoldOut(0.0)).parts().keys() == {"train", "test"}
    assert load(tmp_path, replace(DEFAULT, fraction=0.0)).notes == ("2 classes",)
