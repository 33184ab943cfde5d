"""Data sets of torch's are read alike by any number of workers, and it is told where they fail."""

import os
import random
import signal
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from ringfence import DataError, map_tensors, tensors_of
from ringfence.datasets.dataset_registry import load_data
from ringfence.datasets.split import HoldOut
from ringfence.engine.data import Plan, batches
from ringfence.tensors.byte_batch import ByteBatch


class Points(Dataset):
    """Pairs whose inputs draw from every global generator."""

    def __init__(self, count=40):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        noise = [float(torch.rand(())), float(np.random.rand()), random.random()]  # noqa: NPY002, S311
        return torch.tensor([index, *noise]), index % 3


class Seldom(Points):
    """Draws for one sample of many: whoever reads the others sees nothing of it."""

    def __getitem__(self, index):
        return torch.tensor([index, float(torch.rand(())) if index % 13 == 5 else 0.0]), index % 3


class OfDicts(Points):
    classes = ("a", "b", "c")

    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return {"ids": torch.full((4,), index), "x": inputs.double(), "label": target}


class Ragged(Points):
    def __getitem__(self, index):
        return torch.ones(1 + index % 3, 2) * index, {"boxes": torch.ones(index % 2, 4)}


class Raises(Points):
    def __getitem__(self, index):
        if index == 17:
            raise KeyError("no row")
        return super().__getitem__(index)


class NotFinite(Points):
    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return (inputs / 0 if index == 23 else inputs), target


class AnotherClass(Points):
    def __getitem__(self, index):
        return torch.ones(4), 7 if index == 31 else 0


class Dies(Points):
    def __getitem__(self, index):
        if index == 31:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Bytes(Points):
    def __getitem__(self, index):
        return torch.full((3, 4, 4), index, dtype=torch.uint8), index % 3


class Endless(IterableDataset):
    """Passes of 7 samples, whose inputs draw from a global generator."""

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        for index in range(7):
            yield torch.tensor([index, self.epoch, float(torch.rand(()))]), index % 3


class Empty(IterableDataset):
    def __iter__(self):
        return iter(())


def streamed(kind="Endless"):
    return globals()[kind](), Points(6)


