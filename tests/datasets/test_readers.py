"""Readers of data, and what they say of data that does not fit."""

from __future__ import annotations

import gzip
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ringfence import DataError
from ringfence.datasets.dataset_registry import DATASETS, check_data, load_data
from ringfence.datasets.split import split
from ringfence.engine.data import Data
from ringfence.job.function_options import OptionError
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.run.ingredients import build

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def write_idx(path: Path, array: np.ndarray, *, kind: int = 8, gz: bool = False) -> None:
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data, mtime=0) if gz else data)


@pytest.fixture
def digits(tmp_path) -> Path:
    """Make a folder with MNIST's names: 6 + 4 images of 3x5 pixels, half of the files compressed."""
    images = np.arange(10 * 15, dtype=np.uint8).reshape(10, 3, 5)
    labels = np.arange(10, dtype=np.uint8) % 3
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images[:6], gz=True)
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels[:6])
    write_idx(tmp_path / "t10k-images-idx3-ubyte", images[6:])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels[6:], gz=True)
    return tmp_path


def load(name: str, base: Path, **options) -> Data:
    return load_data(name, options, base=base)


# the data set in the package


def test_mnist10k_holds_8000_and_2000_different_digits_of_all_classes(tmp_path):
    data = load("mnist10k", tmp_path)
    assert data.train.inputs.shape == (8000, 1, 28, 28)
    assert data.test.inputs.shape == (2000, 1, 28, 28)
    assert data.train.inputs.dtype == torch.uint8
    images = torch.cat([data.train.inputs, data.test.inputs])
    assert len({image.numpy().tobytes() for image in images}) == 10_000
    shares = data.train.targets.bincount() / data.test.targets.bincount()
    assert ((shares - 4).abs() < 0.03).all()


def test_mnist10k_is_shuffled_so_that_any_part_has_all_classes(tmp_path):
    data = load("mnist10k", tmp_path)
    assert (data.train.targets[:300].bincount(minlength=10) > 10).all()


def test_limit_spreads_over_the_data(tmp_path):
    data = load("mnist10k", tmp_path, limit=100)
    assert len(data.train) == len(data.test) == 100
    whole = load("mnist10k", tmp_path)
    assert torch.equal(data.train.inputs, whole.train.inputs[::80])


def test_auto_normalisation_is_mean_and_spread_of_the_training_images(tmp_path):
    data = load("mnist10k", tmp_path)
    scaled = data.train.inputs.double() / 255
    assert data.mean == pytest.approx((scaled.mean().item(),), rel=1e-9)
    assert data.std == pytest.approx((scaled.std(correction=0).item(),), rel=1e-9)


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("none", (None, None)),
        ({"mean": 0.5, "std": 0.25}, ((0.5,), (0.25,))),
        ({"mean": [0.5], "std": [0.25]}, ((0.5,), (0.25,))),
    ],
)
def test_normalisation_is_what_the_job_says(digits, normalize, expected):
    data = load("idx", digits, path=".", normalize=normalize)
    assert (data.mean, data.std) == expected


def test_licence_names_authors_licence_and_paper():
    text = (Path(sys.modules["ringfence.datasets"].__file__).parent / "mnist10k/LICENSE.txt").read_text()
    for words in ("LeCun", "CC BY-SA 3.0", "10.1109/5.726791", "10,000 of the 70,000", "exact to the grey"):
        assert words in text


# IDX


def test_idx_reads_a_folder_of_plain_and_compressed_files(digits):
    data = load("idx", digits.parent, path=digits.name, class_names=["a", "b", "c"])
    assert data.train.inputs.shape == (6, 1, 3, 5)
    assert data.train.inputs[1, 0, 0].tolist() == [15, 16, 17, 18, 19]
    assert data.test.targets.tolist() == [0, 1, 2, 0]
    assert data.train.class_names == ("a", "b", "c")


