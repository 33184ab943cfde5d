"""Geometry against scipy's and OpenCV's resampling."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from ringfence import StepInfo
from ringfence.builtin.augment import warp
from ringfence.builtin.augment.draw import Draw
from ringfence.builtin.augment.geometry import (
    Affine,
    Crop,
    Elastic,
    Flip,
    Perspective,
    ResizedCrop,
    Rotate,
    _smoothing,
    _square_to_quadrilateral,
)

SIZES = [(28, 28), (32, 32), (17, 40)]


def draw(step=0):
    return Draw(StepInfo(step))


def read(image, matrix, fill=0.0):
    """Read ``image`` at inverse(matrix) @ (x, y, 1), bilinear, by scipy in double precision."""
    height, width = image.shape
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    y, x = np.mgrid[:height, :width]
    source = inverse @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    values = ndimage.map_coordinates(
        image.astype(np.float64), [source[1], source[0]], order=1, mode="grid-constant", cval=fill
    )
    return values.reshape(height, width)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("degrees", [0.0, 7.0, -30.0, 90.0, 170.0])
def test_rotation_equals_scipys_at_opencvs_matrix(size, degrees):
    height, width = size
    images = torch.rand(3, 1, height, width)
    got = warp.rotate(images, torch.full((3,), degrees), 0.3)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    for image, result in zip(images, got, strict=True):
        assert np.allclose(result[0], read(image[0].numpy(), matrix, 0.3), atol=2e-4)


def test_rotation_by_90_degrees_is_a_quarter_turn_counter_clockwise():
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(warp.rotate(images, torch.full((2,), 90.0)), images.rot90(1, (2, 3)), atol=1e-4)


def test_rotation_by_0_degrees_changes_nothing():
    images = torch.rand(2, 3, 28, 28)
    assert torch.allclose(Rotate(p=1, degrees=0).apply(images, draw()), images, atol=1e-5)


def test_opencv_agrees_on_a_smooth_image():
    y, x = np.mgrid[:64, :64]
    image = (0.5 + 0.4 * np.sin(x / 9) * np.cos(y / 7)).astype(np.float32)
    matrix = cv2.getRotationMatrix2D((31.5, 31.5), 25, 1.0)
    expected = cv2.warpAffine(image, matrix, (64, 64), flags=cv2.INTER_LINEAR)
    got = warp.rotate(torch.from_numpy(image)[None, None], torch.tensor([25.0]))[0, 0].numpy()
    # OpenCV rounds coordinates to 1/32 pixel.
    assert np.abs(got - expected)[8:-8, 8:-8].max() < 0.005


@pytest.mark.parametrize("size", SIZES)
def test_affine_equals_scipys_at_the_product_of_its_parts(size):
    height, width = size
    images = torch.rand(1, 1, height, width)
    op = Affine(p=1, degrees=[20, 20], translate=[0.1, 0.1], scale=1.2, shear=[15, 15], fill=0.5)
    angle, slope = np.deg2rad(20), np.tan(np.deg2rad(15))
    centre = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    shear = np.array([[1, slope, 0], [0, 1, 0], [0, 0, 1]])
    move = np.array([[1, 0, 0.1 * width], [0, 1, 0.1 * height], [0, 0, 1]])
    matrix = move @ centre @ np.diag([1.2, 1.2, 1]) @ turn @ shear @ np.linalg.inv(centre)
    got = op.apply(images, draw())[0, 0]
    assert np.allclose(got, read(images[0, 0].numpy(), matrix[:2], 0.5), atol=2e-4)


def test_affine_without_amounts_changes_nothing():
    images = torch.rand(4, 3, 32, 32)
    still = Affine(degrees=0, translate=0, scale=1, shear=0).apply(images, draw())
    assert torch.allclose(still, images, atol=1e-5)


@pytest.mark.parametrize(
    ("move", "dim", "rolled"), [(warp.translate_x, 3, 3), (warp.translate_y, 2, 3), (warp.translate_x, 3, -2)]
)
def test_translation_by_whole_pixels_shifts(move, dim, rolled):
    images = torch.rand(2, 1, 12, 12)
    got = move(images, torch.full((2,), float(rolled)), 0.0)
    expected = images.roll(rolled, dim)
    outside = slice(0, rolled) if rolled > 0 else slice(12 + rolled, None)
    expected.transpose(dim, 3)[..., outside] = 0
    assert torch.allclose(got, expected, atol=1e-5)


def test_amounts_differ_by_image():
    images = torch.rand(1, 1, 28, 28).expand(3, -1, -1, -1)
    degrees = torch.tensor([0.0, 10.0, 20.0])
    together = warp.rotate(images, degrees)
    for i in range(3):
        assert torch.equal(together[i], warp.rotate(images[:1], degrees[i : i + 1])[0])


@pytest.mark.parametrize(("axis", "dim"), [("horizontal", 3), ("vertical", 2)])
def test_flip_mirrors(axis, dim):
    images = torch.rand(2, 3, 5, 7)
    assert torch.equal(Flip(p=1, axis=axis).apply(images, draw()), images.flip(dim))


@pytest.mark.parametrize(
    ("mode", "numpy_mode"), [("constant", "constant"), ("reflect", "reflect"), ("edge", "edge")]
)
def test_crop_cuts_all_windows_of_the_padded_image(mode, numpy_mode):
    images = torch.rand(1, 2, 6, 9).expand(300, -1, -1, -1)
    result = Crop(padding=2, mode=mode).apply(images, draw())
    padded = np.pad(images[0].numpy(), [(0, 0), (2, 2), (2, 2)], mode=numpy_mode)
    windows = {padded[:, y : y + 6, x : x + 9].tobytes(): (y, x) for y in range(5) for x in range(5)}
    seen = {windows[image.contiguous().numpy().tobytes()] for image in result}
    assert len(seen) == 25


def test_crop_refuses_to_reflect_more_than_there_is():
    with pytest.raises(ValueError, match="cannot reflect 8 pixels of images of 8x8"):
        Crop(padding=8, mode="reflect").apply(torch.rand(1, 1, 8, 8), draw())


def test_resized_crop_of_the_whole_image_changes_nothing():
    images = torch.rand(4, 1, 30, 30)
    assert torch.allclose(ResizedCrop(scale=1, ratio=1).apply(images, draw()), images, atol=1e-5)


def test_resized_crop_draws_areas_and_ratios_of_the_paper():
    high, wide = ResizedCrop(scale=[0.1, 0.4], ratio=[0.5, 2])._sizes(draw(), 5000, 150, 150)
    area, ratio = high * wide / 22_500, wide / high
    assert area.min() >= 0.0999
    assert area.max() <= 0.4001
    assert area.mean().item() == pytest.approx(0.25, abs=0.01)
    assert ratio.log().mean().item() == pytest.approx(0, abs=0.05)
    assert ratio.min() >= 0.499
    assert ratio.max() <= 2.001


def test_resized_crop_takes_the_largest_centred_part_where_nothing_fits():
    high, wide = ResizedCrop(scale=1, ratio=1)._sizes(draw(), 3, 20, 40)
    assert torch.allclose(high, torch.full((3,), 20.0))
    assert torch.allclose(wide, torch.full((3,), 20.0))


def test_resized_crop_enlarges_a_ramp_to_a_ramp():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(50, 1, 64, 64)
    result = ResizedCrop(scale=0.25, ratio=1).apply(ramp, draw())
    slopes = result.diff(dim=3)[..., 8:-8]
    assert torch.allclose(slopes, torch.full_like(slopes, 0.5 / 63), atol=1e-4)


def test_projection_of_the_square_equals_opencvs():
    rng = np.random.default_rng(0)
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    for _ in range(20):
        corners = (square + rng.uniform(-0.3, 0.3, (4, 2))).astype(np.float32)
        expected = cv2.getPerspectiveTransform(square, corners)
        got = torch.stack(_square_to_quadrilateral(torch.from_numpy(corners)[:, :, None])).view(3, 3)
        assert np.allclose(got, expected, atol=1e-4)


def test_perspective_puts_the_image_inside_its_frame():
    result = Perspective(p=1, distortion=0.5).apply(torch.ones(50, 1, 40, 40), draw())
    assert (result[:, 0, 20, 20] > 0.99).all()
    assert result.mean() < 0.9
    still = Perspective(p=1, distortion=0).apply(torch.rand(2, 1, 16, 16), draw())
    assert torch.isfinite(still).all()


def test_perspective_without_distortion_changes_nothing():
    images = torch.rand(2, 3, 20, 28)
    assert torch.allclose(Perspective(distortion=0).apply(images, draw()), images, atol=1e-4)


def test_elastic_with_no_strength_changes_nothing():
    images = torch.rand(3, 3, 28, 28)
    assert torch.allclose(Elastic(alpha=0).apply(images, draw()), images, atol=1e-5)


def test_elastic_smooths_its_field_as_scipys_gaussian():
    field = np.random.default_rng(0).random((1, 30))
    expected = ndimage.gaussian_filter1d(field, 3.0, mode="constant", truncate=4.0)
    # scipy cuts the Gaussian at four sigma, the matrix at the border of the image.
    assert np.allclose(field @ _smoothing(30, 3.0).t().double().numpy(), expected, atol=5e-4)


def test_elastic_moves_pixels_by_about_as_much_as_the_paper():
    ramp = torch.arange(29.0).view(1, 1, 1, 29).expand(200, 1, 29, 29) / 28
    moved = (Elastic(p=1).apply(ramp, draw()) - ramp)[..., 10:-10] * 28
    assert 0.5 < moved.std() < 3
