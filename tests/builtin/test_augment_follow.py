"""Masks and boxes move as the images do: pixels say where they come from, and what stays is seen."""

from __future__ import annotations

import pytest
import torch

from ringfence import Batch, StepInfo
from ringfence.builtin.augment import Augment, external_targets, follow, policy, warp
from ringfence.plugins.result_checks import check_batch

pytestmark = pytest.mark.usefixtures("one_thread")

SIDES = 40, 48
COUNT = 6
#: x0, y0, x1, y1; the third is none.
BOXES = torch.tensor([[4.0, 6.0, 20.0, 30.0], [26.0, 12.0, 44.0, 20.0], [0.0, 0.0, 0.0, 0.0]])
LABELS = torch.tensor([3, 0, -100])

OURS = {
    "flip": [{"flip": {"p": 1}}],
    "flip vertically": [{"flip": {"p": 1, "axis": "vertical"}}],
    "flip some": ["flip"],
    "crop": [{"crop": {"padding": 9}}],
    "crop reflected": [{"crop": {"padding": 9, "mode": "reflect"}}],
    "resized_crop": [{"resized_crop": {"scale": [0.3, 0.9]}}],
    "affine": [{"affine": {"p": 1, "shear": 15, "degrees": 40}}],
    "rotate": [{"rotate": {"p": 0.8, "degrees": 60}}],
    "perspective": [{"perspective": {"p": 1}}],
    "elastic": [{"elastic": {"p": 1, "alpha": 90}}],
    "randaugment": [{"randaugment": {"n": 1}}],
    "trivialaugment": ["trivialaugment"],
    "several": [{"flip": {"p": 1}}, {"rotate": {"p": 1}}, {"crop": {"padding": 3}}],
}
FOREIGN = {
    "Affine": {"rotate": [-40, 40], "shear": [-10, 10]},
    "CropAndPad": {"px": [3, 6]},
    "D4": {},
    "ElasticTransform": {"alpha": 80, "sigma": 8},
    "GridDistortion": {"distort_limit": [-0.7, 0.7]},
    "HorizontalFlip": {},
    "OpticalDistortion": {"distort_limit": [0.7, 0.9]},
    "Perspective": {"scale": [0.1, 0.2]},
    "RandomResizedCrop": {"size": list(SIDES), "scale": [0.3, 0.8]},
    "RandomRotate90": {},
    "Rotate": {},
    "SafeRotate": {},
    "ThinPlateSpline": {},
    "VerticalFlip": {},
}
PIPELINES = OURS | {
    name: [{name: {**options, "p": 1.0}}, {"Resize": {"height": SIDES[0], "width": SIDES[1]}}]
    for name, options in FOREIGN.items()
}
#: Of these albumentations moves a few points, and takes the box around them.
ROUGH = {"GridDistortion", "ThinPlateSpline"}
#: Where there is an image, but none of the picture's own.
RIGHT = {"crop reflected": "no class where there is image"}


@pytest.fixture(autouse=True)
def only_moves(monkeypatch):
    """Let the policies choose among moves only: a change of grey levels would hide where pixels come from."""
    for name in ("RAND_MENU", "WIDE_MENU"):
        menu = [change for change in getattr(policy, name) if isinstance(change.kernel, warp.Warp)]
        assert len(menu) == 5
        monkeypatch.setattr(policy, name, tuple(menu))


def positions():
    """Return images that hold the place of each pixel, and 1 where there is any, and the masks that do."""
    height, width = SIDES
    row, column = torch.arange(height)[:, None], torch.arange(width)
    x, y = (column + 0.5).expand(SIDES) / width, (row + 0.5).expand(SIDES) / height
    images = torch.stack([x, y, torch.ones(SIDES)]).expand(COUNT, -1, -1, -1)
    return images, (row * width + column).expand(COUNT, -1, -1)


def moved(ops, targets, num_classes=None):
    batch = Batch(positions()[0], targets, torch.arange(COUNT), num_classes)
    result = Augment(ops).forward(batch, StepInfo(99, steps_total=100, seed=3))
    check_batch(result, batch)
    return result


def differs(result, tolerance):
    """Return what a moved mask says that the moved image does not, or nothing."""
    height, width = SIDES
    x, y, there = result.inputs.unbind(1)
    x, y, mask = x * width - 0.5, y * height - 0.5, result.targets
    says_outside = mask == -100
    far = ((mask % width) - x).abs().maximum((mask.div(width, rounding_mode="floor") - y).abs()) > tolerance
    if bool((far & ~says_outside & (there > 0.999)).any()):
        return "a class from elsewhere"
    if bool((~says_outside & (there < 0.001)).any()):
        return "a class where there is no image"
    on_edge = (x < 0.6) | (x > width - 1.6) | (y < 0.6) | (y > height - 1.6)
    if bool((says_outside & (there > 0.999) & ~on_edge).any()):
        return "no class where there is image"
    return "" if bool((~says_outside).float().mean() > 0.25) else "next to nothing"