def test_idx_file_given_by_name_beats_the_folder(digits):
    write_idx(digits / "other", np.ones((6, 3, 5), np.uint8))
    data = load("idx", digits, path=".", train_images="other")
    assert data.train.inputs.unique().tolist() == [1]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], "is cut short: shape 6x3x5 needs 90 bytes, it holds 89"),
        (lambda data: data + b"x", "has more than its header says"),
        (lambda data: data[:9], "cut short in its header"),
        (lambda data: b"", "starts with nothing"),
        (lambda data: b"\x89PNG" + data, "starts with 89 50 4e 47; an IDX file starts with 00 00"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "4294967295x4294967295x4294967295 needs"),
        (lambda data: gzip.compress(data)[:-20], "is damaged or cut short"),
        (lambda data: gzip.compress(data)[:10] + b"\xff" * 40, "is damaged or cut short"),
        (lambda data: data[:2] + b"\x0d" + data[3:], "cut short"),
    ],
)
def test_damaged_idx_file_is_named(digits, damage, said):
    images = np.zeros((6, 3, 5), np.uint8)
    write_idx(digits / "damaged", images)
    (digits / "damaged").write_bytes(damage((digits / "damaged").read_bytes()))
    with pytest.raises(DataError, match="damaged: ") as caught:
        load("idx", digits, path=".", train_images="damaged")
    assert said in str(caught.value)


def test_idx_labels_in_place_of_images_are_told(digits):
    with pytest.raises(
        DataError, match=r"train-labels-idx1-ubyte: holds torch.uint8 of 1 dim.*images are bytes of 3"
    ):
        load("idx", digits, path=".", train_images="train-labels-idx1-ubyte")


def test_idx_tells_which_file_a_folder_lacks(digits):
    (digits / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match=r"holds no t10k-images-idx3-ubyte.*option 'test_images'"):
        load("idx", digits, path=".")


def test_idx_tells_that_labels_and_images_differ_in_number(digits):
    with pytest.raises(DataError, match="holds 4 labels for 6 images in"):
        load("idx", digits, path=".", train_labels="t10k-labels-idx1-ubyte.gz")


def test_idx_without_files_asks_for_them(tmp_path):
    with pytest.raises(DataError, match="option 'train_images' is missing"):
        load("idx", tmp_path)


# folders


def picture(path: Path, *, size=(6, 4), mode="RGB", value=100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode != "RGB" else (value, 0, 0)).save(path)


def test_folder_reads_train_and_test(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for name, value in (("cat", 10), ("dog", 20)):
            for i in range(count):
                picture(tmp_path / part / name / f"{i}.png", value=value)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    data = load("folder", tmp_path, path=".")
    assert data.train.inputs.shape == (6, 3, 4, 6)
    assert data.train.class_names == ("cat", "dog")
    assert data.test.targets.tolist() == [0, 0, 1, 1]
    assert data.test.inputs[:, 0, 0, 0].tolist() == [10, 10, 20, 20]


@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("other", ["val", "valid", "validation", "test", "testing", "VAL"])
def test_folder_knows_the_usual_names_of_parts(tmp_path, train, other):
    for part, count in ((train, 3), (other, 1)):
        for name in ("cat", "dog"):
            for i in range(count):
                picture(tmp_path / part / name / f"{i}.png")
    data = load("folder", tmp_path, path=".")
    is_test = other.startswith("test")
    assert {name: len(part) for name, part in data.parts().items()} == {
        "train": 6,
        "test" if is_test else "validation": 2,
    }
    assert data.train.class_names == ("cat", "dog")
    use = f"tests on '{other}' at the end" if is_test else f"is judged by '{other}'"
    assert data.notes == (f"{tmp_path}: trains on '{train}', {use}", "2 classes: cat, dog")


def test_folder_is_judged_by_val_and_leaves_test_for_the_end(tmp_path):
    for part, value in (("train", 1), ("val", 2), ("test", 3), ("spare", 4)):
        picture(tmp_path / part / "cat" / "0.png", value=value)
    data = load("folder", tmp_path, path=".")
    assert [part.inputs[:, 0, 0, 0].tolist() for part in data.parts().values()] == [[1], [2], [3]]
    use = "trains on 'train', is judged by 'val', tests on 'test' at the end; 'spare' is not read"
    assert data.notes[0].endswith(use)


def test_idx_reads_validation_files_by_name(digits):
    files = {"validation_images": "t10k-images-idx3-ubyte", "validation_labels": "t10k-labels-idx1-ubyte.gz"}
    data = load("idx", digits, path=".", **files)
    assert torch.equal(data.validation.inputs, data.test.inputs)
    assert torch.equal(data.validation.targets, data.test.targets)
    files.pop("validation_labels")
    with pytest.raises(DataError, match="option 'validation_labels' is missing; give both, or neither"):
        load("idx", digits, path=".", **files)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            ("train/a/0.png",),
            "holds 'train' and neither 'val' nor 'test' beside it; add one of them, or",
        ),
        (("train/a/0.png", "holdout/a/0.png"), "holds 'train' and neither 'val' nor 'test' beside it"),
        (("valid/a/0.png",), "holds 'valid' and no folder 'train' beside it; add that"),
        (("train/a/0.png", "training/a/0.png", "val/a/0.png"), "holds both 'train' and 'training'; keep one"),
        (("train/a/0.png", "val/a/0.png", "valid/a/0.png"), "holds both 'val' and 'valid'; keep one of them"),
        (("train/0.png", "valid/0.png"), "train: holds no sub folders; expected one for each class"),
    ],
)
def test_half_of_a_pair_of_parts_is_no_class(tmp_path, files, said):
    for file in files:
        picture(tmp_path / file)
    with pytest.raises(DataError, match=said):
        load("folder", tmp_path, path=".")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        for i in range(4):
            picture(tmp_path / name / f"{i}.png")
    assert load("folder", tmp_path, path=".").train.class_names == ("bus", "train")


