"""Transforms of albumentations by name: results, seeds, sizes, messages, silence."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from ringfence import Batch, StepInfo
from ringfence.builtin.augment import Augment, external
from ringfence.builtin.augment.draw import Draw
from ringfence.builtin.augment.external import Transform, transform_names
from ringfence.builtin.augment.images import Converter, Spares
from ringfence.plugins.result_checks import check_batch

#: Work on grey and colour with these options and give no warning.
PLAIN = """
    AdditiveNoise AdvancedBlur AutoContrast Blur CLAHE ChannelShuffle CoarseDropout ColorJitter D4
    Defocus Downscale Emboss Equalize Erasing FancyPCA GaussNoise GaussianBlur GlassBlur
    GridDistortion GridDropout HorizontalFlip Illumination ImageCompression InvertImg MedianBlur
    Morphological MotionBlur MultiplicativeNoise NoOp OpticalDistortion Perspective PixelDropout
    PlasmaBrightnessContrast PlasmaShadow Posterize RandomBrightnessContrast RandomGamma
    RandomGridShuffle RandomRotate90 RandomShadow RandomToneCurve RingingOvershoot Rotate SafeRotate
    SaltAndPepper Sharpen ShotNoise Solarize SquareSymmetry ThinPlateSpline ToFloat Transpose
    UnsharpMask VerticalFlip ZoomBlur
