"""Images deeper than bytes, and what is said of those that are not read."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from ringfence import DataError
from ringfence.datasets.dataset_registry import load_data
from ringfence.datasets.image_file import read_image
from ringfence.engine.preprocessing import Preprocessing
from ringfence.inference.inputs.open_source import open_source
from ringfence.inference.inputs.sample_form import SampleForm
from ringfence.tracking.preprocessing_file import read_preprocessing, write_preprocessing


def grey(seed=0, size=(4, 6)):
    return np.random.default_rng(seed).integers(0, 65536, size, np.uint16)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pgm":
        header = f"P5 {pixels.shape[1]} {pixels.shape[0]} 65535\n".encode()
        path.write_bytes(header + pixels.astype(">u2").tobytes())
    else:
        Image.fromarray(pixels).save(path)


def scan(path, pixels, *, slope=1, intercept=-1024, syntax=ExplicitVRLittleEndian, **tags):
    """Write what a scanner does: whole numbers, which slope and intercept make Hounsfield units of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelRepresentation = int(pixels.dtype.kind == "i")
    image.RescaleSlope, image.RescaleIntercept = slope, intercept
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    image.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    for name, value in tags.items():
        setattr(image, name, value)
    if syntax == RLELossless:
        image.compress(RLELossless)
    pydicom.dcmwrite(path, image)


def load(path, **options):
    return load_data("folder", {"path": ".", **options}, base=path)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
@pytest.mark.parametrize("greyscale", [False, True])
def test_grey_images_of_16_bits_keep_their_depth(tmp_path, ending, greyscale):
    pixels = [grey(i) for i in range(4)]
    for i, image in enumerate(pixels):
        save(tmp_path / "train" / "a" / f"{i}.{ending}", image)
    save(tmp_path / "test" / "a" / f"0.{ending}", pixels[0])

    data = load(tmp_path, greyscale=greyscale)

    expected = torch.from_numpy(np.stack(pixels).astype(np.float32) / np.float32(65535))
    assert data.train.inputs.dtype == torch.float32
    assert torch.equal(data.train.inputs, expected[:, None].expand(-1, 1 if greyscale else 3, -1, -1))
    assert data.mean[0] == pytest.approx(expected.double().mean().item(), rel=1e-9)
    assert data.std[0] == pytest.approx(expected.double().std(correction=0).item(), rel=1e-9)
    assert f"{tmp_path}: images are of 16 bits a channel: numbers are value / 65535, and keep that depth" in [
        data.notes[0],
        f"{tmp_path}: {data.notes[1]}",
    ]


def test_resizing_keeps_the_depth(tmp_path):
    """A mean of 0 and 257 is no number that 8 bits could be."""
    for part in ("train", "test"):
        save(tmp_path / part / "a" / "0.png", np.array([[0, 257], [0, 257]], np.uint16))

    inputs = load(tmp_path, size=[2, 1], greyscale=True).train.inputs

    assert torch.equal(inputs * 65535, torch.full((1, 1, 2, 1), 128.5))


def test_depths_in_one_folder_are_not_mixed(tmp_path):
    save(tmp_path / "a" / "0.png", grey())
    save(tmp_path / "a" / "1.png", grey().astype(np.uint8))

    with pytest.raises(
        DataError, match=r"1\.png: is of 8 bits a channel, .*0\.png of 16 bits a channel; write"
    ):
        load(tmp_path)


@pytest.mark.parametrize("ending", ["png", "ppm"])
def test_colour_of_16_bits_is_read_as_8_and_that_is_told(tmp_path, ending):
    path = tmp_path / "a" / f"0.{ending}"
    path.parent.mkdir()
    if ending == "ppm":
        path.write_bytes(b"P6 2 1 65535\n" + np.full(6, 0x1234, ">u2").tobytes())
    else:
        import cv2

        cv2.imwrite(str(path), np.full((1, 2, 3), 0x1234, np.uint16))
    (tmp_path / "a" / f"1.{ending}").write_bytes(path.read_bytes())

    data = load(tmp_path, test_fraction=0.5)

    assert data.train.inputs.dtype == torch.uint8
    assert data.train.inputs.unique().tolist() == [0x12]
    assert f"2 images in colour of 16 bits a channel, read as 8: the first is {path}" in data.notes


