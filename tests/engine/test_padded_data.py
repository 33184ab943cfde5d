"""Sequences of different lengths: batches of like ones, each as long as its longest."""

import pytest
import torch

from ringfence.engine.data import Plan, batches
from ringfence.engine.padded_data import PaddedDataset
from ringfence.engine.sample_weights import SampleWeights

COUNT, LONGEST, BATCH = 150, 40, 8


@pytest.fixture
def lengths():
    return torch.randint(0, LONGEST + 1, (COUNT,), generator=torch.Generator().manual_seed(0))


def dataset(lengths, *, by_length=True, rows=None):
    mask = (torch.arange(LONGEST) < lengths[:, None]).long()
    ids = mask * torch.arange(1, COUNT + 1)[:, None]
    return PaddedDataset(
        {"ids": ids, "mask": mask}, ids, COUNT + 1, rows=rows, lengths=lengths, by_length=by_length
    )


def epoch(data, number=0, seed=7, first=0, order=None):
    plan = Plan(len(data), BATCH, 1, *([order] if order else []))
    steps = plan.steps_per_epoch
    first_step, last = number * steps + first, (number + 1) * steps
    found = batches(data, plan, seed, first_step=first_step, steps_total=last, lr_factor=lambda _: 1.0)
    return [batch for batch, _ in found]


def padded(found):
    return sum(batch.inputs["mask"].numel() for batch in found)


def test_each_sample_comes_once_an_epoch_in_batches_that_fit_their_longest(lengths):
    found = epoch(dataset(lengths))

    assert torch.cat([batch.indices for batch in found]).sort().values.tolist() == list(range(COUNT))
    assert [len(batch) for batch in found] == [BATCH] * 18 + [6]
    for batch in found:
        longest = max(1, int(lengths[batch.indices].max()))
        assert batch.inputs["ids"].shape == batch.targets.shape == (len(batch), longest)
        assert torch.equal(batch.inputs["mask"].sum(1), lengths[batch.indices])
        assert batch.inputs["ids"].is_contiguous()


def test_batches_of_like_lengths_have_less_padding_and_come_in_any_order(lengths):
    sorted_ones, mixed = epoch(dataset(lengths)), epoch(dataset(lengths, by_length=False))

    assert padded(sorted_ones) < 0.75 * padded(mixed)
    longest = [batch.inputs["ids"].shape[1] for batch in sorted_ones[:-1]]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_the_order_follows_from_seed_and_epoch_and_goes_on_in_the_middle(lengths):
    data = dataset(lengths)
    rows = [[batch.indices.tolist() for batch in epoch(data, *which)] for which in ((0,), (0,), (1,), (0, 8))]

    assert rows[0] == rows[1]
    assert rows[0] not in (rows[2], rows[3])
    assert [batch.indices.tolist() for batch in epoch(data, first=5)] == rows[0][5:]


def test_part_of_the_rows_is_arranged_by_the_lengths_of_these(lengths):
    rows = torch.arange(COUNT).flip(0)[:100]

    found = epoch(dataset(lengths, rows=rows))

    assert torch.cat([batch.indices for batch in found]).sort().values.tolist() == rows.flip(0).tolist()
    assert padded(found) < 0.75 * padded(epoch(dataset(lengths, rows=rows, by_length=False)))


def test_what_was_drawn_by_weight_is_arranged_as_well(lengths):
    weights = torch.zeros(COUNT, dtype=torch.float64)
    weights[:20] = 1.0

    found = epoch(dataset(lengths), order=SampleWeights(weights, "by hand"))

    drawn = torch.cat([batch.indices for batch in found])
    assert len(drawn) == COUNT
    assert int(drawn.max()) < 20
    assert padded(found) < 0.9 * padded(
        epoch(dataset(lengths, by_length=False), order=SampleWeights(weights, "by hand"))
    )
