"""Every kind of data: read in order, in the model's form, or refused by name."""

import gzip
import io
import os
import pickle
import struct
import threading
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ringfence import DataError
from ringfence.datasets import image_file, image_folder
from ringfence.inference.inputs import photos, stored_array
from ringfence.inference.inputs.open_source import open_source
from ringfence.inference.inputs.sample_form import SampleForm

GREY = SampleForm((1, 4, 5), in_bytes=True)
COLOUR = SampleForm((3, 4, 5), in_bytes=True)
ROWS = SampleForm((3,), in_bytes=False)


def read(data, form, batch_size=3, **options):
    """Return all samples, their indices and files, and the notes."""
    source = open_source(data, form, **options)
    parts = list(source.chunks(batch_size))
    assert all(0 < len(part.inputs) <= batch_size for part in parts)
    indices = [index for part in parts for index in part.indices]
    files = [file for part in parts for file in part.files or ()]
    inputs = torch.cat([part.inputs for part in parts])
    assert inputs.dtype == (torch.uint8 if form.in_bytes else torch.float32)
    return inputs, indices, files, source.notes


def some_bytes(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def some_rows(count=7):
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


@pytest.fixture
def images(tmp_path):
    """Seven greyscale images of 4x5, some in folders, and what they hold in the order of their names."""
    pixels = some_bytes(7, 4, 5)
    names = ["a.png", "b/c.png", "b/d/e.png", "b/f.png", "g.png", "h.bmp", "z.PNG"]
    for name, image in zip(names, pixels, strict=True):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "photos", names, torch.from_numpy(pixels)[:, None]


# photos


def test_a_folder_is_read_in_the_order_of_its_names_at_any_depth(images):
    folder, names, pixels = images

    inputs, indices, files, notes = read(folder, GREY)

    assert torch.equal(inputs, pixels)
    assert (indices, files) == (list(range(7)), names)
    assert notes == ["photos are read as 4x5 (height x width) in greyscale"]


def test_photos_are_read_as_training_reads_them(tmp_path):
    """Resized, turned upright and made of three channels, or one, by the same code."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for part in ("train", "test"):
        for i in range(2):
            folder = tmp_path / part / "cat"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = some_bytes(9 + i, 11, 3)
            Image.fromarray(pixels).save(folder / f"{i}.jpg", exif=exif)
    for greyscale, form in ((False, COLOUR), (True, GREY)):
        trained = image_folder.folder(path=tmp_path, size=(4, 5), greyscale=greyscale)
        inputs, _, _, notes = read(tmp_path / "test" / "cat", form)
        assert torch.equal(inputs, trained.test.inputs)
    assert notes[-1] == (
        "2 of 2 photos were resized to 4x5 (height x width), what the model takes; the first: '0.jpg', 11x9"
    )


def test_files_are_read_in_the_order_in_which_they_are_given(images):
    folder, _, pixels = images

    inputs, _, files, _ = read([folder / "g.png", str(folder / "a.png")], GREY)

    assert torch.equal(inputs, pixels[[4, 0]])
    assert files == [f"{folder}/g.png", f"{folder}/a.png"]
    assert torch.equal(read(folder / "g.png", GREY)[0], pixels[[4]])


def test_what_is_no_image_by_name_is_told_and_what_is_hidden_is_not(images):
    folder, _, pixels = images
    (folder / "b" / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").write_bytes(b"")

    inputs, _, _, notes = read(folder, GREY)

    assert torch.equal(inputs, pixels)
    assert notes[0] == f"{folder}: 1 file is no image by name and is not read: 'b/notes.txt'"


def test_a_photo_that_cannot_be_read_is_refused_by_name_or_passed_over(images):
    folder, names, pixels = images
    (folder / "b" / "f.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")

    with pytest.raises(DataError, match=r"b/f\.png: .*--skip-unreadable"):
        read(folder, GREY)

    inputs, indices, files, notes = read(folder, GREY, skip_unreadable=True)
    left = [0, 1, 2, 4, 5, 6]
    assert torch.equal(inputs, pixels[left])
    assert (indices, files) == (left, [names[i] for i in left])
    assert notes[-1].startswith("1 of 7 photos could not be read and is left out: ")
    assert "b/f.png" in notes[-1]


def test_a_folder_of_nothing_that_can_be_read_is_refused_all_the_same(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")

    with pytest.raises(DataError, match="none of the photos can be read"):
        read(tmp_path, GREY, skip_unreadable=True)


def test_a_photo_that_claims_too_many_pixels_is_refused_before_they_are_made(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    assert len(read(tmp_path, GREY)[0]) == 1
    monkeypatch.setattr(image_file, "MAX_PIXELS", 9_999)

    with pytest.raises(DataError, match=r"bomb\.png: has 100x100 pixels; at most 9999 are read"):
        read(tmp_path, GREY)


def test_postscript_under_the_name_of_an_image_is_refused(tmp_path):
    """The control: Pillow takes it for a page, and would start Ghostscript to draw it."""
    path = tmp_path / "a.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as image:
        assert image.format == "EPS"

    with pytest.raises(DataError, match=r"a\.png: is no image that can be read"):
        read(tmp_path, GREY)


def test_photos_that_are_decoded_side_by_side_have_no_more_pixels_than_one_may(monkeypatch):
    monkeypatch.setattr(photos, "MAX_PIXELS", 10)
    room = photos._PixelRoom()
    with room.hold(6):
        pass  # what was given back is there again
    with room.hold(6), room.hold(4):
        entered = threading.Event()

        def hold():
            with room.hold(1):
                entered.set()

        thread = threading.Thread(target=hold)
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(60)
    thread.join()
    with room.hold(11):
        assert room._held == 11  # one that is too large has its turn alone
    assert room._held == 0


def test_no_link_to_a_folder_is_followed(images, tmp_path):
    folder, _, pixels = images
    (tmp_path / "other").mkdir()
    Image.new("L", (5, 4)).save(tmp_path / "other" / "x.png")
    (folder / "away").symlink_to(tmp_path / "other")

    assert torch.equal(read(folder, GREY)[0], pixels)


def test_a_name_is_told_without_what_a_terminal_obeys(tmp_path):
    Image.new("L", (5, 4)).save(tmp_path / "a\x1b[31m\n.png")

    assert read(tmp_path, GREY)[2] == ["a\\x1b[31m\\n.png"]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (ROWS, "the model takes samples of"),
        (SampleForm((2, 4, 5), in_bytes=True), "the model takes samples of"),
        (SampleForm((3, 4, 5), in_bytes=False), "trained on images of float32"),
    ],
)
def test_a_model_that_takes_no_photos_says_so(images, form, message):
    with pytest.raises(DataError, match=message):
        open_source(images[0], form)


# arrays


def as_npz(path, array):
    np.savez(path.with_suffix(".npz"), array)
    return path.with_suffix(".npz")


def as_packed_npz(path, array):
    np.savez_compressed(path.with_suffix(".npz"), array)
    return path.with_suffix(".npz")


def as_npy(path, array):
    np.save(path.with_suffix(".npy"), array)
    return path.with_suffix(".npy")


def as_safetensors(path, array):
    save_file({"x": torch.from_numpy(array.copy())}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_idx(path, array, pack=lambda data: data):
    kinds = {"uint8": 8, "float32": 13, "float64": 14}
    head = bytes((0, 0, kinds[array.dtype.name], array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(pack(head + array.astype(array.dtype.newbyteorder(">")).tobytes()))
    return path


def as_packed_idx(path, array):
    return as_idx(path.with_suffix(".gz"), array, gzip.compress)


FILES = [as_npz, as_packed_npz, as_npy, as_safetensors, as_idx, as_packed_idx]


@pytest.mark.parametrize("save", FILES)
@pytest.mark.parametrize("form", [GREY, COLOUR, ROWS])
def test_every_kind_of_file_gives_what_is_in_it(tmp_path, save, form):
    array = some_rows() if form is ROWS else some_bytes(7, *form.shape)

    inputs, indices, files, _ = read(save(tmp_path / "data", array), form)

    assert torch.equal(inputs, torch.from_numpy(array))
    assert (indices, files) == (list(range(7)), [])


@pytest.mark.parametrize("save", FILES)
def test_a_file_that_is_cut_short_is_refused(tmp_path, save):
    path = save(tmp_path / "data", some_rows(5000))
    path.write_bytes(path.read_bytes()[:-400])

    with pytest.raises(DataError, match=str(path)):
        read(path, ROWS, 1000)


def test_a_damaged_number_is_found_by_the_checksum(tmp_path):
    path = as_npz(tmp_path / "data", some_rows(500))
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)

    with pytest.raises(DataError, match="Bad CRC-32"):
        read(path, ROWS, 100)


@pytest.mark.parametrize(
    ("array", "form"),
    [
        (some_bytes(7, 4, 5), GREY),
        (some_bytes(7, 4, 5, 1), GREY),
        (some_bytes(7, 4, 5, 3), COLOUR),
        (some_bytes(7, 20), GREY),
        (some_bytes(7, 4, 5).astype(np.int64), GREY),
        (some_rows().astype(">f8"), ROWS),
        (some_bytes(7, 3), ROWS),
        (np.asfortranarray(some_rows()), ROWS),
    ],
)
def test_other_layouts_and_types_become_the_models(tmp_path, array, form):
    inputs = read(as_npz(tmp_path / "data", array), form)[0]

    expected = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    assert torch.equal(inputs.double(), torch.from_numpy(expected.astype(float).reshape(inputs.shape)))


@pytest.mark.parametrize(
    ("array", "form", "message"),
    [
        (
            some_bytes(7, 5, 4),
            GREY,
            r"each sample is of shape \(5, 4\); the model needs \(1, 4, 5\) of uint8",
        ),
        (some_rows()[:, :2], ROWS, r"each sample is of shape \(2,\); the model needs \(3\) of float32"),
        (some_rows()[0], ROWS, r"is of shape \(3,\), one sample; give \(1, 3\)"),
        (some_rows()[:0], ROWS, "is empty"),
        (np.zeros((7, 4, 5)), GREY, "is of torch.float64, and the model takes images of bytes"),
        (some_bytes(7, 3, 4, 5), SampleForm((3, 4, 5), in_bytes=False), "takes images of float32"),
        (np.array(["a", "b"]), ROWS, "has dtype <U1; expected numbers"),
        (np.array([None]), ROWS, "has dtype object; expected numbers"),
    ],
)
@pytest.mark.parametrize("save", [as_npz, as_npy])
def test_what_does_not_fit_is_told_before_a_sample_is_read(tmp_path, save, array, form, message):
    with pytest.raises(DataError, match=message):
        open_source(save(tmp_path / "data", array), form)


@pytest.mark.parametrize(
    ("value", "form", "message"),
    [
        (np.nan, ROWS, "sample 5, counted from 0, holds nan, which is not finite"),
        (1e300, ROWS, "too large for float32"),
        (256, GREY, "sample 5, counted from 0, holds 256, which is no byte"),
        (-1, GREY, "sample 5, counted from 0, holds -1, which is no byte"),
    ],
)
def test_a_number_that_does_not_fit_is_told_with_its_sample(tmp_path, value, form, message):
    array = np.zeros((7, *form.shape), np.int64 if form.in_bytes else np.float64)
    array[5].flat[1] = value

    with pytest.raises(DataError, match=message):
        read(as_npz(tmp_path / "data", array), form)


def test_nothing_is_unpickled(tmp_path):
    """The control unpickles it, and it acts."""

    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "struck"),))

    path = tmp_path / "data.npz"
    np.savez(path, np.array([Attack()]), allow_pickle=True)

    with pytest.raises(DataError, match="has dtype object"):
        open_source(path, ROWS)
    assert not (tmp_path / "struck").exists()

    with zipfile.ZipFile(path) as archive:
        member = archive.read("arr_0.npy")
    pickle.loads(member[member.index(b"\n") + 1 :])  # noqa: S301 - the control
    assert (tmp_path / "struck").exists()


@pytest.mark.parametrize("save", [as_packed_npz, as_packed_idx])
def test_a_file_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path, save, monkeypatch):
    array = np.zeros((5000, 3), np.float32)
    path = save(tmp_path / "data", array)
    assert len(read(path, ROWS, 5000)[0]) == 5000
    monkeypatch.setattr(stored_array, "_LARGE_BYTES", 10_000)

    with pytest.raises(DataError, match=r"claim to unpack to 60,000, over 100 times as many"):
        open_source(path, ROWS)

    # As large, but of something.
    assert len(read(save(tmp_path / "other", some_rows(5000)), ROWS, 5000)[0]) == 5000


def test_a_lie_about_the_packed_size_does_not_hide_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_array, "_LARGE_BYTES", 10_000)
    path = as_packed_npz(tmp_path / "data", np.zeros((5000, 3), np.float32))
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 20 : directory + 24] = struct.pack("<I", 50_000)
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].compress_size == 50_000

    with pytest.raises(DataError, match="claim to unpack to 60,000"):
        open_source(path, ROWS)


def test_an_array_whose_header_claims_more_than_the_file_holds_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)}
    )
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(12))

    with pytest.raises(DataError, match="needs 12,000,000,000,000 bytes, it holds 12"):
        open_source(path, ROWS)


def test_a_member_that_numpy_would_not_have_packed_so_is_refused(tmp_path):
    data = io.BytesIO()
    np.save(data, some_rows())
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", data.getvalue())

    with pytest.raises(DataError, match="packed in a way that numpy does not write"):
        open_source(path, ROWS)


def test_which_array_of_several_is_read_is_chosen_or_told(tmp_path):
    path = tmp_path / "data.npz"
    rows = some_rows()
    np.savez(path, inputs=rows, targets=np.arange(7), more=rows + 1)

    inputs, _, _, notes = read(path, ROWS)
    assert torch.equal(inputs, torch.from_numpy(rows))
    assert notes == [f"{path}: 'inputs' is read, and not 'targets', 'more' (--key)"]
    assert torch.equal(read(path, ROWS, key="more")[0], torch.from_numpy(rows + 1))
    with pytest.raises(DataError, match=r"holds no array 'mor'; .*more"):
        open_source(path, ROWS, key="mor")

    np.savez(path, x=rows, y=np.arange(7))
    assert read(path, ROWS)[3] == [f"{path}['x'] is read, the only array that fits the model"]
    np.savez(path, x=rows, y=rows)
    with pytest.raises(DataError, match=r"several arrays fit the model: .*\['x'\], .*\['y'\]; name one"):
        open_source(path, ROWS)
    np.savez(path, x=rows[:, :2], y=np.arange(7))
    with pytest.raises(DataError, match="no array fits the model"):
        open_source(path, ROWS)


@pytest.mark.parametrize("key", ["x", "targets"])
def test_a_tensor_that_is_not_the_last_of_its_file_ends_where_it_ends(tmp_path, key):
    path = tmp_path / "data.safetensors"
    tensors = {"x": torch.arange(21.0).view(7, 3), "targets": torch.arange(6.0).view(2, 3).half()}
    save_file(tensors, path)

    assert torch.equal(read(path, ROWS, key=key)[0], tensors[key].float())


# tables


def test_a_table_is_read_with_or_without_names_and_empty_lines(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('﻿a,b,"c, d"\r\n1,2.5,-3e2\r\n\r\n "4" ,5,6\n7,8,9', encoding="utf-8")
    expected = torch.tensor([[1, 2.5, -300], [4, 5, 6], [7, 8, 9]])

    assert torch.equal(read(path, ROWS, 2)[0], expected)

    tabs = tmp_path / "data.tsv"
    tabs.write_text("1\t2.5\t-300\n4\t5\t6\n7\t8\t9\n")
    assert torch.equal(read(tabs, ROWS, 2)[0], expected)


def test_a_table_of_bytes_becomes_images(tmp_path):
    array = some_bytes(5, 20)
    np.savetxt(tmp_path / "data.csv", array, fmt="%d", delimiter=",")

    assert torch.equal(read(tmp_path / "data.csv", GREY)[0], torch.from_numpy(array).view(5, 1, 4, 5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "line 2: holds 2 numbers; the model needs 3"),
        ("1,2,3\n4,5,6,7\n", "line 2: holds 4 numbers"),
        ("1,2,3\n4,,6\n", "line 2: '' is no number"),
        ("1,2,3\n4,x,6\n", "line 2: 'x' is no number"),
        ("a,b,c\nd,e,f\n", "line 2: 'd' is no number"),
        ("1,2,3\n4,nan,6\n", "sample 1, counted from 0, holds nan"),
        ("a,b,c\n", "holds no row of numbers"),
        ("", "holds no row of numbers"),
        ("1,2,3\n" + "0" * 70_000, "line 2: is longer than 65,536 bytes"),
        (b"1,2,3\n\xff\xfe,1,2\n", "is no text in UTF-8"),
    ],
)
def test_a_row_that_does_not_fit_is_told_with_its_line(tmp_path, text, message):
    path = tmp_path / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(DataError, match=message):
        read(path, ROWS, 2)


# values of Python


def test_arrays_and_batches_in_memory_are_taken(tmp_path):
    rows = torch.from_numpy(some_rows())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, torch.arange(7)), batch_size=5)

    for data in (rows, rows.numpy(), rows.double(), iter(rows.split(2)), list(rows.numpy()[None]), loader):
        inputs, indices, _, _ = read(data, ROWS)
        assert torch.equal(inputs, rows)
        assert indices == list(range(7))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "not one batch"),
        (iter(()), "not one batch"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], r"batch 1: each sample is of shape \(4,\)"),
        ([torch.zeros(3)], r"batch 0: is of shape \(3,\), one sample"),
        ([1, 2], "batch 0: is a int"),
        (3, "the data are a int"),
        ({"x": 1}, "the data are a dict"),
        (torch.zeros(2, 3).to_sparse(), "sparse"),
    ],
)
def test_values_that_do_not_fit_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        read(data, ROWS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.npz", "no such file or folder"),
        ("data.txt", "is of no kind that can be read"),
        ("empty", "holds no images"),
    ],
)
def test_a_path_that_cannot_be_read_is_refused(tmp_path, name, message):
    (tmp_path / "data.txt").write_text("hello")
    (tmp_path / "empty").mkdir()

    with pytest.raises(DataError, match=message):
        open_source(tmp_path / name, ROWS)


def test_a_key_is_for_files_that_hold_several_arrays():
    with pytest.raises(DataError, match=r"key 'x' is given, which names an array of a \.npz"):
        open_source(torch.zeros(1, 3), ROWS, key="x")


def test_several_files_have_to_be_images(tmp_path):
    with pytest.raises(DataError, match="of several files each has to be an image"):
        open_source([tmp_path / "a.npz", tmp_path / "b.png"], GREY)