def tolerance_of(name):
    # Half a pixel for the nearest one, a mask at each of several moves; OpenCV has places of its own for it.
    return 1.1 if name in FOREIGN or name == "several" else 0.55


@pytest.mark.parametrize("name", PIPELINES)
def test_a_mask_moves_as_its_image(name):
    result = moved(PIPELINES[name], positions()[1], SIDES[0] * SIDES[1])
    assert differs(result, tolerance_of(name)) == RIGHT.get(name, "")


@pytest.mark.parametrize("name", PIPELINES)
def test_a_mask_that_stays_would_be_seen(name, monkeypatch):
    monkeypatch.setattr(follow, "move_masks", lambda masks, move: masks)
    monkeypatch.setattr(external_targets.Masks, "take", lambda self, place, moved: None)
    result = moved(PIPELINES[name], positions()[1], SIDES[0] * SIDES[1])
    assert differs(result, tolerance_of(name)) != RIGHT.get(name, "")


def box_targets():
    return {
        "boxes": BOXES.expand(COUNT, -1, -1),
        "labels": LABELS.expand(COUNT, -1),
        "image_id": torch.arange(COUNT),
    }


def painted():
    """Return masks with class 1 in the first box and 2 in the second."""
    masks = torch.zeros(COUNT, *SIDES, dtype=torch.int64)
    for number, (x0, y0, x1, y1) in enumerate(BOXES[:2].int().tolist(), 1):
        masks[:, y0:y1, x0:x1] = number
    return masks


def box_faults(name):
    """Return where boxes are not around what moved masks show of them."""
    boxes, masks = moved(PIPELINES[name], box_targets()).targets, moved(PIPELINES[name], painted(), 3).targets
    assert torch.equal(boxes["labels"][:, 2], LABELS[2:].expand(COUNT))
    assert boxes["boxes"][:, 2].eq(0).all()
    assert torch.equal(boxes["image_id"], torch.arange(COUNT))
    most = 9.0 if name in ROUGH else 2.0
    edge = torch.tensor([0.0, 0.0, SIDES[1], SIDES[0]])
    faults = []
    for i in range(COUNT):
        for j in range(2):
            box, label, seen = boxes["boxes"][i, j], boxes["labels"][i, j], (masks[i] == j + 1).nonzero()
            if label == -100:
                faults += ["gone"] * bool(
                    box.any() or (len(seen) and (seen.amax(0) - seen.amin(0)).min() > 2)
                )
                continue
            assert label == LABELS[j]
            if not len(seen):
                faults += ["still there"] * bool((box[2:] - box[:2]).min() > 2)
                continue
            around = torch.cat([seen.amin(0).flip(0), seen.amax(0).flip(0) + 1])
            outwards = torch.tensor([-1, -1, 1, 1]) * (box - around)
            faults += ["within"] * bool((outwards < -2.0).any())
            # Corners that are cut off may leave a box larger than what is seen of it.
            whole = not bool((around == edge).any())
            faults += ["too large"] * bool(whole and (outwards > most).any())
    return faults


@pytest.mark.parametrize("name", PIPELINES)
def test_boxes_move_as_their_images(name):
    assert box_faults(name) == []


@pytest.mark.parametrize("name", PIPELINES)
def test_boxes_that_stay_would_be_seen(name, monkeypatch):
    def keep(self, place, moved):
        self._moved[place] = torch.from_numpy(self._shares[place])

    monkeypatch.setattr(follow, "move_boxes", lambda boxes, move, height, width: boxes)
    monkeypatch.setattr(external_targets.Boxes, "take", keep)
    assert box_faults(name) != []


def test_boxes_are_exact_to_parts_of_a_pixel_where_the_move_is():
    boxes = torch.tensor([[[3.25, 5.5, 17.125, 9.75]]])
    batch = Batch(
        torch.zeros(1, 1, *SIDES), {"boxes": boxes, "labels": torch.ones(1, 1).long()}, torch.arange(1)
    )
    once = Augment([{"flip": {"p": 1}}]).forward(batch, StepInfo(0))
    assert once.targets["boxes"].tolist() == [[[48 - 17.125, 5.5, 48 - 3.25, 9.75]]]
    twice = Augment([{"flip": {"p": 1}}]).forward(once, StepInfo(0))
    assert torch.equal(twice.targets["boxes"], boxes)


