"""Samples of tar shards: found by their key, read in any order, and what is refused."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch

from ringfence import DataError
from ringfence.datasets.dataset_registry import load_data
from ringfence.engine.data import Plan, batches

from .saving import photos, png, shard


def load(base, path="a.tar", **options):
    return load_data("webdataset", {"path": path, **options}, base=base)


def npy(array, **keys):
    file = io.BytesIO()
    np.save(file, array, **keys)
    return file.getvalue()


def pairs(data):
    """Return the level of each picture with its class, of all samples in their order."""
    found = [part.stored(part.rows_at(torch.arange(len(part)))) for part in data.parts().values()]
    return sorted((int(i[0, 0, 0]), int(t)) for b in found for i, t in zip(b.inputs, b.targets, strict=True))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_sample_of_every_kind_of_tar_is_read_once(tmp_path, kind):
    # As long as no plain header can say, and with a dot in a folder.
    folder = f"v1.0/{'long/' * 30}ü/"
    folder = "v1.0/" if kind == tarfile.USTAR_FORMAT else folder
    for i in range(3):
        shard(tmp_path / f"a-{i:02}.tar", photos(10 * i, 10, folder), kind)

    data = load(tmp_path, "a-{00..02}.tar")

    assert pairs(data) == [(i, i % 3) for i in range(30)]
    assert data.train.num_classes == 3
    assert "30 samples in 3 shards" in data.notes


def test_shards_of_a_folder_are_parts_by_their_names(tmp_path):
    shard(tmp_path / "train-0.tar", photos(0, 9))
    shard(tmp_path / "train-1.tar", photos(9, 9))
    shard(tmp_path / "valid-0.tar", photos(30, 3))
    shard(tmp_path / "test.tar", photos(40, 6))
    shard(tmp_path / "trained-on-more.tar", photos(50, 3))

    data = load(tmp_path, ".")

    assert {name: len(part) for name, part in data.parts().items()} == {
        "train": 18,
        "validation": 3,
        "test": 6,
    }
    assert data.notes[0].endswith("shards 2 of 'train', 1 of 'val', 1 of 'test', 1 others are not read")
    for name in ("valid-0.tar", "test.tar"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"holds shards of train alone"):
        load(tmp_path, ".")


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_with_any_number_of_workers(tmp_path, workers):
    shard(tmp_path / "a.tar", photos(0, 20))

    def read(count):
        train = load(tmp_path, workers=count, size=[4, 4]).train
        plan = Plan(len(train), 4)
        return [b for b, _ in batches(train, plan, 3, first_step=0, steps_total=8, lr_factor=lambda _: 1.0)]

    found, expected = read(workers), read(0)

    assert len(found) == 8
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(a.targets, b.targets) for a, b in zip(found, expected, strict=True))


def test_names_of_classes_are_numbered_by_the_training_part_or_by_the_option(tmp_path):
    def named(begin, words):
        return [
            (f"{begin + i}.{ending}", data)
            for i, word in enumerate(words)
            for ending, data in (("png", png(i)), ("txt", word.encode()))
        ]

    shard(tmp_path / "a.tar", named(0, ["dog", "cat", "dog"]))
    shard(tmp_path / "b.tar", named(5, ["cat", "cow"]))
    shard(tmp_path / "c.tar", named(5, ["cat"]))

    data = load(tmp_path, target="txt", test_path="c.tar")
    given = load(tmp_path, target="txt", test_path="b.tar", class_names=["cow", "dog", "cat"])

    assert (data.train.class_names, data.train.targets.tolist()) == (("cat", "dog"), [1, 0])
    assert given.train.targets.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"b.tar: 6.txt: holds the class 'cow', which is none of those"):
        load(tmp_path, target="txt", test_path="b.tar")


def test_numbers_are_read_of_npy_and_json(tmp_path):
    members = [
        (f"{i}.{ending}", data)
        for i in range(10)
        for ending, data in (
            ("npy", npy(np.full((2, 3), i, ">f8"))),
            ("json", json.dumps([i / 2, 1]).encode()),
            ("y.txt", b" 1.5 "),
        )
    ]
    shard(tmp_path / "a.tar", members)

    data = load(tmp_path, inputs="npy", target="json", task="regression")
    alone = load(tmp_path, inputs="json", target="y.txt", task="regression")

    batch = data.train.stored(torch.tensor([4, 1]))
    assert batch.inputs.tolist() == [[[4.0] * 3] * 2, [[1.0] * 3] * 2]
    assert batch.targets.tolist() == [[2.0, 1.0], [0.5, 1.0]]
    assert alone.train.targets.tolist() == [[1.5], [1.5]]
    assert alone.train.num_classes is None


def link(kind, name="9.png"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return (info, b"")


GOOD = photos(0, 4)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([*GOOD, ("9.png", png(1))], r"sample '9' has no member '.cls', but .png"),
        ([*GOOD, ("9.cls", b"1")], r"sample '9' has 0 images, but .cls"),
        ([*GOOD, ("9.png", b""), ("9.jpg", b""), ("9.cls", b"1")], r"sample '9' has 2 images"),
        ([*GOOD, ("0001.png", png(1)), ("0001.cls", b"1")], r"sample '0001' is there twice"),
        ([*GOOD, ("9.png", png(1)), ("9.PNG", png(1))], r"sample '9' has two members '.png'"),
        ([("0.pyd", b""), *GOOD], r"a.tar: '0.pyd' is a pickle"),
        ([("0.Pickle", b""), *GOOD], r"a.tar: '0.Pickle' is a pickle"),
        ([("0.state.pth", b""), *GOOD], r"a.tar: '0.state.pth' is a pickle"),
        ([*GOOD, ("x/README", b"")], r"'x/README' is no member of a sample"),
        ([*GOOD, link(tarfile.SYMTYPE)], r"'9.png' is a link, a device"),
        ([*GOOD, link(tarfile.LNKTYPE)], r"'9.png' is a link, a device"),
        ([*GOOD, link(tarfile.FIFOTYPE)], r"'9.png' is a link, a device"),
        ([*GOOD, ("9.png", png(1)), ("9.cls", b"")], r"a.tar: 9.cls: holds no class"),
        ([*GOOD, ("9.png", png(1)), ("9.cls", b"\xff")], r"a.tar: 9.cls: is no text in UTF-8"),
        ([*GOOD, ("9.png", png(1)), ("9.cls", b"1" * 5000)], r"a.tar: 9.cls: has 5,000 bytes"),
        ([*GOOD, ("9.png", png(1)), ("9.cls", b"987654321987")], r"targets make 987,654,321,988 classes"),
        ([("0.png", b"no"), ("0.cls", b"1"), *GOOD[2:]], r"a.tar: 0.png: is no image that can be read"),
        ([], r"holds no samples"),
    ],
)
def test_what_is_no_sample_is_named_before_the_start(tmp_path, members, said):
    shard(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=said):
        load(tmp_path)


def behind(data):
    return data + data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-11000], r"was cut short"),
        (lambda data: data[: 512 * 6], r"was cut short"),
        (lambda _: b"", r"was cut short"),
        (behind, r"holds more behind its end"),
        (
            lambda data: data.replace(b"0001.cls", b"0001.clz"),
            r"is damaged, or no plain tar file .bad checksum",
        ),
        (lambda _: b"\x1f\x8b" * 512, r"is damaged, or no plain tar file"),
    ],
)
def test_a_shard_that_is_damaged_is_named(tmp_path, change, said):
    file = shard(tmp_path / "a.tar", GOOD)
    assert len(load(tmp_path).train) == 3
    file.write_bytes(change(file.read_bytes()))

    with pytest.raises(DataError, match=said):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "a-{0..2}.tar"}, r"a-0.tar: no such file"),
        ({"path": "a-{2..0}.tar"}, r"the pattern names no files"),
        ({"path": "a-{0..999}{0..999}.tar"}, r"or more than 100,000"),
        ({"path": "a.tar.gz"}, r"a.tar.gz: is no .tar; a packed one"),
        ({"path": "empty"}, r"holds no .tar"),
        ({"inputs": "txt"}, r"option 'inputs' is 'txt'; expected the ending of an image, npy or json"),
        ({"target": "mp4"}, r"option 'target' is 'mp4'"),
        ({"task": "regression", "class_names": ["a"]}, r"option 'class_names' is given"),
        ({"class_names": ["a", "b"]}, r"0002.cls: holds the class '2', which is none of those"),
    ],
)
def test_options_that_name_nothing_are_refused(tmp_path, options, said):
    (tmp_path / "empty").mkdir()
    shard(tmp_path / "a.tar", GOOD)
    with pytest.raises(DataError, match=said):
        load(tmp_path, **options)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            npy(np.array([{"a": 1}], object), allow_pickle=True),
            r"0.npy: holds object; objects would be unpickled",
        ),
        (npy(np.zeros(4))[:-8], r"0.npy: claims float64 of shape \(4,\), and holds 24 bytes"),
        (npy(np.zeros(4)).replace(b"(4,)", b"(9**9,)"), r"0.npy: is no .npy file"),
        (b"no", r"0.npy: is no .npy file"),
        (npy(np.array(["a"])), r"0.npy: holds <U1"),
    ],
)
def test_arrays_are_held_to_what_they_say_and_never_unpickled(tmp_path, data, said):
    shard(tmp_path / "a.tar", [("0.npy", data), ("0.cls", b"0"), ("1.npy", data), ("1.cls", b"1")])
    with pytest.raises(DataError, match=said):
        load(tmp_path, inputs="npy")


def test_pictures_that_differ_in_size_need_the_option(tmp_path):
    shard(tmp_path / "a.tar", [*GOOD, ("9.png", png(1, (3, 3))), ("9.cls", b"1")])

    data = load(tmp_path)
    with pytest.raises(DataError, match=r"9.png: is 3x3 pixels .*give option 'size'"):
        pairs(data)
    assert len(pairs(load(tmp_path, size=4))) == 5


def test_a_shard_that_changes_during_a_run_is_named(tmp_path):
    file = shard(tmp_path / "a.tar", GOOD)
    data = load(tmp_path)
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(DataError, match=r"a.tar: has changed since the run was prepared"):
        pairs(data)
