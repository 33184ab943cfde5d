"""Archives of arrays that may come from anybody."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.tracking import numpy_archive
from ringfence.tracking.numpy_archive import MAX_MEMBERS, DamagedArchiveError, read_archive


def packed(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def zipped(data, name="a.npy", **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


WHOLE = {
    "one": np.int64(7),
    "text": np.array(["", "cat", "Ünïcode"]),
    "row": np.arange(5, dtype=np.int32),
    "table": np.random.default_rng(0).normal(size=(4, 3)),
    "flags": np.array([True, False]),
    "nothing": np.empty((0, 3), np.int64),
}


def test_what_numpy_writes_is_read_back():
    found = read_archive(packed(**WHOLE))

    assert found.keys() == WHOLE.keys()
    for name, array in WHOLE.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.asarray(array).dtype


class _Attack:
    ran = False

    def __reduce__(self):
        return setattr, (_Attack, "ran", True)


def test_nothing_is_unpickled():
    data = packed(a=np.array([_Attack()], dtype=object))
    with np.load(io.BytesIO(data), allow_pickle=True) as archive:
        archive["a"]
    assert _Attack.ran  # numpy, told to, runs it

    _Attack.ran = False
    for evil in (data, zipped(pickle.dumps(_Attack()))):
        with pytest.raises(DamagedArchiveError, match="no plain array"):
            read_archive(evil)
    assert not _Attack.ran


def header(descr, shape, data=b""):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no whole archive"),
        (b"PK\x03\x04", "no whole archive"),
        (packed(**WHOLE)[:-40], "no whole archive"),
        (zipped(b"\x93NUMPY"), "no plain array"),
        (zipped(header("<f8", "(999999999999,)")), "not as long as it says"),
        (zipped(header("<f8", "(999999999999, 999999999999)")), "not as long as it says"),
        (zipped(header("<f8", "(1,)", b"1234567")), "not as long as it says"),
        (zipped(header("|O8", "(1,)", b"12345678")), "no plain array"),
        (zipped(header("<f8", "(" * 500)), "no plain array"),
        (zipped(header("<f8", "(2, 2, 2)", bytes(64))), "no plain array"),
        (zipped(header(">f8", "(1,)", bytes(8))), "no plain array"),
        (zipped(header("<f8", "(1,)", bytes(8)), compression=zipfile.ZIP_LZMA), "compressed in another way"),
        (packed(**{f"a{i}": np.int64(i) for i in range(MAX_MEMBERS + 1)}), "more than 64 members"),
        # Before the list is read, of which zipfile would make an object an entry.
        (b"PK\x01\x02" * (MAX_MEMBERS + 1), "more than 64 members"),
    ],
)  # fmt: skip
def test_what_is_no_archive_of_arrays_is_refused(data, why):
    with pytest.raises(DamagedArchiveError, match=why):
        read_archive(data)


def test_a_bomb_is_unpacked_no_further_than_the_bound(monkeypatch):
    monkeypatch.setattr(numpy_archive, "MAX_UNPACKED_BYTES", 1 << 20)
    fits = zipped(header("|u1", f"({1 << 19},)", bytes(1 << 19)), compression=zipfile.ZIP_DEFLATED)
    assert read_archive(fits)["a"].nbytes == 1 << 19

    bomb = zipped(bytes(1 << 26), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 17
    with pytest.raises(DamagedArchiveError, match="larger than 1 MiB"):
        read_archive(bomb)
    # What the directory says of the length counts for nothing: 2 MiB that are said to be 5 bytes.
    liar = bytearray(zipped(bytes(1 << 21), compression=zipfile.ZIP_DEFLATED))
    for place in range(len(liar) - 3):
        if liar[place : place + 4] == (1 << 21).to_bytes(4, "little"):
            liar[place : place + 4] = (5).to_bytes(4, "little")
    with pytest.raises(DamagedArchiveError):
        read_archive(bytes(liar))


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 3000))
def test_a_damaged_archive_is_refused_in_words_or_read(place, value, cut):
    data = bytearray(packed(**WHOLE))
    data[place % len(data)] = value
    try:
        found = read_archive(bytes(data[: max(cut, len(data) // 2)] if cut % 2 else data))
    except DamagedArchiveError:
        return
    assert all(isinstance(array, np.ndarray) for array in found.values())
