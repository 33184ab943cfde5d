"""Data that were changed have another digest, wherever they lie in memory; what it costs has a bound."""

from dataclasses import replace

import pytest
import torch
from engine_helpers import image_data, regression_data

from ringfence.engine import data_digest
from ringfence.engine.data import Data, Dataset
from ringfence.engine.data_digest import digest_data


def of(inputs, targets=None):
    """Return the digest of a training set with these inputs."""
    targets = torch.zeros(len(inputs), dtype=torch.int64) if targets is None else targets
    train = Dataset(inputs, targets, 2)
    return digest_data(Data(train, replace(train, inputs=inputs[:1], targets=targets[:1])))["train"]


@pytest.mark.parametrize("make", [image_data, regression_data])
def test_the_same_data_have_the_same_digest(make):
    assert digest_data(make()) == digest_data(make())
    assert set(digest_data(make())) >= {"train", "test"}


@pytest.mark.parametrize("at", [0, 1 << 20, -1])
def test_a_change_of_one_bit_is_another_digest(at):
    inputs = torch.zeros(3000, 1000, dtype=torch.uint8)
    changed = inputs.clone()
    changed.view(-1)[at] = 1
    targets = torch.zeros(3000, dtype=torch.int64)
    other = targets.clone()
    other[at % 3000] = 1

    assert len({of(inputs, targets), of(changed, targets), of(inputs, other)}) == 3


def test_samples_in_another_order_are_other_data():
    inputs = torch.arange(40, dtype=torch.uint8).view(20, 2)
    assert of(inputs) != of(inputs.flip(0))


def test_the_same_bytes_in_another_form_are_other_data():
    inputs = torch.arange(64, dtype=torch.uint8).view(8, 8)
    assert of(inputs) != of(inputs.view(8, 2, 4))


def test_how_data_lie_in_memory_makes_no_difference(tmp_path):
    inputs = torch.arange(2 * 600 * 500, dtype=torch.uint8).view(600, 2, 500)
    strided = inputs.transpose(1, 2).contiguous().transpose(1, 2)
    (tmp_path / "inputs").write_bytes(inputs.numpy().tobytes())
    size = inputs.numel()
    mapped = torch.from_file(str(tmp_path / "inputs"), shared=False, size=size, dtype=torch.uint8)

    assert not strided.is_contiguous()
    assert of(strided) == of(inputs) == of(mapped.view(inputs.shape))


@pytest.mark.parametrize("processors", [1, 3])
def test_the_number_of_processors_makes_no_difference(monkeypatch, processors):
    inputs = torch.arange(5_000_000, dtype=torch.float32).view(5, -1)
    expected = of(inputs)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(processors)))
    assert of(inputs) == expected


def test_parts_that_share_memory_are_told_apart_by_their_rows_and_read_once(monkeypatch):
    data, rows = image_data(), torch.arange(50)
    whole = digest_data(data)["train"]

    def held_out(kept, held):
        parts = (replace(data.train, rows=rows[part]) for part in (kept, held))
        return digest_data(replace(data, **dict(zip(("train", "validation"), parts, strict=True))))

    told = held_out(slice(5, None), slice(5))
    assert {name: text.partition(",")[0] for name, text in told.items() if name != "normalisation"} == {
        "train": "45 samples",
        "validation": "5 samples",
        "test": "20 samples",
    }
    other = held_out(slice(0, 45), slice(45, None))
    assert len({whole, told["train"], told["validation"], other["train"], other["validation"]}) == 5
    looked_at = []
    monkeypatch.setattr(data_digest, "_checksum", lambda chunk: looked_at.append(len(chunk)) or 0)
    held_out(slice(5, None), slice(5))
    # Inputs and targets of all training samples once, and those of the test.
    assert sorted(looked_at) == [20, 20, 50, 50]


def test_the_normalisation_is_part_of_it():
    data = image_data()
    scaled = replace(data, mean=(0.5,), std=(0.25,))
    assert digest_data(scaled)["normalisation"] == "mean (0.5,), std (0.25,)"
    assert digest_data(scaled)["train"] == digest_data(data)["train"]


def test_of_large_samples_there_are_no_more_than_would_be_read_whole(monkeypatch):
    monkeypatch.setattr(data_digest, "WHOLE_BYTES", 50)
    looked_at = []
    monkeypatch.setattr(data_digest, "_checksum", lambda chunk: looked_at.append(chunk.shape) or 0)
    of(torch.zeros(100, 10, dtype=torch.uint8))
    assert looked_at.count((1, 10)) == 5 + 1 + 1


def test_of_large_data_a_number_of_samples_stands_for_all(monkeypatch):
    monkeypatch.setattr(data_digest, "WHOLE_BYTES", 999)
    monkeypatch.setattr(data_digest, "SAMPLED", 10)
    looked_at = []
    checksum = data_digest._checksum
    monkeypatch.setattr(
        data_digest, "_checksum", lambda chunk: looked_at.append(chunk.shape) or checksum(chunk)
    )
    inputs = torch.zeros(100, 10, dtype=torch.uint8)
    last, sampled, between = inputs.clone(), inputs.clone(), inputs.clone()
    last[99], sampled[30], between[31] = 1, 1, 1

    whole = of(inputs)
    assert looked_at.count((1, 10)) == 11 + 1  # the test data are one sample
    assert whole not in {of(last), of(sampled), of(inputs[:99])}
    assert whole == of(between)