def test_a_kind_that_cannot_be_told_to_be_8_or_16_bits_is_refused(tmp_path):
    path = tmp_path / "a" / "0.tif"
    save(path, np.zeros((2, 2), np.float32))

    with pytest.raises(DataError, match=r"0\.tif: is of mode F; convert it to 8 or 16 bits a channel"):
        load(tmp_path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_dicom_is_read_in_a_window_of_its_own_unit(tmp_path, syntax, dtype):
    stored = np.array([[0, 904, 1064, 1224, 30_000]], dtype)
    for i in range(2):
        scan(tmp_path / "a" / f"{i}.dcm", stored, syntax=syntax, WindowCenter=[0, 40], WindowWidth=[200, 400])

    def read(**options):
        return load(tmp_path, greyscale=True, test_fraction=0.5, normalize="none", **options)

    # -1024, -120, 40, 200 and 28976 Hounsfield units.
    assert read(window=[40, 400]).train.inputs.flatten().tolist() == pytest.approx([0, 0.1, 0.5, 0.9, 1])
    assert read(window="file").train.inputs.flatten().tolist() == pytest.approx([0, 0, 0.7, 1, 1])
    least = 0 if dtype is np.uint16 else -(2**15)
    whole = read()
    shares = (stored[0].astype(float) - least) / 65535
    assert whole.train.inputs.flatten().tolist() == pytest.approx(shares.tolist())
    assert any(
        "images are DICOM: all that the numbers of a file can be becomes 0 to 1" in n for n in whole.notes
    )


def test_where_large_numbers_mean_dark_an_image_is_turned_round(tmp_path):
    for i in range(2):
        scan(
            tmp_path / "a" / f"{i}.dcm",
            np.array([[0, 65535]], np.uint16),
            PhotometricInterpretation="MONOCHROME1",
        )

    assert load(tmp_path, greyscale=True, test_fraction=0.5).train.inputs.flatten().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda path: scan(path, grey(), syntax=RLELossless),
            r"is compressed \(RLE Lossless\), and only plain",
        ),
        (lambda path: scan(path, grey(), syntax=DeflatedExplicitVRLittleEndian), "is compressed .Deflated"),
        (
            lambda path: scan(path, grey(), NumberOfFrames=3),
            "holds 3 images; write each to a file of its own",
        ),
        (lambda path: scan(path, grey(), Rows=60_000, Columns=60_000), "has 60000x60000 pixels; at most"),
        (lambda path: scan(path, grey(), Rows=5), "is damaged: .*bytes"),
        (lambda path: scan(path, grey(), slope=0), "is damaged: its slope is 0"),
        (
            lambda path: scan(path, grey(), PhotometricInterpretation="RGB", SamplesPerPixel=3),
            "is in colour .RGB",
        ),
        (lambda path: scan(path, grey()), "tells no window of its own; give option 'window', as in"),
        (lambda path: path.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40), "is damaged"),
        (lambda path: path.write_bytes(b"not a scan" * 40), "is no DICOM file; remove or replace it"),
    ],
)
def test_dicom_that_is_not_read_is_told(tmp_path, make, said):
    path = tmp_path / "a" / "0.dcm"
    path.parent.mkdir()
    make(path)

    with pytest.raises(DataError, match=rf"0\.dcm: {said}"):
        load(tmp_path, window="file")


def test_a_strangers_words_come_in_no_warning(tmp_path):
    """The control: pydicom alone prints what the file holds, which may move a terminal's cursor."""
    path = tmp_path / "a" / "0.dcm"
    scan(path, grey())
    path.write_bytes(
        path.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840\x1b[31m008.5.1.4.1.1.2"[:25], 1)
    )
    with pytest.warns(UserWarning, match=r"Invalid value for VR UI: '1\.2\.840\x1b?"):
        pydicom.dcmread(path)

    assert read_image(path, None, greyscale=True).size == (4, 6)


def test_dicom_without_its_extra_is_told(tmp_path, monkeypatch):
    scan(tmp_path / "a" / "0.dcm", grey())
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)

    with pytest.raises(DataError, match=r"0\.dcm: is read with pydicom.*pip install 'ringfence\[dicom\]'"):
        load(tmp_path)


def predict(path, preprocessing, *, shape=(1, 4, 6), in_bytes=False):
    source = open_source(path, SampleForm(shape, in_bytes, preprocessing))
    return torch.cat([chunk.inputs for chunk in source.chunks(2)])


@pytest.mark.parametrize("kind", ["png", "dcm"])
def test_what_a_run_keeps_reads_others_as_its_own_samples_were(tmp_path, kind):
    for part in ("train", "test"):
        path = tmp_path / part / "a" / f"0.{kind}"
        (save if kind == "png" else scan)(path, grey())
    data = load(tmp_path, greyscale=True, **({"window": [20_000, 9_000]} if kind == "dcm" else {}))
    write_preprocessing(tmp_path, data.preprocessing)

    kept = read_preprocessing(tmp_path)

    assert torch.equal(predict(tmp_path / "test", kept), data.test.inputs)
    save(tmp_path / "bytes.png", grey().astype(np.uint8))
    with pytest.raises(DataError, match=r"is of 8 bits a channel, and the model was trained on images of"):
        predict(tmp_path / "bytes.png", kept)
    with pytest.raises(DataError, match="how those were made of bytes is not known here"):
        predict(tmp_path / "test", None)


def test_deep_photos_are_not_cut_for_a_model_of_bytes(tmp_path):
    save(tmp_path / "0.png", grey())

    with pytest.raises(
        DataError, match=r"0\.png: is of 16 bits a channel, and the model was trained on images of 8"
    ):
        predict(tmp_path, None, in_bytes=True)


@pytest.mark.parametrize(
    "state",
    [
        {"kind": "16 bits a channel", "more": 1},
        {"kind": "8 bits a channel"},
        {"kind": "DICOM", "window": [1, 0]},
        {"kind": "DICOM", "window": "mine"},
    ],
)
def test_what_a_stranger_wrote_of_preprocessing_is_checked(tmp_path, state):
    save(tmp_path / "0.png", grey())

    with pytest.raises(DataError, match=r"preprocessing\.json of the run is damaged"):
        predict(tmp_path, Preprocessing("folder", state))