def test_folder_splits_each_class_by_its_share(tmp_path):
    for name, count in (("a", 10), ("b", 20)):
        for i in range(count):
            picture(tmp_path / name / f"{i}.png", value=i)
    data = load("folder", tmp_path, path=".", test_fraction=0.3, greyscale=True)
    assert data.test.targets.bincount().tolist() == [3, 6]
    assert data.train.inputs.shape == (21, 1, 4, 6)
    again = load("folder", tmp_path, path=".", test_fraction=0.3, greyscale=True)
    other = load("folder", tmp_path, path=".", test_fraction=0.3, greyscale=True, split_seed=1)
    assert torch.equal(data.test.inputs, again.test.inputs)
    assert not torch.equal(data.test.inputs, other.test.inputs)


def test_folder_resizes(tmp_path):
    picture(tmp_path / "a" / "0.png", size=(9, 9))
    picture(tmp_path / "a" / "1.png", size=(5, 8))
    with pytest.raises(DataError, match=r"1.png: is 8x5 pixels.*0.png 9x9; give option 'size'"):
        load("folder", tmp_path, path=".")
    assert load("folder", tmp_path, path=".", size=[7, 3]).train.inputs.shape[1:] == (3, 7, 3)


@pytest.mark.parametrize(
    ("mode", "greyscale", "channels"),
    [
        ("L", False, 3),
        ("RGBA", True, 1),
        ("P", False, 3),
        ("CMYK", True, 1),
        ("1", True, 1),
        ("LA", False, 3),
    ],
)
def test_folder_converts_modes(tmp_path, mode, greyscale, channels):
    for i in range(2):
        picture(tmp_path / "a" / f"{i}.{'tif' if mode == 'CMYK' else 'png'}", mode=mode, value=1)
    data = load("folder", tmp_path, path=".", greyscale=greyscale)
    assert data.train.inputs.shape[1] == channels


def test_folder_names_an_image_that_cannot_be_read(tmp_path):
    picture(tmp_path / "a" / "0.png")
    (tmp_path / "a" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a/1.png: is no image that can be read"):
        load("folder", tmp_path, path=".")


def test_folder_names_an_image_that_is_cut_short(tmp_path):
    picture(tmp_path / "a" / "0.png", size=(64, 64))
    data = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "a" / "1.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a/1.png: is damaged"):
        load("folder", tmp_path, path=".")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "holds no sub folders"),
        (lambda root: (root / "a").mkdir(), "a: holds no images"),
        (
            lambda root: [picture(root / p / "0.png") for p in ("train/a", "test/a", "test/b")],
            "test/b: is a class without training images",
        ),
        (lambda root: picture(root / "a" / "0.png"), "1 samples cannot be split"),
    ],
)
def test_folder_without_what_it_needs_is_told(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(DataError, match=said):
        load("folder", tmp_path, path=".")


# arrays


def test_npz_and_safetensors_give_the_same(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 5))
    y = np.arange(20) % 4
    np.savez(tmp_path / "d.npz", inputs=x, targets=y)
    save_file({"inputs": torch.tensor(x), "targets": torch.tensor(y)}, tmp_path / "d.safetensors")
    a, b = (load("arrays", tmp_path, path=f"d.{kind}") for kind in ("npz", "safetensors"))
    assert torch.equal(a.train.inputs, b.train.inputs)
    assert a.train.inputs.dtype == torch.float32
    assert (a.train.num_classes, len(a.train), len(a.test)) == (4, 16, 4)
    assert a.mean is None


