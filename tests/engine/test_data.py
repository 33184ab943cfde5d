"""Data sets, and which samples make which step."""

import math

import pytest
import torch
from engine_helpers import image_data

from ringfence.engine.data import Data, Dataset, Normalise, Plan, batches, epoch_order
from ringfence.hooks.errors import DataError

CPU = torch.device("cpu")


def draw(data, plan, *, first_step=0, steps_total=20, seed=3):
    return list(
        batches(
            data.train, plan, seed, first_step=first_step, steps_total=steps_total, lr_factor=lambda s: s / 2
        )
    )


def test_bytes_become_fractions_and_indices_say_which():
    data = image_data()
    batch = data.train.batch(torch.tensor([3, 0]))
    assert batch.inputs.dtype == torch.float32
    assert torch.equal(batch.inputs, data.train.inputs[[3, 0]].float() / 255)
    assert torch.equal(batch.targets, data.train.targets[[3, 0]])
    assert batch.indices.tolist() == [3, 0]
    assert batch.num_classes == 4


def test_bytes_stay_bytes_beside_one_tensor_alone():
    images, rows = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8), torch.arange(2)

    tensor = Dataset(images, torch.zeros(2, 1), None).stored(rows)
    boxes = Dataset(images, {"boxes": torch.zeros(2, 1, 4)}, None).stored(rows)

    assert (tensor.inputs.dtype, boxes.inputs.dtype) == (torch.uint8, torch.float32)
    assert boxes.inputs.unique().tolist() == [1]


def test_each_epoch_visits_each_sample_once_in_another_order():
    orders = [epoch_order(50, 1, epoch) for epoch in range(3)]
    for order in orders:
        assert order.sort().values.tolist() == list(range(50))
    assert len({tuple(order.tolist()) for order in orders}) == 3
    assert torch.equal(epoch_order(50, 1, 2), orders[2])
    assert not torch.equal(epoch_order(50, 2, 2), orders[2])


def test_order_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    epoch_order(50, 1, 0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 50, 64])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_and_sizes_cover_the_epoch(samples, accumulate):
    plan = Plan(samples, 8, accumulate)
    micro_batches = math.ceil(samples / 8)
    assert plan.steps_per_epoch == math.ceil(micro_batches / accumulate)
    sizes = [size for step in range(plan.steps_per_epoch) for size in plan.sizes(step)]
    assert len(sizes) == micro_batches
    assert sum(sizes) == samples
    assert set(sizes[:-1]) <= {8}
    assert plan.sizes(plan.steps_per_epoch) == plan.sizes(0)


def test_counters_of_batches():
    infos = [info for _, info in draw(image_data(train=20), Plan(20, 8, 2), steps_total=3)]
    assert [(i.global_step, i.epoch, i.micro_batch) for i in infos] == [
        (0, 0, 0), (0, 0, 1), (1, 0, 0), (2, 1, 0), (2, 1, 1),
    ]  # fmt: skip
    assert {i.steps_total for i in infos} == {3}
    assert [i.lr_factor for i in infos] == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("first_step", range(9))
def test_stream_from_any_step_is_the_rest_of_the_stream(first_step):
    data, plan = image_data(train=30), Plan(30, 8, 2)
    whole = [pair for pair in draw(data, plan, steps_total=9) if pair[1].global_step >= first_step]
    rest = draw(data, plan, first_step=first_step, steps_total=9)
    assert [info for _, info in rest] == [info for _, info in whole]
    for (a, _), (b, _) in zip(rest, whole, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.indices, b.indices)


def test_normalisation_is_by_channel():
    inputs = torch.rand(2, 3, 4, 4)
    data = Dataset(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), 2)
    normalise = Normalise(Data(data, data, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0)), CPU)
    expected = torch.stack(
        [(inputs[:, c] - m) / s for c, m, s in ((0, 0.1, 1.0), (1, 0.2, 2.0), (2, 0.3, 4.0))], 1
    )
    torch.testing.assert_close(normalise(inputs), expected)
    assert Normalise(Data(data, data), CPU)(inputs) is inputs


