"""Images with masks, and images with boxes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ringfence import DataError
from ringfence.datasets.dataset_registry import load_data

MASK = np.array([[0, 1, 255], [2, 0, 1]], np.uint8)


def image(path, size=(3, 2), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def mask(path, pixels=MASK):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def masks(tmp_path):
    for part in ("train", "val"):
        for i in range(2):
            image(tmp_path / part / "images" / f"{i}.jpg")
            mask(tmp_path / part / "masks" / f"{i}.png")
    return tmp_path


def load(name, base, **options):
    return load_data(name, {"path": ".", **options}, base=base)


def test_each_pixel_has_the_class_that_its_number_says(masks):
    data = load("segmentation", masks)

    assert data.train.inputs.shape == (2, 3, 2, 3)
    assert data.train.targets[0].tolist() == [[0, 1, -100], [2, 0, 1]]
    assert data.train.num_classes == 3
    assert len(data.validation) == 2
    assert load("segmentation", masks, ignore=2, classes=["a", "b", *map(str, range(254))]).train.targets[
        0
    ].tolist() == [[0, 1, 255], [-100, 0, 1]]


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_masks_are_grey_two_coloured_or_have_a_palette(masks, mode):
    if mode == "I;16":
        made = Image.fromarray(np.array([[0, 1, 1], [1, 0, 1]], np.uint16))
    else:
        made = Image.new(mode, (3, 2))
        made.putdata([0, 1, 1, 1, 0, 1] if mode != "1" else [0, 255, 255, 255, 0, 255])
        if mode == "P":
            made.putpalette([0, 0, 0, 200, 30, 30])
    for part in ("train", "val"):
        for i in range(2):
            made.save(masks / part / "masks" / f"{i}.png")

    assert load("segmentation", masks).train.targets[0].tolist() == [[0, 1, 1], [1, 0, 1]]


def test_masks_are_resized_without_making_classes_that_are_none(tmp_path):
    for i in range(4):
        image(tmp_path / "images" / f"{i}.png", (8, 8))
        mask(tmp_path / "masks" / f"{i}.png", np.repeat(np.array([0, 200], np.uint8), 4)[None].repeat(8, 0))

    data = load("segmentation", tmp_path, size=[4, 6], test_fraction=0.25)

    assert data.train.inputs.shape == (3, 3, 4, 6)
    assert data.train.targets.unique().tolist() == [0, 200]
    assert data.train.targets.shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (
            lambda p: (p / "train/masks/0.png").unlink(),
            {},
            r"images/0\.jpg: has no mask in .*masks of the same",
        ),
        (
            lambda p: (p / "val/images/1.jpg").unlink(),
            {},
            r"masks/1\.png: has no image in .*images of the same",
        ),
        (
            lambda p: mask(p / "train/masks/0.png", MASK.T),
            {},
            r"masks/0\.png: is 3x2 pixels .*, its image 2x3",
        ),
        (
            lambda p: image(p / "train/masks/0.png"),
            {},
            r"0\.png: is of mode RGB, and the mask of 0\.jpg; expected",
        ),
        (lambda p: None, {"classes": ["a", "b"]}, r"holds class 2, and option 'classes' names 2, from 0 on"),
        (lambda p: image(p / "train/images/0.png"), {}, "holds both '0.jpg' and '0.png'; keep one"),
        (lambda p: (p / "train/masks/0.png").write_bytes(b"no"), {}, r"0\.png: is no mask that can be read"),
    ],
)
def test_images_and_masks_that_do_not_fit_are_told(masks, change, options, said):
    change(masks)

    with pytest.raises(DataError, match=said):
        load("segmentation", masks, **options)


COCO = {
    "images": [
        {"id": 7, "file_name": "b.png", "width": 20, "height": 10},
        {"id": 3, "file_name": "a.png", "width": 20, "height": 10},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 9, "bbox": [2, 1, 10, 5], "area": 50, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 20, 10]},
        {"id": 3, "image_id": 7, "category_id": 4, "bbox": [0, 0, 20, 10], "iscrowd": 1},
    ],
    "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
}


@pytest.fixture
def boxes(tmp_path):
    for part in ("train", "test"):
        for name, value in (("a", 10), ("b", 20)):
            image(tmp_path / part / f"{name}.png", (20, 10), value)
        (tmp_path / part / "annotations.json").write_text(json.dumps(COCO))
    return tmp_path


def test_boxes_are_corners_of_the_image_as_it_is_read_and_filled_up(boxes):
    data = load("detection", boxes, size=[20, 10])

    assert data.train.inputs[:, 0, 0, 0].tolist() == [10, 20]
    found, labels = data.train.targets["boxes"], data.train.targets["labels"]
    # Half as wide and twice as high; cat is 0, and a crowd is no box.
    assert found.tolist() == [[[-1] * 4] * 2, [[1, 2, 6, 12], [0, 0, 10, 20]]]
    assert labels.tolist() == [[-100, -100], [1, 0]]
    assert data.train.num_classes is None
    assert data.notes[-1].startswith("2 labels: 0 cat, 1 dog; images have up to 2 of them")


def test_boxes_of_a_folder_without_parts_are_split(boxes):
    data = load(
        "detection", boxes / "train", annotations="../test/annotations.json", test_fraction=0.5, max_boxes=5
    )

    assert (len(data.train), len(data.test)) == (1, 1)
    assert data.train.targets["boxes"].shape == (1, 5, 4)


def changed(**changes):
    return {**json.loads(json.dumps(COCO)), **changes}


@pytest.mark.parametrize(
    ("coco", "options", "said"),
    [
        (
            changed(annotations=[{"image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1]}]),
            {},
            "annotation 0.*of a image",
        ),
        (
            changed(annotations=[{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}]),
            {},
            "of a category that",
        ),
        (
            changed(annotations=[{"image_id": 7, "category_id": 9, "bbox": [0, 0, 0, 1]}]),
            {},
            "have to be above 0",
        ),
        (
            changed(annotations=[{"image_id": 7, "category_id": 9, "bbox": [0, 1]}]),
            {},
            "is not as COCO writes",
        ),
        (changed(images=[{**COCO["images"][0], "file_name": "../test/b.png"}]), {}, "does not lie below"),
        (
            changed(images=[{**COCO["images"][0], "file_name": "c.png"}], annotations=[]),
            {},
            "and there is no",
        ),
        (
            changed(images=[{**COCO["images"][0], "width": 30}], annotations=[]),
            {},
            "is 10x20 pixels .* says 10x30",
        ),
        (changed(images=COCO["images"] * 2), {}, "two images have one id"),
        (changed(images=[], annotations=[]), {}, "names no images"),
        (COCO, {"max_boxes": 1}, "an image has 2 boxes, and option 'max_boxes' is 1"),
        ([], {}, "is not as COCO writes boxes"),
    ],
)
def test_boxes_that_do_not_fit_are_told(boxes, coco, options, said):
    (boxes / "train" / "annotations.json").write_text(json.dumps(coco))

    with pytest.raises(DataError, match=said):
        load("detection", boxes, **options)


def test_labels_of_parts_have_to_mean_the_same(boxes):
    other = changed(categories=[{"id": 9, "name": "cow"}, {"id": 4, "name": "cat"}])
    (boxes / "test" / "annotations.json").write_text(json.dumps(other))

    with pytest.raises(DataError, match="has other categories than the training part"):
        load("detection", boxes)