def test_arrays_take_keys_and_test_samples_of_their_own(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), y=[0, 1, 2], xt=np.ones((2, 2)), yt=[0, 5])
    keys = {"inputs": "x", "targets": "y", "test_inputs": "xt", "test_targets": "yt"}
    data = load("arrays", tmp_path, path="d.npz", **keys)
    assert (len(data.train), len(data.test)) == (3, 2)
    assert data.train.num_classes == data.test.num_classes == 6


def test_targets_of_a_regression_are_rows(tmp_path):
    np.savez(tmp_path / "d.npz", inputs=np.ones((10, 3)), targets=np.linspace(0, 1, 10))
    data = load("arrays", tmp_path, path="d.npz")
    assert data.train.num_classes is None
    assert data.train.targets.shape == (8, 1)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((8, 6, 6), "auto", (1, 6, 6)),
        ((8, 6, 5, 3), "auto", (3, 6, 5)),
        ((8, 3, 6, 5), "auto", (3, 6, 5)),
        ((8, 4, 6, 3), "channels_first", (4, 6, 3)),
        ((8, 4, 6, 3), "channels_last", (3, 4, 6)),
        ((8, 64, 7, 7), "auto", (64, 7, 7)),
        ((8, 12, 12, 10), "channels_first", (12, 12, 10)),
        ((8, 12, 12, 10), "channels_last", (10, 12, 12)),
    ],
)
def test_images_get_their_channels_first(tmp_path, shape, layout, expected):
    np.savez(tmp_path / "d.npz", inputs=np.zeros(shape, np.uint8), targets=np.arange(8) % 2)
    assert load("arrays", tmp_path, path="d.npz", layout=layout).train.inputs.shape[1:] == expected


