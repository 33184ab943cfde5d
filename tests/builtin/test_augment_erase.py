"""Erasing: regions counted from the pixels, distributions against the papers' own loops."""

from __future__ import annotations

import math
import random

import pytest
import torch
from scipy import stats

from ringfence import StepInfo
from ringfence.builtin.augment.draw import Draw
from ringfence.builtin.augment.erase import Cutout, GridMask, HideAndSeek, RandomErasing


def draw(step=0, **counters):
    return Draw(StepInfo(step, **counters))


def erased(op, count=64, height=32, width=32, step=0):
    """Where the operation erased, (n, H, W)."""
    images = torch.full((count, 1, height, width), 1.0)
    return op.apply(images, draw(step))[:, 0] == 0


def test_cutout_erases_a_square_cut_off_by_the_border():
    removed = erased(Cutout(length=16, fill=0))
    areas = removed.flatten(1).sum(1)
    assert areas.max() == 256
    assert areas.min() >= 64
    for mask in removed:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns)
        assert 8 <= rows.sum() <= 16


def test_cutout_centres_are_uniform_over_the_image():
    removed = erased(Cutout(length=1, fill=0), count=4000, height=10, width=10)
    counts = removed.sum(0).flatten()
    assert removed.flatten(1).sum(1).eq(1).all()
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_cutout_with_two_holes_erases_more():
    one = erased(Cutout(length=8, fill=0), count=500).float().mean()
    two = erased(Cutout(length=8, holes=2, fill=0), count=500).float().mean()
    assert 1.5 * one < two < 2 * one


def test_fill_mean_is_the_mean_of_each_channel_over_the_images():
    images = torch.rand(16, 3, 20, 20)
    result = Cutout(length=10).apply(images, draw())
    changed = (result != images).any(1)
    mean = images.mean(dim=(0, 2, 3))
    for image, mask in zip(result, changed, strict=True):
        assert torch.allclose(image[:, mask], mean[:, None].expand(-1, int(mask.sum())))


def loop_of_algorithm_1(rng, height, width):
    """Random erasing as the paper writes it, one image at a time."""
    while True:
        area = rng.uniform(0.02, 0.4) * height * width
        aspect = rng.uniform(0.3, 1 / 0.3)
        high, wide = math.sqrt(area * aspect), math.sqrt(area / aspect)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if x + wide <= width and y + high <= height:
            return high * wide / (height * width), high / wide, (x + wide / 2) / width


def test_random_erasing_draws_like_the_papers_loop():
    rng = random.Random(0)  # noqa: S311 - nothing secret
    expected = [loop_of_algorithm_1(rng, 400, 300) for _ in range(3000)]
    boxes = RandomErasing().boxes(draw(), 3000, 400, 300)
    high, wide = boxes.bottom - boxes.top, boxes.right - boxes.left
    centre = (boxes.left + boxes.right) / 2 / 300
    for got, column in zip((high * wide / 120_000, high / wide, centre), range(3), strict=True):
        assert stats.ks_2samp(got.numpy(), [row[column] for row in expected]).pvalue > 0.01


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (224, 224), (21, 45)])
def test_random_erasing_keeps_to_area_aspect_and_image(size):
    height, width = size
    boxes = RandomErasing(area=[0.1, 0.3], aspect=[0.5, 2]).boxes(draw(), 500, height, width)
    high, wide = boxes.bottom - boxes.top, boxes.right - boxes.left
    assert (boxes.top >= 0).all()
    assert (boxes.left >= 0).all()
    assert (boxes.bottom <= height).all()
    assert (boxes.right <= width).all()
    # Sides are whole pixels: half a pixel each way.
    assert ((high + 0.5) * (wide + 0.5) >= 0.1 * height * width).all()
    assert ((high - 0.5) * (wide - 0.5) <= 0.3 * height * width).all()
    assert ((high - 0.5) / (wide + 0.5) <= 2).all()
    assert ((high + 0.5) / (wide - 0.5) >= 0.5).all()


def test_random_erasing_leaves_an_image_alone_where_nothing_fits():
    images = torch.rand(4, 1, 8, 64)
    assert torch.equal(RandomErasing(area=0.9, aspect=50).apply(images, draw()), images)


@pytest.mark.parametrize(
    ("mode", "distinct_values"), [("pixel", "many"), ("random", "one"), ("const", "one"), ("mean", "one")]
)
def test_random_erasing_fills_as_its_mode_says(mode, distinct_values):
    images = torch.full((32, 3, 32, 32), 0.25)
    images[:, 1] = 0.75
    result = RandomErasing(mode=mode, value=1.0, area=0.2).apply(images, draw())
    boxes = RandomErasing(mode=mode, value=1.0, area=0.2).boxes(draw(), 32, 32, 32)
    for i, image in enumerate(result):
        patch = image[:, boxes.top[i] : boxes.bottom[i], boxes.left[i] : boxes.right[i]]
        assert patch.numel() > 0
        unique = [channel.unique().numel() for channel in patch]
        assert min(unique) > 50 if distinct_values == "many" else unique == [1, 1, 1]
        if mode == "const":
            assert patch.eq(1).all()
        if mode == "mean":
            assert torch.allclose(patch, images[i][:, :1, :1])


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_gridmask_removes_one_minus_ratio_squared_of_each_unit(ratio):
    removed = erased(GridMask(ratio=ratio, unit=0.25, rotate=0, fill=0))
    share = removed.float().mean(dim=(1, 2))
    assert torch.allclose(share, torch.full_like(share, (1 - ratio) ** 2))
    units = removed.view(64, 4, 8, 4, 8)
    assert torch.equal(units[:, 0], units[:, 1])


def test_turned_gridmask_removes_the_same_share_on_average():
    share = (
        erased(GridMask(ratio=0.6, unit=[0.2, 0.4], fill=0), count=400, height=64, width=64).float().mean()
    )
    assert share == pytest.approx(0.16, abs=0.02)


def test_gridmask_probability_grows_with_the_run():
    op = GridMask(p=0.8, ramp=0.8)
    at = [op.probability(draw(step, steps_total=100)) for step in (0, 40, 80, 99)]
    assert at == pytest.approx([0.0, 0.4, 0.8, 0.8])
    assert GridMask(p=0.8, ramp=0).probability(draw(0, steps_total=100)) == 0.8


def test_hide_and_seek_hides_whole_patches_half_of_the_time():
    removed = erased(HideAndSeek(cells=4, fill=0), count=500)
    patches = removed.view(500, 4, 8, 4, 8).transpose(2, 3).flatten(3)
    assert torch.equal(patches.any(3), patches.all(3))
    assert removed.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_hide_and_seek_draws_the_grid_of_each_image():
    removed = erased(HideAndSeek(cells=[2, 16], hide=0.5, fill=0), count=300)
    borders = (removed[:, 1:] != removed[:, :-1]).any(2).sum(1)
    assert (borders <= 1).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (borders > 10).float().mean().item() == pytest.approx(0.5, abs=0.1)
