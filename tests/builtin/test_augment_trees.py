"""Inputs that are dicts and lists: what is changed, what is left alone, and what cannot be told."""

from __future__ import annotations

import pytest
import torch

from ringfence import Batch, StepInfo, tensors_of
from ringfence.builtin.augment import Augment
from ringfence.plugins.result_checks import check_batch

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 5, 3, 16, 20


def images(seed=0):
    return torch.rand(SIZE, generator=torch.Generator().manual_seed(seed))


def batch_of(inputs, targets=None, num_classes=4):
    count = tensors_of(inputs)[0].shape[0]
    targets = torch.arange(count) % 4 if targets is None else targets
    return Batch(inputs, targets, torch.arange(count), num_classes)


def run(ops, batch, **options):
    result = Augment(ops, **options).forward(batch, StepInfo(2, steps_total=10, seed=4)) or batch
    check_batch(result, batch)
    return result


OPS = [{"flip": {"p": 1}}, {"rotate": {"p": 1}}, {"Affine": {"rotate": [5, 9], "p": 1}}, {"mixup": {}}]


@pytest.mark.parametrize("ops", [OPS, OPS[:1], ["trivialaugment", "cutmix"]])
def test_images_of_a_dict_change_as_they_do_alone_and_the_rest_stays(ops):
    rest = {
        "ids": torch.arange(10).view(5, 2),
        "numbers": torch.rand(5, 7),
        "more": [torch.rand(5), torch.ones(5, 2)],
    }
    alone = run(ops, batch_of(images()))
    result = run(ops, batch_of({"ids": rest["ids"], "pixel_values": images(), **rest}))
    assert list(result.inputs) == ["ids", "pixel_values", "numbers", "more"]
    assert torch.equal(result.inputs["pixel_values"], alone.inputs)
    assert not torch.equal(alone.inputs, images())
    assert torch.equal(result.targets, alone.targets)
    for name, given in rest.items():
        assert all(a is b for a, b in zip(tensors_of(result.inputs[name]), tensors_of(given), strict=True))


def test_images_of_bytes_in_a_dict_stay_bytes():
    given = (images() * 255).to(torch.uint8)
    numbers = run(OPS, batch_of({"image": given.float() / 255})).inputs["image"]
    result = run(OPS, batch_of({"image": given})).inputs["image"]
    assert result.dtype == torch.uint8
    assert torch.equal(result, (numbers * 255).round().to(torch.uint8))
    assert torch.equal(run([{"flip": {"p": 1}}], batch_of({"image": given})).inputs["image"], given.flip(3))


def test_a_key_says_which_of_several_images_is_meant():
    pair = {"views": [images(0), images(1)]}
    result = run(OPS[:1], batch_of(pair), inputs_key="views.1")
    assert torch.equal(result.inputs["views"][0], pair["views"][0])
    assert torch.equal(result.inputs["views"][1], pair["views"][1].flip(3))


def test_a_key_may_name_what_is_no_image_for_an_operation_that_takes_anything():
    table = {"ids": torch.arange(5), "numbers": torch.rand(5, 7)}
    result = run(["mixup"], batch_of(table), inputs_key="numbers")
    assert torch.equal(result.inputs["numbers"], run(["mixup"], batch_of(table["numbers"])).inputs)


WRONG = {
    "several": (
        {"left": images(), "right": images()}, {},
        r"it cannot be told which of the inputs is images.* left float32 \(5, 3, 16, 20\), right .*key",
    ),
    "none": ({"ids": torch.arange(10).view(5, 2)}, {}, r"none of the inputs is images.* ids int64 \(5, 2\)"),
    "unknown": ({"image": images()}, {"inputs_key": "picture"}, "is 'picture', and the inputs have image"),
    "no numbers": (
        {"image": images(), "ids": torch.arange(5)}, {"inputs_key": "ids"}, "is 'ids', which is no images",
    ),
    "no image": (
        {"image": images(), "table": torch.rand(5, 2)}, {"inputs_key": "table"}, r"on images.*\(5, 2\)",
    ),
    "half": ({"image": images().half()}, {}, "torch.float16"),
    "range": ({"image": images() * 255}, {}, "grey levels from 0 to 1"),
    "a mask beside": (
        {"image": images(), "pixel_mask": torch.ones(5, 16, 20)}, {}, "'pixel_mask' of the inputs has",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_told_or_does_not_fit_is_refused(case):
    inputs, options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        run(["rotate"], batch_of(inputs), **options)


def test_it_says_that_it_takes_trees():
    assert Augment.takes_trees is True