@pytest.mark.parametrize(
    ("arrays", "options", "said"),
    [
        ({"inputs": np.ones((4, 2)), "labels": [0, 1, 0, 1]}, {"targets": "label"}, "did you mean 'labels'"),
        (
            {"inputs": np.ones((4, 2)), "labels": [0, 1, 0, 1]},
            {"targets": "label"},
            r"'labels'\? Write 'targets: labels' if",
        ),
        ({"x": np.ones((4, 2)), "y": [0, 1, 0, 1]}, {}, "known: x, y. Write 'inputs: x' if that is it"),
        ({"x": np.ones((4, 2)), "y": [0, 1, 0, 1]}, {"inputs": "x"}, "known: x, y. Write 'targets: y' if"),
        ({}, {}, "which the file does not hold; there are none.$"),
        (
            {"inputs": np.ones((4, 2)), "targets": [0, -1, 0, 1]},
            {},
            r"d\.npz\['targets'\]: targets hold -1",
        ),
        (
            {"inputs": np.ones((4, 2)), "labels": [0.5] * 4},
            {"task": "classification", "targets": "labels"},
            r"d\.npz\['labels'\]: targets hold fractions",
        ),
        (
            {"inputs": np.array(["a"] * 4), "targets": [0] * 4},
            {},
            r"\['inputs'\]: .*: give numbers, as values\.astype\('float32'\) are$",
        ),
        (
            {"inputs": np.ones((4, 2)), "targets": ["a", "b"] * 2},
            {},
            r"\['targets'\]: .*: number the classes, as np\.unique",
        ),
        ({"inputs": np.ones((4, 2)), "targets": [0, 1]}, {}, "4 inputs, but 2 targets"),
        ({"inputs": np.full((4, 2), np.nan), "targets": [0, 1, 0, 1]}, {}, "not finite"),
        ({"inputs": np.ones(4), "targets": [0, 1, 0, 1]}, {}, r"expected \(N, …\)"),
        ({"inputs": np.ones((4, 2)), "targets": [0, -1, 0, 1]}, {}, "hold -1, which is no class; .*unique"),
        (
            {"inputs": np.ones((4, 2)), "targets": [0.5] * 4},
            {"task": "classification"},
            "fractions, such as 0.5, which are no classes; to predict numbers write loss: mse",
        ),
        ({"inputs": np.ones((4, 2)), "targets": np.eye(4)}, {"task": "classification"}, r"by .argmax\(1\)"),
        (
            {"inputs": np.ones((4, 2)), "targets": [0, 7, 0, 7]},
            {"classes": 7},
            "to 7, option 'classes' is 7",
        ),
        (
            {"inputs": np.ones((4, 2)), "targets": [0, 3_000_000, 0, 0]},
            {},
            "makes 3,000,001 classes, .* of 4 samples with 2 different targets; .*, say so with 'classes'",
        ),
        (
            {"inputs": np.ones((4, 2)), "targets": [0, 1e300, 0, 0]},
            {"task": "classification"},
            "classes, and",
        ),
        (
            {"inputs": np.ones((4, 2)), "targets": [np.nan, 1, 0, 0]},
            {"task": "classification"},
            "targets hold values that are not finite",
        ),
        ({"inputs": np.full((4, 2), 1e300), "targets": [0] * 4}, {}, r"holds 1e\+300, too large for float32"),
        ({"inputs": np.ones((4, 2)), "targets": [1e300] * 4}, {}, r"targets: .*holds 1e\+300, too large for"),
        ({"inputs": np.ones((4, 12, 12, 10)), "targets": [0] * 4}, {}, "ambiguous; give option 'layout'"),
        ({"inputs": np.ones((4, 3, 9, 3)), "targets": [0] * 4}, {}, "ambiguous; give option 'layout'"),
        ({"inputs": np.array(["a"] * 4), "targets": [0] * 4}, {}, "expected numbers"),
        (
            {"inputs": np.array([{}] * 4, object), "targets": [0] * 4},
            {},
            "cannot be read as .npz: Object arrays .*; nothing is unpickled: save an array of numbers",
        ),
        ({"inputs": np.ones((4, 2), complex), "targets": [0] * 4}, {}, "expected numbers"),
        ({"inputs": np.ones((4, 3, 5, 4), np.uint8), "targets": [0] * 4}, {}, "ambiguous"),
    ],
)
def test_arrays_that_do_not_fit_are_told(tmp_path, arrays, options, said):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=said) as caught:
        load("arrays", tmp_path, path="d.npz", **options)
    assert "d.npz" in str(caught.value)


# classes, and what the loss is for

OUTPUTS = "the model has an output for each all the same"
FROM_ONE = ". Do your targets start at 1? Classes start at 0: subtract 1"


def labelled(folder, targets, test_targets=None):
    arrays = {"inputs": np.ones((len(targets), 2)), "targets": targets}
    if test_targets is not None:
        arrays |= {"test_inputs": np.ones((len(test_targets), 2)), "test_targets": test_targets}
    np.savez(folder / "d.npz", **arrays)


@pytest.mark.parametrize(
    ("targets", "notes"),
    [
        ([0, 1], ("2 classes",)),
        (
            [1, 2],
            (
                "3 classes",
                "no training samples of 1 of 3 classes: 0; " + OUTPUTS + FROM_ONE,
                "no test samples of 1 of 3 classes: 0",
            ),
        ),
        (
            [0, 20],
            (
                "21 classes",
                "no training samples of 19 of 21 classes: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 9 more; "
                + OUTPUTS,
                "no test samples of 19 of 21 classes: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 9 more",
            ),
        ),
    ],
)
def test_classes_without_samples_are_told(tmp_path, targets, notes):
    labelled(tmp_path, targets * 10)
    assert load("arrays", tmp_path, path="d.npz").notes == notes


def test_a_thousand_classes_and_more_are_taken_in_proportion_or_where_they_are_meant(tmp_path):
    labelled(tmp_path, [0, 999, 0, 0])
    assert load("arrays", tmp_path, path="d.npz").train.num_classes == 1000
    labelled(tmp_path, np.arange(3000) % 1500)
    assert load("arrays", tmp_path, path="d.npz").train.num_classes == 1500
    labelled(tmp_path, [0, 1500, 0, 0])
    with pytest.raises(DataError, match="which makes 1,501 classes"):
        load("arrays", tmp_path, path="d.npz")
    assert load("arrays", tmp_path, path="d.npz", classes=2000).train.num_classes == 2000


