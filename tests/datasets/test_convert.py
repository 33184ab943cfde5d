"""Arrays of every kind: taken as the numbers that they are, or refused with dtype and remedy."""

import sys

import numpy as np
import pytest
import torch

from ringfence import DataError
from ringfence.datasets.convert import to_float32, to_tensor
from ringfence.datasets.dataset_registry import load_data
from ringfence.engine.data import Dataset

VALUES = np.arange(-6, 6, dtype=float).reshape(4, 3) / 4
LABELS = np.arange(4) % 2
TENSOR = torch.tensor(VALUES)

TAKEN = {
    "big endian": VALUES.astype(">f4"),
    "other endian": VALUES.astype("<f8"),
    "half": VALUES.astype("f2"),
    "long double": VALUES.astype(np.longdouble),
    "transposed": np.asfortranarray(VALUES),
    "backwards": VALUES[::-1][::-1],
    "in steps": np.repeat(VALUES, 2, axis=1)[:, ::2],
    "field": np.rec.fromarrays([VALUES], names="a")["a"],
    "read-only": np.frombuffer(VALUES.tobytes()).reshape(4, 3),
    "unaligned": np.frombuffer(b"x" + VALUES.tobytes(), offset=1).reshape(4, 3),
    "matrix": VALUES.view(np.matrix),
    "nothing masked": np.ma.masked_array(VALUES),
    "tensor": TENSOR,
    "tensor of bfloat16": TENSOR.bfloat16(),
    "tensor of float16": TENSOR.half(),
    "tensor of float8": TENSOR.to(torch.float8_e4m3fn),
    "tensor with gradient": TENSOR.clone().requires_grad_(),
    "parameter": torch.nn.Parameter(TENSOR),
    "negated view": torch.complex(TENSOR, -TENSOR).conj().imag,
}


@pytest.fixture
def quiet(recwarn):
    """Whatever numpy and torch would warn of is the reader's matter."""
    yield
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("kind", TAKEN)
def test_numbers_of_any_kind_are_taken(kind):
    tensor = to_float32(to_tensor(TAKEN[kind], "x"), "x")
    assert tensor.dtype == torch.float32
    assert not tensor.requires_grad
    assert torch.equal(tensor, TENSOR.float())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    "labels",
    [
        *map(LABELS.astype, ("?", "i1", ">i2", "u1", ">u2", "u4", "u8", ">i8", "f2", ">f8", "g")),
        *(LABELS[:, None], LABELS[::-1][::-1], torch.tensor(LABELS).bfloat16(), torch.tensor(LABELS).bool()),
    ],
)
def test_labels_of_any_kind_are_taken(labels, monkeypatch, tmp_path):
    data = load(monkeypatch, tmp_path, VALUES, labels, task="classification")
    assert data.train.targets.tolist() == data.test.targets.tolist() == [0, 1, 0, 1]


def test_a_file_that_is_mapped_is_read_into_memory(tmp_path):
    mapped = np.memmap(tmp_path / "x", dtype="f8", mode="w+", shape=(4, 3))
    mapped[:] = VALUES
    tensor = to_tensor(mapped, "x")
    mapped[:] = 0
    assert torch.equal(tensor, TENSOR)


def test_plain_memory_is_not_copied():
    assert to_tensor(VALUES, "x").data_ptr() == VALUES.__array_interface__["data"][0]
    assert to_tensor(TENSOR, "x").data_ptr() == TENSOR.data_ptr()