def three(count=12):
    return Points(count), Points(count // 2), Points(count // 3)


def one():
    return 1


def in_lists(items):
    inputs, targets = zip(*items, strict=True)
    return {"parts": list(inputs)}, list(targets) if isinstance(targets[0], dict) else torch.tensor(targets)


def drops_one(items):
    return torch.stack([inputs for inputs, _ in items[1:]]), torch.tensor([target for _, target in items[1:]])


def fails(items):
    return items[0].nothing


@pytest.fixture(autouse=True)
def module(monkeypatch):
    made = ModuleType("own_torch_data")
    made.__dict__.update({name: value for name, value in globals().items() if not name.startswith("_")})
    monkeypatch.setitem(sys.modules, "own_torch_data", made)


def read(name, tmp_path, asked=HoldOut(), **options):  # noqa: B008 - it is frozen
    return load_data(f"own_torch_data:{name}", options, base=tmp_path, asked=asked)


def epochs(part, seed=0, first_step=0, size=5, steps=None):
    plan = Plan(len(part), size, 2)
    total = steps or 2 * plan.steps_per_epoch
    read = batches(part, plan, seed, first_step=first_step, steps_total=total, lr_factor=lambda _: 1.0)
    return [(batch, step) for batch, step in read]


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for (one, step), (other, other_step) in zip(some, others, strict=True):
        assert step == other_step
        assert torch.equal(one.indices, other.indices)
        for trees in ((one.inputs, other.inputs), (one.targets, other.targets)):
            first, second = map(tensors_of, trees)
            assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("options", [{}, {"collate": "own_torch_data:in_lists"}])
def test_batches_are_those_of_the_trainer_with_any_number_of_workers_from_any_step_on(tmp_path, options):
    state = torch.get_rng_state(), random.getstate()
    alone = epochs(read("Points", tmp_path, classes=3, **options).train)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    part = read("Points", tmp_path, workers=3, classes=3, **options).train
    assert_same(alone, epochs(part))
    rest = epochs(part, first_step=5)
    assert_same([each for each in alone if each[1].global_step >= 5], rest)
    # The same sample of another pass, or of another seed, draws something else.
    drawn = {}
    for batch, step in alone + epochs(part, seed=1, steps=1):
        inputs = torch.stack(batch.inputs["parts"]) if options else batch.inputs
        for index, row in zip(batch.indices.tolist(), inputs, strict=True):
            assert row[0] == index
            drawn.setdefault(index, set()).add((step.epoch, *row[1:].tolist()))
    assert all(len({numbers[1:] for numbers in rows}) == len(rows) for rows in drawn.values())


def test_who_draws_seldom_draws_the_same_with_any_number_of_workers(tmp_path):
    alone = epochs(read("Seldom", tmp_path, classes=3).train)
    assert_same(alone, epochs(read("Seldom", tmp_path, workers=2, classes=3).train))
    rest = epochs(read("Seldom", tmp_path, workers=1, classes=3).train, first_step=4)
    assert_same([each for each in alone if each[1].global_step >= 4], rest)
    drawn = torch.cat([batch.inputs for batch, _ in alone])
    seldom = drawn[drawn[:, 0] % 13 == 5]
    assert len(set(seldom[:, 1].tolist())) == len(seldom) > 2


def test_an_evaluation_reads_the_same_samples_in_order_each_time(tmp_path):
    part = read("Points", tmp_path, workers=2, classes=3).test
    once, again = ([(batch, None) for batch in part.in_order(3)] for _ in range(2))
    assert_same(once, again)
    assert torch.equal(torch.cat([batch.indices for batch, _ in once]), part.rows)


def test_of_one_data_set_a_fifth_is_the_test_part_and_none_is_in_two(tmp_path):
    data = read("Points", tmp_path, HoldOut(0.25), classes=3)
    rows = [set(part.rows.tolist()) for part in data.parts().values()]
    assert [len(part) for part in rows] == [24, 8, 8]
    assert set.union(*rows) == set(range(40))
    assert any("8 of 40 samples are drawn as the test part" in note for note in data.notes)


def test_three_data_sets_are_the_three_parts(tmp_path):
    data = read("three", tmp_path, HoldOut(None), classes=3)
    assert {name: len(part) for name, part in data.parts().items()} == {
        "train": 12,
        "validation": 6,
        "test": 4,
    }


def test_a_dict_is_parted_by_its_target_and_classes_are_those_that_the_data_set_names(tmp_path):
    part = read("OfDicts", tmp_path, target="label", workers=1).train
    assert (part.num_classes, part.class_names) == (3, ("a", "b", "c"))
    batch, _ = epochs(part)[0]
    assert map_tensors(lambda tensor: (tensor.dtype, tuple(tensor.shape)), batch.inputs) == {
        "ids": (torch.int64, (5, 4)),
        "x": (torch.float32, (5, 4)),
    }
    assert torch.equal(batch.targets, batch.indices % 3)


def test_sizes_may_differ_from_sample_to_sample_where_collate_says_how(tmp_path):
    part = read("Ragged", tmp_path, collate="own_torch_data:in_lists").train
    for batch, _ in epochs(part):
        assert [len(each) for each in batch.inputs["parts"]] == (1 + batch.indices % 3).tolist()
        assert [len(each["boxes"]) for each in batch.targets] == (batch.indices % 2).tolist()


def test_images_in_bytes_are_given_as_those_and_seen_as_numbers(tmp_path):
    part = read("Bytes", tmp_path, workers=1, classes=3).train
    plan = Plan(len(part), 8)
    stored = batches(part, plan, 0, first_step=0, steps_total=1, lr_factor=lambda _: 1.0, as_stored=True)
    assert type(next(stored)[0]) is ByteBatch
    stored.close()
    seen, _ = epochs(part)[0]
    assert torch.equal(seen.inputs[:, 0, 0, 0], seen.indices.to(torch.uint8) / 255)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_goes_on_from_pass_to_pass_and_from_any_step(tmp_path, workers):
    data = read("streamed", tmp_path, HoldOut(None), workers=workers, classes=3)
    assert any("the training data have no length" in note for note in data.notes)
    part = replace(data.train, count=60)
    whole = epochs(part, steps=6)
    rows = torch.cat([batch.inputs for batch, _ in whole])
    assert rows[:, 0].tolist() == [place % 7 for place in range(60)]
    assert rows[:, 1].tolist() == [place // 7 for place in range(60)]
    assert len(set(rows[:, 2].tolist())) == 60
    assert_same([each for each in whole if each[1].global_step >= 4], epochs(part, first_step=4, steps=6))
    # What was read once is read again as it was.
    assert_same(whole, epochs(part, steps=6))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Raises", "sample 17 could not be read: KeyError: 'no row'; at .*test_torch_data.py"),
        ("NotFinite", "the batch of samples .*: inputs of sample 23 are not finite"),
        ("AnotherClass", "sample 31 has the class 7; with 3 classes they lie in 0 … 2"),
    ],
)
def test_the_sample_that_is_wrong_is_named(tmp_path, name, message, workers):
    with pytest.raises(DataError, match=f"data 'own_torch_data:{name}': {message}"):
        epochs(read(name, tmp_path, classes=3, workers=workers, target="label").train, steps=20)


def test_a_worker_that_dies_is_told_and_what_to_do(tmp_path):
    part = read("Dies", tmp_path, classes=3, workers=2).train
    with pytest.raises(DataError, match=r"a worker that reads samples has died: .*With workers: 0 "):
        epochs(part, steps=20)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Endless", {}, "the Endless has no length, so that it can neither be split nor judge a run"),
        ("streamed", {"workers": 2}, "several workers would each read all of it, .*; write workers: 1, or 0"),
        ("streamed", {"kind": "Empty"}, "the data set has come to its end without a sample"),
        ("OfDicts", {}, "a sample is a dict of 'ids', 'x', 'label'; say which are targets by target: KEY"),
        ("OfDicts", {"target": "lable"}, "say which are targets by target"),
        ("OfDicts", {"target": "label", "classes": 4}, "names 3 classes; the option 'classes' is 4"),
        (
            "Points",
            {"collate": "own_torch_data:drops_one"},
            r"2 samples make inputs \(1, 4\).*did collate drop",
        ),
        ("Points", {"collate": "own_torch_data:fails"}, "collate failed: AttributeError: .*nothing"),
        ("Points", {"collate": "own_torch_data:none"}, "collate: module 'own_torch_data' has no 'none'"),
        ("Points", {"workers": -1}, "option 'workers' -1 is out of range"),
        ("Points", {"wrokers": 1}, "option 'wrokers' is unknown; did you mean 'workers'"),
        ("Points", {"count": 0}, "the data are empty"),
        (
            "one",
            {"workers": 2},
            "workers say how a torch.utils.data.Dataset is read; the function",
        ),
    ],
)
def test_what_cannot_be_read_is_told_before_the_start(tmp_path, name, options, message):
    with pytest.raises(DataError, match=message):
        read(name, tmp_path, **options)