def test_classes_of_test_samples_count_too(tmp_path):
    labelled(tmp_path, [0, 1, 0, 1], [0, 1_000_000])
    with pytest.raises(DataError, match="which makes 1,000,001 classes"):
        load("arrays", tmp_path, path="d.npz")


@pytest.mark.parametrize("kind", ["arrays", "function"])
@pytest.mark.parametrize(
    ("targets", "task", "dtype"),
    [
        (np.arange(20) % 2, "regression", torch.float32),
        (np.arange(20) % 2, "classification", torch.int64),
        (np.arange(20) % 2, "auto", torch.int64),
        (np.arange(20) % 2.0, "regression", torch.float32),
        (np.arange(20) % 2.0, "classification", torch.int64),
        (np.arange(20) % 2.0, "auto", torch.float32),
        (200_000 + np.arange(20), "regression", torch.float32),
    ],
)
def test_the_loss_decides_what_whole_numbers_are(user, targets, task, dtype, kind):
    labelled(user, targets, targets)
    name, options = ("arrays", {"path": "d.npz"}) if kind == "arrays" else ("own_data_module:file", {})
    data = load_data(name, options, base=user, task=task)
    assert data.train.targets.dtype == data.test.targets.dtype == dtype
    assert data.train.num_classes == (2 if dtype == torch.int64 else None)
    assert data.train.targets.flatten().tolist() == targets.tolist()


@pytest.mark.parametrize(("loss", "metric", "classes"), [("mse", "mae", None), ("cross_entropy", "f1", 2)])
def test_the_loss_of_the_job_is_what_decides(tmp_path, loss, metric, classes):
    labelled(tmp_path, np.arange(20) % 2)
    text = f"model: mlp\ndata: {{name: arrays, path: d.npz}}\nsteps: 1\nloss: {loss}\nmetric: {metric}\n"
    assert build(check_job(parse_yaml(text, "job.yaml")), tmp_path).data.train.num_classes == classes


def test_the_option_beats_the_loss(tmp_path):
    labelled(tmp_path, np.arange(20) % 2)
    for task, count in (("classification", 2), ("regression", None)):
        for other in ("classification", "regression"):
            data = load_data("arrays", {"path": "d.npz", "task": task}, base=tmp_path, task=other)
            assert data.train.num_classes == count


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.npz", b"garbage", "cannot be read as .npz"),
        ("d.safetensors", b"garbage", "cannot be read as safetensors"),
        ("d.csv", b"1,2", "expected .npz or .safetensors"),
        ("d.npz", None, "no such file"),
    ],
)
def test_array_file_that_cannot_be_read_is_told(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        load("arrays", tmp_path, path=name)


# the user's own function


MODULE = """
import numpy as np, torch
from ringfence.engine.data import Data, Dataset

def pairs(n=4, mixed=False, sure: bool | None = None):
    return (np.ones((n, 3)), np.arange(n) % 2), (torch.ones(2, 3), torch.tensor([0, 1]))

def file():
    import pathlib
    held = np.load(pathlib.Path(__file__).parent / "d.npz")
    return (held["inputs"], held["targets"]), (held["test_inputs"], held["test_targets"])

def whole():
    part = Dataset(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64), 3)
    return Data(part, part, (0.5, 0.5), (2.0, 2.0))

def four():
    return (*pairs()[0], *(np.asarray(part) for part in pairs()[1]))

def three():
    return (1, 2, 3), (4, 5)

def holed():
    inputs = np.ones((4, 3))
    inputs[3], inputs[2, 1], inputs[3, 2] = np.nan, np.inf, 1.0
    return (np.ones((4, 3)), np.arange(4) % 2), (inputs, np.arange(4) % 2)

def wrong():
    return [1, 2, 3]

def broken():
    raise RuntimeError("no data today")

constant = 3
"""


@pytest.fixture
def user(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_data_module.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("own_data_module", None)


def test_function_beside_the_job_gives_pairs(user):
    data = load("own_data_module:pairs", user, n=6)
    assert (len(data.train), len(data.test), data.train.num_classes) == (6, 2, 2)


def test_data_of_the_users_keep_their_normalisation(user):
    data = load("own_data_module:whole", user)
    assert (data.mean, data.std) == ((0.5, 0.5), (2.0, 2.0))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("own_data_module:wrong", {}, r"returned list of 3 \(int, int, int\); expected Data"),
        (
            "own_data_module:four",
            {},
            r"of 4 \(ndarray, ndarray, ndarray, ndarray\); expected .*: return \(x, y\), \(x_test, y_test\)$",
        ),
        ("own_data_module:three", {}, r"returned tuple of 2 \(tuple of 3, tuple of 2\); expected Data"),
        (
            "own_data_module:holed",
            {},
            "test inputs hold values that are not finite: 3 of 12, the first in sample 2, counted from 0;",
        ),
        ("own_data_module:broken", {}, "raised RuntimeError: no data today"),
        ("own_data_module:missing", {}, "has no 'missing'"),
        ("own_data_module:constant", {}, "is a int, not a function"),
        ("no_such_module_here:f", {}, "could not be imported"),
        ("own_data_module:", {}, "not of the form module:function"),
        ("own_data_module:pairs", {"m": 1}, "option 'm' is unknown"),
        ("own_data_module:pairs", {"mixed": "off"}, "'mixed' expected true or false, got the text 'off'"),
        ("own_data_module:pairs", {"sure": "off"}, "'sure' expected true or false, got the text 'off'"),
    ],
)
def test_function_that_does_not_fit_is_told(user, name, options, said):
    with pytest.raises(DataError, match=said) as caught:
        load(name, user, **options)
    assert name in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"limit": 20}])