"""
BOTH = {name: {} for name in PLAIN.split()} | {
    "Affine": {"rotate": [-10, 10]},
    "ElasticTransform": {"alpha": 30},
    "XYMasking": {"num_masks_x": 1, "num_masks_y": 1, "mask_x_length": 4, "mask_y_length": 4},
}
COLOUR = (
    "ChannelDropout",
    "ChromaticAberration",
    "HueSaturationValue",
    "ISONoise",
    "PlanckianJitter",
    "RGBShift",
    "RandomFog",
    "RandomRain",
    "RandomSnow",
    "RandomSunFlare",
    "Spatter",
    "ToGray",
    "ToSepia",
)


def make_batch(channels=1, side=28, count=4):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand((count, channels, side, side), generator=generator)
    return Batch(inputs, torch.arange(count), torch.arange(10, 10 + count), count)


def of_8_bits(batch):
    return dataclasses.replace(batch, inputs=(batch.inputs * 255).round() / 255)


def step(seed=0):
    return StepInfo(5, seed=seed)


@pytest.mark.parametrize("name", [*BOTH, *COLOUR])
def test_transform_runs_by_name_and_repeats(name):
    for batch in (make_batch(1, 28), make_batch(3, 32), of_8_bits(make_batch(3, 32)))[name in COLOUR :]:
        augment = Augment([{name: {**BOTH.get(name, {}), "p": 1.0}}])
        result = augment.forward(batch, step())
        check_batch(result, batch)
        assert result.inputs.min() >= 0
        assert result.inputs.max() <= 1
        assert result.targets is batch.targets
        assert torch.equal(result.inputs, augment.forward(batch, step()).inputs)


def test_a_sample_gets_the_same_result_in_any_order_and_company():
    augment = Augment(
        [{"ElasticTransform": {"alpha": 30, "p": 0.7}}, {"albumentations.GaussNoise": {"p": 0.7}}]
    )
    batch = make_batch(count=8)
    whole = augment.forward(batch, step())
    order = torch.tensor([5, 2, 7])
    part = dataclasses.replace(
        batch, inputs=batch.inputs[order], targets=batch.targets[order], indices=batch.indices[order]
    )
    assert torch.equal(augment.forward(part, step()).inputs, whole.inputs[order])


def test_samples_steps_and_places_in_the_list_get_their_own_seeds():
    image = torch.full((1, 28, 28), 0.5)
    batch = Batch(image.expand(3, 1, 28, 28), torch.arange(3), torch.arange(3), 3)
    once = Augment([{"GaussNoise": {"p": 1.0}}])
    first, second = once.forward(batch, step()).inputs, once.forward(batch, step(1)).inputs
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    later = Augment([{"NoOp": {}}, {"GaussNoise": {"p": 1.0}}]).forward(batch, step()).inputs
    assert not torch.equal(first, later)


def test_p_is_the_transforms_own_and_of_a_sample():
    batch = make_batch(count=200, side=8)
    result = Augment([{"HorizontalFlip": {"p": 0.3}}]).forward(batch, step())
    share = (result.inputs != batch.inputs).flatten(1).any(1).float().mean()
    assert 0.2 < share < 0.4


def test_a_flip_equals_our_own():
    batch = make_batch(3, 32)
    assert torch.equal(
        Augment([{"HorizontalFlip": {"p": 1.0}}]).forward(batch, step()).inputs, batch.inputs.flip(3)
    )


def test_own_operations_and_transforms_mix():
    batch = make_batch(3, 32)
    ops = ["flip", {"GaussianBlur": {"p": 1.0}}, {"Sharpen": {"p": 1.0}}, "mixup", {"InvertImg": {"p": 1.0}}]
    result = Augment(ops).forward(batch, step())
    check_batch(result, batch)
    assert result.targets.shape == (4, 4)


def test_a_change_of_size_is_refused_by_name():
    augment = Augment(["flip", {"CenterCrop": {"height": 20, "width": 24, "p": 1.0}}])
    with pytest.raises(
        ValueError, match=r"^ops\[1\] CenterCrop: it changed the size from 28x28 to 20x24; add Resize"
    ):
        augment.forward(make_batch(), step())


def test_a_later_transform_may_restore_the_size():
    batch = make_batch()
    resize = {"Resize": {"height": 28, "width": 28}}
    result = Augment([{"RandomScale": {"p": 1.0}}, {"RandomCropFromBorders": {}}, resize]).forward(
        batch, step()
    )
    check_batch(result, batch)


def test_levels_of_8_bits_come_back_as_numbers_from_0_to_1():
    batch = make_batch()
    result = Augment([{"FromFloat": {"dtype": "uint8", "p": 1.0}}]).forward(batch, step())
    assert torch.allclose(result.inputs, batch.inputs, atol=0.5 / 255 + 1e-6)


def test_images_of_8_bits_are_given_as_such_and_others_as_floats():
    seen = []

    def note(image):
        seen.append(image.dtype.name)
        return {"image": image}

    batch = make_batch(count=3, channels=3)
    levels = of_8_bits(batch).inputs
    levels[1] = levels[1] * 0.999 + 0.0001
    chain = Augment(["NoOp"])._ops[0][1]
    object.__setattr__(chain.transforms[0], "transform", note)

    changed = chain.change(dataclasses.replace(batch, inputs=levels), Draw(step()))

    assert seen == ["uint8", "float32", "uint8"]
    assert torch.equal(changed.inputs, levels)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_channels_go_through_and_come_back(channels):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (70, channels, 40, 56), generator=generator, dtype=torch.uint8)
    for inputs in (levels / 255, torch.rand(3, channels, 40, 56, generator=generator)):
        converter, back = Converter(), torch.empty(inputs.shape)
        for part in converter.parts(inputs):
            images = converter.to_images(inputs[part])
            assert {image.shape for image in images} == {(40, 56, channels)}
            converter.from_images(images, back[part])
        assert torch.equal(back, inputs)


def test_memory_of_a_result_is_used_again_only_when_nobody_holds_it():
    spares, shape = Spares(), torch.Size((2, 3))
    first = spares.take(shape)
    address, view = first.data_ptr(), first[1:]
    del first
    second = spares.take(shape)
    assert second.data_ptr() != address
    del view, second
    assert spares.take(shape).data_ptr() == address
    assert spares.take(torch.Size((5,))).shape == (5,)


def test_a_transform_that_fails_on_floats_is_given_8_bits():
    class OnlyBytes:
        def __call__(self, image, *, force_apply=False):
            if image.dtype != np.uint8:
                raise TypeError("only uint8")
            return {"image": 255 - image}

    changed = Transform("OnlyBytes", 0, OnlyBytes()).apply(np.full((4, 4, 1), 0.2, np.float32))["image"]
    assert changed.dtype == np.uint8
    assert (changed == 204).all()


WRONG = [
    (
        {"ElasticTransfrom": {}},
        r"ops\[0\] ElasticTransfrom: albumentations has no .*did you mean ElasticTransform",
    ),
    ("albumentations.elastic", "albumentations has no transform"),
    (
        "MixUp",
        r"ops\[0\] MixUp: albumentations has no .* \(ringfence's own operation is 'mixup'\)",
    ),
    (
        {"Rotate": {"limits": 3}},
        r"ops\[0\] Rotate: no option 'limits'; did you mean limit\?; it takes limit, ",
    ),
    ({"GaussNoise": {"per_channel": "no"}}, "GaussNoise: per_channel is the text 'no'; write true or false"),
    ("Resize", r"ops\[0\] Resize: it needs the option height, width"),
    (
        {"Rotate": {"p": 2}},
        r"ops\[0\] Rotate: albumentations refuses these options: .* less than or equal to 1",
    ),
    ("Normalize", "cannot be used: batches are normalised after augmentation"),
    ("ToTensorV2", "cannot be used"),
    ("Mosaic", r"it needs mosaic_metadata, .*ringfence's own operation is 'mosaic'"),
    ("FDA", "it needs fda_metadata, which a batch of images does not have"),
    ("MaskDropout", "it needs mask,"),
    ("CoarseDropout3D", "it needs volume,"),
    ("Compose", "albumentations has no transform of this name"),
]


@pytest.mark.parametrize(("item", "message"), WRONG, ids=[str(item) for item, _ in WRONG])
def test_wrong_transform_says_what_would_be_right(item, message):
    with pytest.raises(ValueError, match=message):
        Augment([item])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"BBoxSafeRandomCrop": {"p": 1.0}}, r"ops\[0\] BBoxSafeRandomCrop: it needs the input 'bboxes'"),
        (
            {"ChannelDropout": {"p": 1.0}},
            r"ops\[0\] ChannelDropout: NotImplementedError: Images has one channel",
        ),
        ({"Crop": {"x_max": 99, "y_max": 99, "p": 1.0}}, r"ops\[0\] Crop: ValueError: "),
        (
            {"ToRGB": {"p": 1.0}},
            r"ops\[0\] ToRGB: it made an image of shape \(28, 28, 3\) from one of \(28, 28, 1\)",
        ),
    ],
)
def test_a_transform_that_fails_on_an_image_is_named(item, message):
    augment = Augment([item])
    with pytest.raises(ValueError, match=message):
        augment.forward(make_batch(), step())


def test_names_hold_over_a_hundred_transforms_and_no_base_class():
    found = transform_names()
    assert len(found) > 100
    assert not {"BasicTransform", "DualTransform", "ImageOnlyTransform", "Compose"} & {*found}


@pytest.mark.parametrize("missing", ["albumentations", "cv2"])
def test_what_is_missing_is_told_with_what_installs_it(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    external._library.cache_clear()
    with pytest.raises(
        ValueError, match=rf"need {missing}, which is not installed; install it with: pip"
    ) as told:
        Augment(["HorizontalFlip"])

    assert str(told.value).startswith("ops[0] HorizontalFlip: ")
    assert "pip install 'ringfence[albumentations]'" in str(told.value)


def test_nothing_looks_up_a_server_or_warns():
    code = """
import socket, sys, warnings
warnings.simplefilter("error")
def trap(*arguments, **options):
    print("looked up", arguments, file=sys.stderr); raise SystemExit(9)
socket.getaddrinfo = socket.gethostbyname = socket.socket.connect = trap
import torch
from ringfence import Batch, StepInfo
from ringfence.builtin.augment import Augment, external
assert "albumentations" not in sys.modules and "cv2" not in sys.modules
Augment(["mixup", "randaugment"])
assert "albumentations" not in sys.modules and "cv2" not in sys.modules
augment = Augment([{"Rotate": {"p": 1.0}}])
augment.forward(Batch(torch.rand(2, 1, 28, 28), torch.arange(2), torch.arange(2), 2), StepInfo(0))
import cv2
assert cv2.getNumThreads() == 1, cv2.getNumThreads()
"""
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
