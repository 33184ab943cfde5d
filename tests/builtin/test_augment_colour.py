"""Grey levels and colours: PIL's own results, exactly where it works on whole levels."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from ringfence import StepInfo
from ringfence.builtin.augment import pixels
from ringfence.builtin.augment.colour import GaussianNoise, Jitter, Posterize, Solarize
from ringfence.builtin.augment.draw import Draw


def draw(step=0):
    return Draw(StepInfo(step))


def pictures():
    """Images of 8 bits: noise, narrow ranges, one level, two, a ramp, few pixels."""
    rng = np.random.default_rng(0)
    found = [
        rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in [(28, 28), (32, 32), (13, 7), (64, 48)]
    ]
    found += [rng.integers(90, 120, (28, 28, 3), dtype=np.uint8), np.full((16, 16, 3), 77, np.uint8)]
    found += [(rng.random((28, 28, 3)) < 0.2).astype(np.uint8) * 255, np.zeros((9, 9, 3), np.uint8)]
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found += [np.stack([ramp, ramp[::-1], ramp // 2], 2), rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)]
    skewed = (rng.random((28, 28, 3)) ** 6 * 255).astype(np.uint8)
    return [*found, skewed]


def to_tensor(picture):
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def to_picture(images):
    return (images[0] * 255).round().byte().permute(1, 2, 0).numpy()


EXACT = {
    "equalize": (pixels.equalize, ImageOps.equalize),
    "autocontrast": (pixels.autocontrast, ImageOps.autocontrast),
    "invert": (pixels.invert, ImageOps.invert),
    **{
        f"posterize {bits}": (
            lambda x, bits=bits: pixels.posterize(x, torch.tensor([bits])),
            lambda x, bits=bits: ImageOps.posterize(x, bits),
        )
        for bits in range(1, 9)
    },
    **{
        f"solarize {level}": (
            lambda x, level=level: pixels.solarize(x, torch.tensor([level / 256])),
            lambda x, level=level: ImageOps.solarize(x, level),
        )
        for level in (0, 1, 77, 128, 200, 255, 256)
    },
}


@pytest.mark.parametrize("name", EXACT)
def test_result_is_pils_on_8_bits(name):
    ours, pils = EXACT[name]
    for picture in pictures():
        expected = np.asarray(pils(Image.fromarray(picture)))
        assert np.array_equal(to_picture(ours(to_tensor(picture))), expected)
        grey = to_tensor(picture)[:, :1]
        expected = np.asarray(pils(Image.fromarray(picture[:, :, 0])))
        assert np.array_equal(to_picture(ours(grey))[:, :, 0], expected)


ENHANCERS = {
    "brightness": (pixels.brightness, ImageEnhance.Brightness),
    "contrast": (pixels.contrast, ImageEnhance.Contrast),
    "saturation": (pixels.saturation, ImageEnhance.Color),
    "sharpness": (pixels.sharpness, ImageEnhance.Sharpness),
}


@pytest.mark.parametrize("name", ENHANCERS)
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.7, 1.0, 1.9])
def test_result_is_pils_within_its_rounding(name, factor):
    ours, pils = ENHANCERS[name]
    for picture in pictures():
        expected = np.asarray(pils(Image.fromarray(picture)).enhance(factor)).astype(int)
        got = to_picture(ours(to_tensor(picture), torch.tensor([factor]))).astype(int)
        assert np.abs(got - expected).max() <= 1 + factor


@pytest.mark.parametrize("turns", [0.0, 0.1, -0.3, 0.5])
def test_hue_is_the_standard_librarys(turns):
    picture = np.random.default_rng(0).random((6, 7, 3))
    got = pixels.hue(torch.from_numpy(picture).permute(2, 0, 1)[None], torch.tensor([turns]))[0].permute(
        1, 2, 0
    )
    for y in range(6):
        for x in range(7):
            h, s, v = colorsys.rgb_to_hsv(*picture[y, x])
            assert np.allclose(got[y, x], colorsys.hsv_to_rgb((h + turns) % 1, s, v), atol=1e-5)


def test_hue_leaves_grey_pixels_grey():
    grey = torch.rand(2, 1, 8, 8).expand(-1, 3, -1, -1)
    assert torch.allclose(pixels.hue(grey, torch.tensor([0.3, -0.2])), grey)


def test_inverting_twice_gives_the_image_back():
    images = torch.rand(4, 3, 28, 28)
    assert torch.allclose(pixels.invert(pixels.invert(images)), images, atol=1e-7)


def test_solarize_at_1_and_posterize_with_8_bits_change_nothing():
    images = torch.rand(4, 3, 28, 28)
    images[0] = 1
    assert torch.equal(Solarize(threshold=1).apply(images, draw()), images)
    assert torch.equal(Posterize(bits=8).apply(images, draw()), images)


def test_factor_1_changes_nothing():
    images = torch.rand(4, 3, 28, 28)
    for change in (pixels.brightness, pixels.contrast, pixels.saturation, pixels.sharpness, pixels.gamma):
        assert torch.allclose(change(images, torch.ones(4)), images, atol=1e-6), change


def test_amounts_differ_by_image():
    images = torch.rand(1, 3, 12, 12).expand(3, -1, -1, -1)
    amounts = torch.tensor([0.5, 1.0, 1.6])
    kernels = [
        pixels.brightness,
        pixels.contrast,
        pixels.saturation,
        pixels.sharpness,
        pixels.gamma,
        pixels.hue,
    ]
    for kernel in kernels:
        together = kernel(images, amounts)
        for i in range(3):
            assert torch.equal(together[i], kernel(images[:1], amounts[i : i + 1])[0]), kernel


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_gaussian_blur_is_scipys(sigma):
    picture = np.random.default_rng(0).random((28, 33))
    reach = int(np.ceil(3 * sigma))
    expected = ndimage.gaussian_filter(picture, sigma, mode="nearest", radius=reach)
    got = pixels.gaussian_blur(torch.from_numpy(picture).float()[None, None], torch.tensor([sigma]))
    assert np.allclose(got[0, 0], expected, atol=1e-5)


def test_gaussian_blur_of_almost_0_changes_nothing():
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(pixels.gaussian_blur(images, torch.tensor([0.0, 0.05])), images, atol=1e-6)


def test_gaussian_noise_has_the_standard_deviation_of_its_image():
    images = torch.full((50, 1, 64, 64), 0.5)
    noise = (GaussianNoise(std=[0.02, 0.1]).apply(images, draw()) - images).flatten(1)
    spread = noise.std(1)
    assert (spread > 0.018).all()
    assert (spread < 0.105).all()
    assert spread.std() > 0.01
    assert noise.mean().abs() < 1e-3


def test_jitter_leaves_hue_and_saturation_of_grey_images_alone():
    grey = torch.rand(8, 1, 16, 16)
    assert torch.equal(Jitter(brightness=0, contrast=0).apply(grey, draw()), grey)
    colour = torch.rand(8, 3, 16, 16)
    assert not torch.equal(Jitter(brightness=0, contrast=0).apply(colour, draw()), colour)


def test_tiny_images_have_no_inside_to_sharpen():
    images = torch.rand(2, 1, 2, 2)
    assert torch.equal(pixels.sharpness(images, torch.tensor([0.1, 1.9])), images)