def test_a_sample_that_is_not_finite_is_named_by_its_place_in_the_file(tmp_path, options):
    inputs = np.ones((40, 2))
    inputs[::5] = np.nan
    inputs[0] = 1
    np.savez(tmp_path / "d.npz", inputs=inputs, targets=np.arange(40) % 2)
    with pytest.raises(DataError, match=r"14 of 80, the first in sample 5, counted from 0"):
        load("arrays", tmp_path, path="d.npz", **options)


# names and options


def test_unknown_reader_is_told_with_the_nearest(tmp_path):
    with pytest.raises(DataError, match="did you mean 'mnist10k'"):
        load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("idx", {"pth": "x"}, "option 'pth' is unknown; did you mean 'path'"),
        ("mnist10k", {"limit": 0}, "'limit' 0 is out of range"),
        ("mnist10k", {"limit": "5"}, "'limit' expected a whole number"),
        ("mnist10k", {"limit": True}, "'limit'"),
        ("mnist10k", {"normalize": {"mean": 1}}, "'normalize'"),
        ("mnist10k", {"normalize": {"mean": 1, "std": math.inf}}, "'normalize'"),
        ("folder", {"path": "x", "greyscale": "no"}, "'greyscale' expected true or false, got the text 'no'"),
        ("folder", {}, "option 'path' is missing"),
        ("folder", {"path": "x", "test_fraction": 1.0}, "'test_fraction'"),
    ],
)
def test_option_that_does_not_fit_is_told_before_anything_is_read(tmp_path, name, options, said):
    with pytest.raises(OptionError, match=said):
        check_data(name, options)
    with pytest.raises(DataError, match=said):
        load(name, tmp_path, **options)


@pytest.mark.parametrize("size", ["64x48", "64, 48"])
def test_a_size_in_words_is_told_as_it_is_written(tmp_path, size):
    with pytest.raises(
        DataError, match=rf"expected .* a list, got the text '{size}'; did you mean \[64, 48\]\?"
    ):
        load("folder", tmp_path, path=".", size=size)


def test_split_gives_each_class_its_share_and_keeps_one_for_training():
    targets = torch.tensor([0] * 50 + [1] * 30 + [2])
    train, test = split(targets, 3, 0.2, seed=0)
    assert targets[test].bincount(minlength=3).tolist() == [10, 6, 0]
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(81))


def test_documentation_names_every_reader_and_option():
    text = DOCS.read_text()
    for name, reader in DATASETS.items():
        assert f"## `{name}`" in text
        for option in reader.__kwdefaults__ or {}:
            assert f"`{option}`" in text