IMAGES = torch.zeros(4, 3, 2, 2)
LABELS = torch.tensor([0, 1, 2, 1])
GOOD = Dataset(IMAGES, LABELS, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dataset(IMAGES[:0], LABELS[:0], 3), "the data are empty"),
        (lambda: Dataset(IMAGES.double(), LABELS, 3), "inputs are of dtype torch.float64"),
        (lambda: Dataset(IMAGES, LABELS[:3], 3), "4 inputs, but 3 targets"),
        (lambda: Dataset(IMAGES, LABELS, 2), r"reach from 0 to 2; with 2 classes they lie in 0 … 1"),
        (lambda: Dataset(IMAGES, -LABELS, 3), "reach from -2 to 0"),
        (lambda: Dataset(IMAGES, LABELS.int(), 3), "expected .* class numbers, or .* class probabilities"),
        (lambda: Dataset(IMAGES, LABELS, 3, ("a",)), "1 class names, but 3 classes"),
        (lambda: Data(GOOD, Dataset(IMAGES[:, :1], LABELS, 3)), "inputs of shape"),
        (lambda: Data(GOOD, Dataset(IMAGES, LABELS, 4)), "a number of classes of 3, the test data 4"),
        (lambda: Data(GOOD, GOOD, (0.5,) * 3), "both mean and std, or neither"),
        (lambda: Data(GOOD, GOOD, (0.5,), (0.5,)), "mean and std have 1 and 1 numbers; .* need 3 of each"),
        (lambda: Data(GOOD, GOOD, (0.5,) * 3, (0.5, 0.5, 0.0)), "every number must be above 0"),
    ],
)
def test_data_that_do_not_fit_are_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_soft_labels_are_data_of_classes():
    assert len(Dataset(IMAGES, torch.full((4, 3), 1 / 3), 3)) == 4


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_batches_of_large_images_are_those_of_new_memory(dtype):
    inputs = torch.randint(0, 256, (24, 3, 128, 128), generator=torch.Generator().manual_seed(0)).to(dtype)
    data = Dataset(inputs, torch.arange(24) % 3, 3)
    found = batches(data, Plan(24, 8), 0, first_step=0, steps_total=6, lr_factor=lambda _: 1.0)
    held = list(found)
    assert all(torch.equal(batch.inputs, data.batch(batch.indices).inputs) for batch, _ in held)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_batches_of_a_long_epoch_are_its_order_from_any_step_on(accumulate):
    """More batches than are cut out at once, and an epoch that ends within them."""
    inputs = torch.arange(1000, dtype=torch.float32)[:, None]
    dataset, plan = Dataset(inputs, torch.zeros(1000, 1), None), Plan(1000, 3, accumulate)
    order = torch.cat([epoch_order(1000, 5, epoch) for epoch in range(2)])
    total = 2 * plan.steps_per_epoch
    for first in (0, 1, 70, plan.steps_per_epoch, plan.steps_per_epoch + 65):
        made = list(batches(dataset, plan, 5, first_step=first, steps_total=total, lr_factor=lambda _: 1.0))
        found = torch.cat([batch.indices for batch, _ in made])
        begin = first // plan.steps_per_epoch * 1000 + first % plan.steps_per_epoch * 3 * accumulate
        assert torch.equal(found, order[begin:])
        assert torch.equal(torch.cat([batch.inputs for batch, _ in made])[:, 0], found.float())
        sizes = [[len(b) for b, info in made if info.global_step == step] for step in range(first, total)]
        assert sizes == [plan.sizes(step) for step in range(first, total)]


def test_a_batch_keeps_no_order_of_an_epoch_alive():
    dataset = Dataset(torch.zeros(10_000, 1), torch.zeros(10_000, 1), None)
    made = batches(dataset, Plan(10_000, 4), 5, first_step=0, steps_total=1, lr_factor=lambda _: 1.0)
    batch, _ = next(made)
    assert batch.indices.untyped_storage().nbytes() < 10_000