@pytest.mark.parametrize(
    "op",
    [{"affine": {"p": 1, "translate": [1, 1], "degrees": 0}}, {"Affine": {"translate_percent": 1.0, "p": 1}}],
)
def test_boxes_that_leave_the_picture_are_gone(op):
    result = moved([op], box_targets()).targets
    assert result["labels"].eq(-100).all()
    assert result["boxes"].eq(0).all()
    assert result["boxes"].shape == (COUNT, 3, 4)


def test_fill_mask_is_a_class():
    ops = [{"Affine": {"translate_percent": 1.0, "fill_mask": 2, "p": 1}}]
    assert moved(ops, painted(), 3).targets.eq(2).all()


def test_classes_beyond_a_byte_and_below_0_move():
    targets = painted() * 1000
    targets[:, :3] = -1
    result = moved([{"VerticalFlip": {"p": 1}}], targets, 3000).targets
    assert torch.equal(result, targets.flip(1).where(targets.flip(1) >= 0, -100))


REFUSED = {
    "mixup of masks": (["mixup"], painted(), 3, r"ops\[0\] mixup: it mixes samples .* targets are masks"),
    "cutmix of boxes": (["cutmix"], box_targets(), None, r"ops\[0\] cutmix: .* the targets are boxes"),
    "mosaic of masks": (["mosaic"], painted(), 3, r"mosaic: it mixes samples"),
    "augmix of masks": (["augmix"], painted(), 3, r"augmix: it moves pixels, and the targets are masks"),
    "augmix of boxes": (["augmix"], box_targets(), None, r"augmix: .* boxes, which cannot follow"),
    "masks of another size": (["flip"], painted()[:, ::2], 3, r"\(40, 48\), .* classes at \(20, 48\)"),
    "blended classes": (
        [{"Rotate": {"mask_interpolation": 1}}], painted(), 3, r"ops\[0\] Rotate: mask_interpolation 1",
    ),
    "boxes without labels": (["flip"], {"boxes": torch.zeros(6, 2, 4)}, None, r"'labels' \(B, M\)"),
    "key points": (
        ["flip"], {**box_targets(), "keypoints": torch.zeros(6, 3, 2)}, None, "'keypoints' of the targets",
    ),
    "other pictures": (["flip"], {"depth": torch.zeros(6, *SIDES)}, None, "targets of this job are images"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_follow_is_refused(case):
    ops, targets, classes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        moved(ops, targets, classes)


@pytest.mark.parametrize("kind", ["masks", "boxes"])
@pytest.mark.parametrize("op", ["mixup", "cutmix", "fmix", "mosaic", "augmix", "token_mixup"])
def test_what_cannot_follow_is_refused_before_there_is_a_batch_where_the_kind_is_told(op, kind):
    Augment(["flip", op])
    with pytest.raises(ValueError, match=rf"ops\[1\] {op}: it .* the targets are {kind}"):
        Augment(["flip", op], target_kind=kind)


def test_what_can_follow_is_not_refused():
    ops = [op for ops in PIPELINES.values() for op in ops]
    for kind in ("masks", "boxes"):
        Augment([*ops, "cutout", "brightness", {"token_dropout": {"id": 1}}], target_kind=kind)
    with pytest.raises(ValueError, match=r"ops\[1\] Rotate: mask_interpolation 1"):
        Augment(["flip", {"Rotate": {"mask_interpolation": 1}}], target_kind="masks")


def test_a_transform_without_boxes_is_refused(monkeypatch):
    import albumentations

    kind = albumentations.HorizontalFlip
    monkeypatch.setattr(kind, "_targets", tuple(t for t in kind._targets if t.name != "BBOXES"))
    with pytest.raises(ValueError, match=r"ops\[0\] HorizontalFlip: it does not move the boxes"):
        moved([{"HorizontalFlip": {"p": 1}}], box_targets())
    moved([{"HorizontalFlip": {"p": 1}}], painted(), 3)


def test_what_stays_in_place_leaves_masks_and_boxes_alone():
    for ops in ([{"brightness": {"p": 1}}], ["cutout"], [{"GaussNoise": {"p": 1}}]):
        assert torch.equal(moved(ops, painted(), 3).targets, painted())
        assert torch.equal(moved(ops, box_targets()).targets["boxes"], box_targets()["boxes"])
