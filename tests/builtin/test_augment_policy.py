"""Policies: the papers' ranges, and batched runs against one image at a time."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from ringfence import StepInfo
from ringfence.builtin.augment import pixels, warp
from ringfence.builtin.augment.draw import Draw
from ringfence.builtin.augment.policy import (
    AUGMIX_MENU,
    RAND_MENU,
    WIDE_MENU,
    AugMix,
    RandAugment,
    TrivialAugment,
    run,
)


def draw(step=0):
    return Draw(StepInfo(step))


def one_by_one(images, menu, picks, strength, signs, fill):
    """The reference: each image on its own."""
    result = []
    for i, pick in enumerate(picks.tolist()):
        image = images[i : i + 1]
        if pick >= 0:
            change = menu[pick]
            amounts = change.amounts(strength[i : i + 1], signs[i : i + 1], images.shape[3])
            image = change.kernel(image, amounts, fill)
        result.append(image)
    return torch.cat(result)


@pytest.mark.parametrize("menu", [RAND_MENU, WIDE_MENU, AUGMIX_MENU], ids=["rand", "wide", "augmix"])
@pytest.mark.parametrize("channels", [1, 3])
def test_running_on_groups_equals_running_one_by_one(menu, channels):
    images = torch.rand(60, channels, 28, 28)
    picks = torch.arange(60) % (len(menu) + 1) - 1
    strength = torch.rand(60)
    got = run(images, menu, picks, strength, draw(3), 0.2)
    expected = one_by_one(images, menu, picks, strength, draw(3).signs(60), 0.2)
    assert torch.allclose(got, expected, atol=1e-6)


def amounts(menu, position, strength, side=331):
    return menu[position].amounts(torch.tensor([strength]), torch.ones(1), side).item()


@pytest.mark.parametrize(
    ("position", "weakest", "strongest"),
    [
        (3, 0, 30),
        (4, 1, 0),
        (5, 8, 4),
        (6, 0.1, 1.9),
        (9, 0.1, 1.9),
        (10, 0, 0.3),
        (11, 0, 0.3),
        (12, 0, 150),
        (13, 0, 150),
    ],
)
def test_randaugment_has_the_ranges_of_autoaugment(position, weakest, strongest):
    assert len(RAND_MENU) == 14
    assert amounts(RAND_MENU, position, 0.0) == pytest.approx(weakest)
    assert amounts(RAND_MENU, position, 1.0) == pytest.approx(strongest, abs=1e-4)


@pytest.mark.parametrize(
    ("position", "weakest", "strongest"),
    [
        (3, 0, 135),
        (4, 1, 0),
        (5, 8, 2),
        (6, 0.01, 2.0),
        (9, 0.01, 2.0),
        (10, 0, 0.99),
        (12, 0, 32),
        (13, 0, 32),
    ],
)
def test_trivialaugment_has_the_wide_ranges(position, weakest, strongest):
    assert len(WIDE_MENU) == 14
    assert amounts(WIDE_MENU, position, 0.0) == pytest.approx(weakest)
    assert amounts(WIDE_MENU, position, 1.0) == pytest.approx(strongest, abs=1e-6)


def test_augmix_leaves_out_what_resembles_its_test_corruptions():
    kernels = [change.kernel for change in AUGMIX_MENU]
    assert len(kernels) == 9
    assert {warp.rotate, warp.shear_x, warp.shear_y, warp.translate_x, warp.translate_y} <= {*kernels}
    assert amounts(AUGMIX_MENU, 2, 0.3) == 3  # 4 - int(1.2) bits
    assert amounts(AUGMIX_MENU, 7, 1.0, side=30) == pytest.approx(10)


def test_trivialaugment_picks_each_operation_equally_often():
    counts = [0] * 14
    for step in range(10):
        # The first thing that an apply draws is its picks.
        picks = draw(step).integers(0, 14, 500)
        images = torch.rand(500, 3, 8, 8)
        result = TrivialAugment().apply(images, draw(step))
        unchanged = (result == images).flatten(1).all(1)
        assert unchanged[picks == 0].all()
        for pick in picks.tolist():
            counts[pick] += 1
    assert stats.chisquare(counts).pvalue > 0.01


def test_randaugment_at_magnitude_5_leaves_the_enhancers_neutral():
    images = torch.rand(50, 3, 16, 16)
    for position in (6, 7, 8, 9):
        got = run(images, RAND_MENU, torch.full((50,), position), torch.full((50,), 0.5), draw(), 0.0)
        assert torch.allclose(got, images, atol=1e-6)


def test_randaugment_applies_n_operations_one_after_the_other():
    images = torch.rand(40, 3, 28, 28)
    got = RandAugment(n=3, m=7).apply(images, draw(5))
    again, expected = draw(5), images
    for _ in range(3):
        picks = again.integers(0, 14, 40)
        expected = one_by_one(expected, RAND_MENU, picks, torch.full((40,), 0.7), again.signs(40), 0.0)
    assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("depth", [-1, 2])
def test_augmix_equals_algorithm_1_written_for_one_image(depth):
    count, width = 12, 3
    images = torch.rand(count, 3, 20, 20)
    got = AugMix(depth=depth).apply(images, draw(2))

    again = draw(2)
    weights, kept = again.dirichlet(1.0, width, count), again.beta(1.0, count)
    lengths = again.integers(1, 4, width * count) if depth < 0 else torch.full((width * count,), depth)
    plans = [
        (
            again.integers(0, 9, width * count),
            again.uniform(0.1, 3, width * count) / 10,
            again.signs(width * count),
        )
        for _ in range(int(lengths.max()))
    ]
    for i in range(count):
        blend = torch.zeros(1, 3, 20, 20)
        for chain in range(width):
            at, image = chain * count + i, images[i : i + 1]
            for picks, strength, signs in plans[: int(lengths[at])]:
                change = AUGMIX_MENU[int(picks[at])]
                image = change.kernel(
                    image, change.amounts(strength[at : at + 1], signs[at : at + 1], 20), 0.0
                )
            blend += weights[i, chain] * image
        expected = kept[i] * images[i : i + 1] + (1 - kept[i]) * blend
        assert torch.allclose(got[i : i + 1], expected, atol=1e-5)


def test_augmix_weights_follow_dirichlet_and_sum_to_1():
    weights = draw().dirichlet(1.0, 3, 3000)
    assert torch.allclose(weights.sum(1), torch.ones(3000), atol=1e-6)
    assert stats.kstest(weights[:, 0].numpy(), stats.beta(1, 2).cdf).pvalue > 0.01


def test_fill_is_what_comes_from_outside():
    images = torch.ones(1, 1, 20, 20)
    far = torch.ones(1)
    got = run(images, WIDE_MENU, torch.tensor([12]), far, draw(), 0.25)
    assert torch.allclose(got, torch.full_like(got, 0.25))
    assert pixels.levels(got).unique().numel() == 1
