"""Mixing: weights, areas and labels, exactly; published distributions, by test."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from ringfence import Batch, StepInfo
from ringfence.builtin.augment import Augment
from ringfence.builtin.augment.draw import Draw
from ringfence.builtin.augment.mix import CutMix, FMix, MixUp, Mosaic, _four

COUNT = 32


def distinct(height=28, width=28, *, channels=1, count=COUNT):
    """A batch whose image i is all i / count, and whose class is i."""
    values = torch.arange(count) / count
    return Batch(
        values.view(-1, 1, 1, 1).expand(count, channels, height, width).clone(),
        torch.arange(count),
        torch.arange(count),
        count,
    )


def pixel_shares(batch):
    """Share of each class counted from the pixels, (B, K)."""
    count = len(batch)
    classes = (batch.inputs[:, 0] * count).round().long().flatten(1)
    return torch.nn.functional.one_hot(classes, count).double().mean(1)


@pytest.mark.parametrize(
    "op", [CutMix(p=1), CutMix(p=1, per_sample=True), FMix(), Mosaic()], ids=lambda op: op.name
)
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (29, 17)])
def test_label_weights_are_the_areas_counted_from_pixels(op, size):
    batch = distinct(*size, channels=3)
    for step in range(20):
        result = op.change(batch, Draw(StepInfo(step)))
        assert torch.allclose(result.targets.double(), pixel_shares(result), atol=1e-6)
        assert torch.equal(result.inputs[:, 0], result.inputs[:, 2])


@pytest.mark.parametrize("per_sample", [False, True])
def test_mixup_blends_images_with_the_weights_of_the_labels(per_sample):
    batch = distinct()
    result = MixUp(per_sample=per_sample).change(batch, Draw(StepInfo(2)))
    values = torch.arange(COUNT) / COUNT
    assert torch.allclose(result.inputs.mean(dim=(1, 2, 3)), result.targets @ values, atol=1e-6)
    own = result.targets.diagonal()[(result.targets > 0).sum(1) == 2]
    assert own.unique().numel() == (own.numel() if per_sample else 1)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weights_follow_beta_alpha_alpha(alpha):
    count = 3000
    batch = Batch(torch.rand(count, 1), torch.arange(count), torch.arange(count), count)
    result = MixUp(alpha=alpha, per_sample=True).change(batch, Draw(StepInfo(0)))
    partner_is_other = result.inputs[:, 0] != batch.inputs[:, 0]
    weights = result.targets.diagonal()[partner_is_other]
    assert stats.kstest(weights.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_mixup_draws_one_weight_a_batch_from_beta():
    batch = distinct(4, 4, count=4)
    weights = []
    for step in range(800):
        targets = MixUp(alpha=1.0).change(batch, Draw(StepInfo(step))).targets
        mixed = (targets > 0).sum(1) == 2
        if mixed.any():
            weights.append(targets.diagonal()[mixed][0].item())
    assert stats.kstest(weights, stats.uniform.cdf).pvalue > 0.01


def test_mixup_mixes_the_targets_of_a_regression_linearly():
    targets = torch.randn(COUNT)
    batch = Batch(targets.view(-1, 1).repeat(1, 5), targets, torch.arange(COUNT), None)
    result = MixUp(per_sample=True).change(batch, Draw(StepInfo(1)))
    assert torch.allclose(result.inputs[:, 0], result.targets)
    assert not torch.equal(result.targets, targets)


@pytest.mark.parametrize("name", ["cutmix", "fmix", "mosaic"])
def test_mixing_by_area_refuses_a_regression(name):
    batch = Batch(torch.rand(4, 1, 8, 8), torch.rand(4), torch.arange(4), None)
    with pytest.raises(ValueError, match=rf"ops\[0\] {name}: {name} mixes class labels .* use mixup"):
        Augment([{name: {"p": 1.0}}]).forward(batch, StepInfo(0))


def test_mixup_refuses_whole_numbers_as_targets_of_a_regression():
    batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4), torch.arange(4), None)
    with pytest.raises(ValueError, match="needs floating-point targets"):
        Augment(["mixup"]).forward(batch, StepInfo(0))


def test_soft_labels_are_mixed_as_they_are():
    soft = torch.rand(COUNT, 3).softmax(1)
    batch = Batch(distinct().inputs, soft, torch.arange(COUNT), 3)
    result = CutMix(p=1).change(batch, Draw(StepInfo(4)))
    shares = pixel_shares(result)
    assert torch.allclose(result.targets.double(), shares @ soft.double(), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_cutmix_rectangles_cover_one_minus_lambda_before_they_are_cut_off(alpha):
    boxes = CutMix(alpha=alpha)._boxes(Draw(StepInfo(0)), 4000, 1000, 2000)
    area = (boxes.bottom - boxes.top) * (boxes.right - boxes.left) / 2e6
    assert stats.kstest((1 - area).numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    centre = ((boxes.top + boxes.bottom) / 2000).numpy()
    assert stats.kstest(centre, stats.uniform.cdf).pvalue > 0.01


def test_cutmix_pastes_one_rectangle():
    result = CutMix(p=1, per_sample=True).change(distinct(), Draw(StepInfo(3)))
    for i, image in enumerate(result.inputs[:, 0]):
        foreign = image != i / COUNT
        if foreign.any():
            rows, columns = foreign.any(1), foreign.any(0)
            assert torch.equal(foreign, rows[:, None] & columns)
            assert image[foreign].unique().numel() == 1


def test_fmix_masks_are_blobs_of_low_frequency():
    batch = distinct(64, 64, count=2)
    for step in range(200):
        result = FMix().change(batch, Draw(StepInfo(step)))
        mask = result.inputs[0, 0]
        share = result.targets[0, 0].item()
        if 0.3 < share < 0.7:
            differs = (mask[1:] != mask[:-1]).float().mean().item()
            assert differs < 0.1
            return
    pytest.fail("no mask of middling size in 200 draws")


def test_fmix_weights_follow_beta():
    batch = distinct(32, 32, count=2)
    weights = []
    for step in range(600):
        result = FMix().change(batch, Draw(StepInfo(step)))
        if (result.inputs != batch.inputs).any():
            weights.append(result.targets[0, 0].item())
    assert stats.kstest(weights, stats.uniform.cdf).pvalue > 0.01


def test_mosaic_is_a_window_over_four_images_laid_out_two_by_two():
    images = torch.rand(9, 3, 11, 14)
    members = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7]])
    row, column = torch.tensor([3, 9]), torch.tensor([5, 12])
    windows = _four(images, members, row, column)
    for k in range(2):
        top_left, top_right, bottom_left, bottom_right = images[members[:, k]]
        canvas = torch.cat(
            [torch.cat([top_left, top_right], 2), torch.cat([bottom_left, bottom_right], 2)], 1
        )
        top, left = 11 - row[k], 14 - column[k]
        assert torch.equal(windows[k], canvas[:, top : top + 11, left : left + 14])


def test_mosaic_shows_the_sample_at_the_top_left_within_the_margin():
    result = Mosaic(margin=0.25).change(distinct(40, 40), Draw(StepInfo(0)))
    assert torch.equal(result.inputs[:, 0, 0, 0], torch.arange(COUNT) / COUNT)
    cut = [(image[:, 0] == image[0, 0]).sum().item() for image in result.inputs[:, 0]]
    assert min(cut) >= 10