#: Classes that have names are numbered; of inputs that would make ranks of numbers.
TEXT = {
    "inputs": r"expected numbers: give numbers, as values\.astype\('float32'\) are$",
    "targets": "np.unique",
}
REFUSED = {
    "complex": (lambda: VALUES.astype(complex), "complex128", "real and imaginary parts"),
    "dates": (lambda: np.array(["2020-01-01"] * 4, "M8[D]"), r"datetime64\[D\]", "timedelta64"),
    "spans of time": (lambda: np.ones(4, "m8[s]"), r"timedelta64\[s\]", "timedelta64"),
    "objects": (lambda: np.array([[1], [1, 2], 3, 4], object), "object", "np.stack"),
    "text": (lambda: np.array(["a"] * 4), "<U1", TEXT),
    "bytes": (lambda: np.array([b"a"] * 4), "S1", TEXT),
    "records": (lambda: np.zeros(4, [("a", "f4"), ("b", "i4")]), "'a', '<f4'", "structured_to_unstructured"),
    "raw": (lambda: np.zeros(4, "V4"), "V4", "array of one type of number"),
    "missing": (lambda: np.ma.masked_array([1.0, 2, 3, 4], [0, 1, 0, 0]), "float64", "filled"),
    "too large": (lambda: np.full(4, 2**64 - 1, "u8"), "uint64", "too large for int64"),
    "far too large": (
        lambda: np.full((4, 3), np.longdouble("1e4000")),
        "float128",
        r"1e\+4000, too large",
    ),
    "quantized": (
        lambda: torch.quantize_per_tensor(TENSOR.float(), 1, 0, torch.qint8),
        "qint8",
        "dequantize",
    ),
    "meta": (lambda: TENSOR.to("meta"), "torch.float64", "make them on the cpu"),
    "sparse": (TENSOR.to_sparse, "torch.float64", "to_dense"),
    "sparse rows": (TENSOR.to_sparse_csr, "torch.float64", "to_dense"),
    "nested": (
        lambda: torch.nested.nested_tensor([TENSOR[0], TENSOR[1, :2]]),
        "torch.float64",
        "pad them",
    ),
    "complex tensor": (lambda: TENSOR.to(torch.complex64), "torch.complex64", "real and imaginary parts"),
    "bits": (lambda: torch.empty(4, 3, dtype=torch.bits8), "torch.bits8", "plain tensor"),
    "list": (lambda: [1, 2, 3, 4], "a list", r"numpy\.asarray"),
    "nothing": (lambda: None, "a NoneType", r"numpy\.asarray"),
}


def load(monkeypatch, folder, *train, test=None, task="auto"):
    """Return what a function of the user's, which returns these, gives."""
    monkeypatch.syspath_prepend(folder)
    (folder / "held_arrays.py").write_text("parts = []\ndef give():\n    return parts\n")
    monkeypatch.delitem(sys.modules, "held_arrays", raising=False)
    __import__("held_arrays").parts[:] = [train, test or train]
    return load_data("held_arrays:give", {}, base=folder, task=task)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of what is a prototype in torch
@pytest.mark.parametrize("part", ["training", "test"])
@pytest.mark.parametrize("what", ["inputs", "targets"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_numbers_is_refused_in_a_line_with_dtype_and_remedy(
    kind, what, part, monkeypatch, tmp_path
):
    make, dtype, remedy = REFUSED[kind]
    value = make()
    pair = (value, LABELS) if what == "inputs" else (VALUES, value)
    good = (VALUES, LABELS)
    train, test = (pair, good) if part == "training" else (good, pair)
    with pytest.raises(DataError, match=rf"data 'held_arrays:give': {part} {what}: .*{dtype}") as caught:
        load(monkeypatch, tmp_path, *train, test=test)
    assert caught.match(remedy[what] if isinstance(remedy, dict) else remedy)
    assert "\n" not in str(caught.value)


def test_a_single_number_is_no_data(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"inputs of shape \(\) and targets of shape \(4,\)"):
        load(monkeypatch, tmp_path, np.array(3.0), LABELS)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda inputs: inputs.to("meta"), "inputs of dtype torch.float32 are on the device meta"),
        (lambda inputs: inputs.to_sparse(), "inputs of dtype torch.float32 are sparse"),
        (lambda inputs: inputs.requires_grad_(), r"have a gradient; give .detach\(\).cpu\(\) of them"),
    ],
)
def test_data_that_users_make_lie_in_plain_memory(change, said):
    with pytest.raises(DataError, match=said):
        Dataset(change(TENSOR.float()), torch.tensor(LABELS), 2)
